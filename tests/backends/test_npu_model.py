"""Every segment as final Ascend IR on the model of the cores, against the CPU path."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from dsv4_kernels import prefill_sparse_attn
from dsv4_kernels.backends.hivm.report import Stopped
from dsv4_kernels.chains.prefill import SCHEDULES, wave_nodes
from dsv4_kernels.gates.ascend.against_cpu import difference, same_bytes
from dsv4_kernels.gates.ascend.execute import ExecutingDriver, How, execute, executing
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments import SEGMENTS, inverse_rope
from on_model import FULL, PARTIAL, Case, cases

PART = "Ascend910B3"
SMALL = cases(PARTIAL, tokens=5, live=4)


def _full_tiles() -> dict[str, Case]:
    """128 rows of tokens fill a tile of the projections; the others have tiles of their own."""
    few, many = cases(FULL, tokens=8, live=7), cases(FULL, tokens=128, live=127)
    projections = ("proj_a", "proj_b", "proj_b_dequant")
    return {name: (many if name in projections else few)[name] for name in SEGMENTS}


FULL_TILES = _full_tiles()


def on_model(run, how=How()):
    with executing(PART, cube_cores=2, how=how) as reports:
        return run(), reports


@pytest.mark.parametrize("segment", SEGMENTS)
def test_a_segment_equals_the_cpu_path_and_nothing_is_found(segment):
    for run in (SMALL[segment], FULL_TILES[segment]):
        got, (report,) = on_model(run)
        want = run()
        assert not report.findings, report
        for name, value in want.items():
            assert same_bytes(got[name], value), name


def test_only_the_sum_of_pv_is_rounded_otherwise():
    """A head as wide as the models' takes its 128 columns in four parts."""
    run = cases(replace(PARTIAL, head_dim=512), tokens=3, live=2)["qk_softmax_pv"]
    got, (report,) = on_model(run)
    want = run()
    assert not report.findings
    assert [name for name in want if not same_bytes(got[name], want[name])] == ["o"]
    assert difference(got["o"], want["o"]) <= SEGMENTS["qk_softmax_pv"].rounded["o"]


def test_shorter_rows_than_the_contract_takes_would_race(monkeypatch):
    monkeypatch.setattr(inverse_rope, "MIN_ROPE_DIM", 2)
    case = cases(replace(PARTIAL, rope_dim=8), tokens=5, live=4)["inverse_rope"]
    _, (report,) = on_model(case)
    assert {*report.kinds()} == {"race"}


# Poison of another pattern in the plain order, and three random orders.
ORDERS = ((None, 0x7F), (0, 0x7F), (1, 0xFF), (2, 0x00))


@pytest.mark.parametrize("tiles", ["partial", "full"])
@pytest.mark.parametrize("segment", SEGMENTS)
def test_no_poison_and_no_order_changes_a_bit(segment, tiles):
    run = {"partial": SMALL, "full": FULL_TILES}[tiles][segment]
    first, _ = on_model(run, How(checked=False))
    for seed, poison in ORDERS:
        other, _ = on_model(run, How(seed=seed, poison=poison, checked=False))
        assert all(same_bytes(first[name], other[name]) for name in first)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dims", [PARTIAL, FULL], ids=["partial", "full"])
def test_the_chain_equals_the_cpu_path_to_the_bit(dims, schedule, seed):
    inputs = make_inputs(dims, tokens=3, capacity=4, start=600, seed=seed)

    def run():
        return prefill_sparse_attn(*inputs.args(), window=inputs.window, schedule=schedule)

    got, reports = on_model(run)
    assert len(reports) == len(wave_nodes(dims, 4, schedule=schedule))
    assert not any(report.findings for report in reports)
    assert same_bytes(got, run())
    assert got[:3].abs().amax(1).min() > 0


def captured(monkeypatch, segment):
    """A segment's launch, as it is executed."""
    launches = []
    launched = ExecutingDriver.launched
    monkeypatch.setattr(
        ExecutingDriver, "launched", lambda self, x: (launches.append(x), launched(self, x))
    )
    on_model(SMALL[segment])
    return launches[0]


@pytest.mark.parametrize(
    ("segment", "least"), [("qk_softmax_pv", 12), ("group_quant", 10), ("dequant_sum", 8)]
)
def test_missing_waits_are_races(segment, least, monkeypatch):
    launch = captured(monkeypatch, segment)
    waits = [
        number
        for number, line in enumerate(launch.hivm.splitlines(), 1)
        if re.search(r"hir\.(wait_flag|sync_block_wait|pipe_barrier)\[", line)
        and "PIPE_ALL" not in line
    ]
    reported = [n for n in waits if "race" in execute(launch, PART, How(deaf={n})).kinds()]
    assert len(reported) >= least, f"{len(reported)} of {len(waits)}"


@pytest.mark.parametrize(
    ("pattern", "new", "kind"),
    [
        (r"(call @mma_tile_bfloat16_t_to_float_tb\(%\w+, %\w+), %true", r"\1, %false", "unwritten"),
        (r"sync_block_set\[<CUBE>, <PIPE_FIX>", "sync_block_set[<CUBE>, <PIPE_MTE2>", "race"),
        (r"sync_block_set\[<VECTOR>, <PIPE_MTE3>", "sync_block_set[<VECTOR>, <PIPE_V>", "race"),
    ],
)
def test_damage_is_seen_by_its_name(pattern, new, kind, monkeypatch):
    launch = captured(monkeypatch, "qk_softmax_pv")
    damaged, count = re.subn(pattern, new, launch.hivm)
    assert count
    assert kind in execute(replace(launch, hivm=damaged), PART).kinds()


def test_a_flag_that_nobody_sets_is_a_deadlock(monkeypatch):
    launch = captured(monkeypatch, "group_quant")
    line = next(x for x in launch.hivm.splitlines() if "hir.set_flag[" in x)
    with pytest.raises(Stopped, match=r"deadlock.*waits for"):
        execute(replace(launch, hivm=launch.hivm.replace(line, "", 1)), PART)


def test_a_tensor_that_is_too_short_is_out_of_bounds(monkeypatch):
    launch = captured(monkeypatch, "group_quant")
    name = next(k for k, v in launch.arguments.items() if isinstance(v, torch.Tensor))
    cut = launch.arguments[name].reshape(-1)[:-8].clone()
    with pytest.raises(Stopped, match="out of bounds"):
        execute(replace(launch, arguments={**launch.arguments, name: cut}), PART)
