"""What attention moves by layer and form: the printed table, and the bounds that it is held to."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from dsv4_kernels.__main__ import main
from dsv4_kernels.commands import ascend
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates.ascend.first_form import first_form
from dsv4_kernels.gates.ascend.layer_table import bound_of, breaches, markdown
from dsv4_kernels.gates.ascend.layers import (
    ATTENTIONS,
    FIXTURE,
    LAYERS,
    TOKENS,
    Layer,
    count_layers,
    resolved,
)

README = Path(__file__).resolve().parents[2] / "dsv4_kernels" / "gates" / "README.md"
FLASH = PRESETS["FLASH"]
SWA, CSA, HCA = Layer("SWA", 4000), Layer("CSA", 4000), Layer("HCA", 131_072 - TOKENS)
UNLINKED = dataclasses.replace(CSA, any_order=True)
SHARED = [dataclasses.replace(layer, sharers=8) for layer in (SWA, HCA)]

# The most that may be moved before proj_a, in parts of what the first form moved: bytes, DMAs of
# the gather, loads of single elements.
HELD = [
    (UNLINKED, 0.80, 1.0, 0.25),
    (CSA, 0.80, 0.85, 0.25),
    *((layer, 0.40, 0.05, 0.05) for layer in SHARED),
    (FIXTURE, 0.50, 0.50, None),
]


def printed() -> list[str]:
    text = README.read_text()
    begin = text.index("\n", text.index("<!-- layers:")) + 1
    return text[begin : text.index("<!-- end of layers")].strip().splitlines()


class Counted(dict):
    """Of FLASH every row, by layer and form; a layer is counted where it is asked for."""

    def __missing__(self, asked):
        rows = count_layers("Ascend910B3", FLASH, [asked[0]])
        self.update(((row.layer, row.attention), row) for row in rows)
        return self[asked]


@pytest.fixture(scope="module")
def counted():
    return Counted()


@pytest.mark.parametrize(("layer", "bytes", "dma", "loads"), HELD)
def test_lanes_move_no_more_than_their_bounds(layer, bytes, dma, loads, counted):
    row = counted[layer, "lanes"]
    assert row.bytes <= bytes * row.first.bytes
    assert row.gather_dma <= dma * row.first.gather_dma
    if loads is not None:
        assert row.scalar_loads <= loads * row.first.scalar_loads
    assert [bound_of("FLASH", row, what) for what in ("bytes", "gather_dma", "scalar_loads")] == [
        bytes, dma, loads,
    ]  # fmt: skip


@pytest.mark.parametrize(("layer", "bytes", "dma", "loads"), HELD)
def test_the_fused_form_is_held_to_what_its_gather_does(layer, bytes, dma, loads, counted):
    """To bytes too where blocks are dead; elsewhere it moves what the first form did."""
    row = counted[layer, "fused"]
    assert row.gather_dma <= dma * row.first.gather_dma
    if loads is not None:
        assert row.scalar_loads <= loads * row.first.scalar_loads
    held = bytes if layer == FIXTURE else None
    assert [bound_of("FLASH", row, what) for what in ("bytes", "gather_dma", "scalar_loads")] == [
        held, dma, loads,
    ]  # fmt: skip
    assert row.bytes <= (held or 1.2) * row.first.bytes


def test_other_cores_move_the_same(counted):
    for row in count_layers("Ascend910_9392", FLASH, [CSA, SHARED[0]]):
        assert row == counted[row.layer, row.attention]


def test_the_printed_table(counted):
    lines = [line for line in printed() if "| PRO |" not in line]
    rows = [counted[layer, form] for layer in LAYERS for form in ATTENTIONS]
    assert markdown({"FLASH": rows}).splitlines() == lines


@pytest.mark.limits
@pytest.mark.parametrize("part", ["Ascend910B3", "Ascend910_9392"])
def test_the_printed_table_of_both_presets(part):
    rows = {preset: [*count_layers(part, PRESETS[preset])] for preset in PRESETS}
    assert markdown(rows).splitlines() == printed()


def test_what_is_above_its_bound_is_a_breach(counted, monkeypatch, capsys):
    """One more than a bound allows, of every quantity; the command says so and fails."""
    row = counted[SHARED[0], "lanes"]
    most = {"bytes": 0.40, "gather_dma": 0.05, "scalar_loads": 0.05}
    at = dataclasses.replace(
        row, **{name: int(share * getattr(row.first, name)) for name, share in most.items()}
    )
    assert [*breaches({"FLASH": [at]})] == []
    above = [dataclasses.replace(at, **{name: getattr(at, name) + 1}) for name in most]
    found = [*breaches({"FLASH": above})]
    assert [words.split(": ")[1].split(" ")[0] for words in found] == [*most]
    assert found[1].startswith("FLASH SWA from 4000 lanes: gather_dma 0.05")
    assert [*breaches({"PRO": above})] == []  # held of FLASH
    for rows, code in (([at], 0), (above, 1)):
        monkeypatch.setattr(ascend, "count_layers", lambda *_, rows=rows: rows)
        assert main(["ascend", "--layers", "--preset", "FLASH"]) == code
        assert ("breach FLASH SWA" in capsys.readouterr().out) == bool(code)


@pytest.mark.parametrize(
    ("preset", "columns", "moved"),
    [
        ("FLASH", 128, (117_998_080, 32_768, 82_560)),
        ("FLASH", 640, (539_001_344, 163_840, 412_288)),
        ("PRO", 384, (505_217_536, 98_304, 247_424)),
        ("PRO", 1152, (1_464_664_576, 294_912, 742_016)),
    ],
)
def test_the_first_form_as_it_was_counted(preset, columns, moved):
    """By this gate at commit c4c8762, the last with that form, every slot live."""
    first = first_form(PRESETS[preset], 128, columns, 128 * columns)
    assert (first.bytes, first.gather_dma, first.scalar_loads) == moved


def test_a_dead_slot_of_the_first_form_was_stored_but_not_loaded():
    """As counted there with 100 live slots a token."""
    whole, some = (first_form(FLASH, 128, 640, 128 * live) for live in (640, 100))
    assert some.gather_dma == 94_720
    assert whole.bytes - some.bytes == 83_886_080 - 13_107_200
    assert some.scalar_loads == whole.scalar_loads


def test_columns_are_the_windows_of_all_sharers_and_the_slots():
    """As the printed table has them too."""
    assert [layer.inputs(FLASH).cmp_sparse_indices.shape[1] for layer in LAYERS] == [
        128, 135, 640, 640, 384, 160, 1152, 1159,
    ]  # fmt: skip


def test_the_links_are_those_of_the_layer():
    """Rows of a window are linked but where the ring ends, the overlay begins or a page does, and
    an indexer's picks are not; a tile of 8 has one row of marks."""
    marks = resolved(CSA.inputs(FLASH))["runs"]
    assert marks.shape == (TOKENS, 40)
    assert (marks[:, 8:] == 0).mean() > 0.99
    last = marks[TOKENS - 1]  # its window is the whole chunk
    assert (last[:8] == 16).all()
    middle = marks[63, :8]  # the ring wraps at 32 + 64 columns, the overlay begins at 64
    assert np.count_nonzero(middle != 16) <= 2
    assert (resolved(UNLINKED.inputs(FLASH))["runs"] == 0).all()
    shared = resolved(SHARED[1].inputs(FLASH), sharers=8)
    assert shared["runs"].shape == (TOKENS // 8, 80)
    assert np.mean(shared["runs"][:, :73] == 16) > 0.8
    assert (shared["live_blocks"] == 10).all()


def test_of_the_seeds_fixture_153_blocks_of_384_are_live():
    inputs = FIXTURE.inputs(FLASH)
    assert inputs.cmp_sparse_indices.shape == (TOKENS, 3 * 128)
    assert resolved(inputs)["live_blocks"].sum() == 153


def test_any_order_names_the_same_rows():
    """Of PRO at 4000 some picks are unused: they stay behind."""
    ordered, shuffled = (layer.inputs(PRESETS["PRO"]) for layer in (CSA, UNLINKED))
    indices = [inputs.cmp_sparse_indices.sort(dim=1).values for inputs in (ordered, shuffled)]
    assert torch.equal(*indices)
    live = [resolved(inputs)["live_slots"] for inputs in (ordered, shuffled)]
    assert np.array_equal(*live)
    assert live[0].min() < 1152
