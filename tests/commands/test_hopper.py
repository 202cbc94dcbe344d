"""What ``hopper`` compiles and prints: verdicts that are made up here, so nothing is compiled."""

import dataclasses
import json

import pytest
from tables import rows

from dsv4_kernels.__main__ import main
from dsv4_kernels.commands import hopper
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates import batches
from dsv4_kernels.gates.batches import Batch
from dsv4_kernels.gates.hopper.gate import HopperRow
from dsv4_kernels.gates.hopper.ptxas import Assembly
from dsv4_kernels.segments import segments_on
from dsv4_kernels.segments.proj_a import ProjATiles

WGMMA = {"m64n64k16.f32.bf16.bf16": 4, "m64n128k32.s32.s8.s8": 3}
PROJ_A = HopperRow(
    "proj_a", "proj_a[0:4]", "", (), 2, 160, 8, 4, 2560, Assembly(96, 6, 8), WGMMA, 5
)
PROJ_B = HopperRow("proj_b", "proj_b", "", ("too large", "no room"))

TILES = {"proj_a": dataclasses.replace(ProjATiles.cuda(), num_stages=5)}


@pytest.fixture
def asked(monkeypatch):
    """What the command wants held, each answered by two rows, the second broken."""
    asked = []

    def held(name, *wanted):
        asked.append((name, *wanted))
        name = getattr(name, "name", name)
        return [dataclasses.replace(row, preset=name) for row in (PROJ_A, PROJ_B)]

    monkeypatch.setattr(hopper, "hold_chunk", held)
    monkeypatch.setattr(hopper, "hold_batch", held)
    monkeypatch.setattr(hopper, "in_parallel", map)
    monkeypatch.setattr(hopper, "require_upstream", lambda: None)
    monkeypatch.setenv("COLUMNS", "200")
    return asked


def test_every_preset_has_a_table_of_the_segments_that_are_asked_for(asked, capsys):
    assert main(["hopper", "--verbose"]) == 1
    assert asked == [(preset, {}) for preset in PRESETS]
    printed = capsys.readouterr().out
    of_a_kernel = "160 8 96 6/8 2.5 5 7 ok 4 4 m64n64k16.f32.bf16.bf16, 3 m64n128k32.s32.s8.s8"
    assert rows(printed, "proj_a[0:4]") == [of_a_kernel] * 2
    assert rows(printed, "proj_b") == ["breach"] * 2
    for preset in PRESETS:
        assert f"{preset}, compiled for Hopper" in printed
        assert f"breach proj_b {preset}: too large\nbreach proj_b {preset}: no room\n" in printed
    call = ["hopper", "--preset", "PRO", "--segment", "proj_a", "--tile", "proj_a.num_stages=5"]
    assert main(call) == 0
    assert asked[2:] == [("PRO", TILES)]
    printed = capsys.readouterr().out
    assert rows(printed, "proj_a[0:4]") == ["160 8 96 6/8 2.5 5 7 ok"]
    assert "proj_b" not in printed


def test_a_batch_is_held_in_place_of_a_chunk(asked, monkeypatch, capsys):
    own = (Batch(64, 8), Batch(128, 512, "HCA", requests=4, sharers=8))
    monkeypatch.setattr(batches, "BATCHES", own)
    assert main(["hopper", "--batch", "--json", "--tile", "proj_a.num_stages=5"]) == 1
    assert asked == [(batch, segments_on("cuda"), TILES) for batch in own]
    said = capsys.readouterr()
    printed = json.loads(said.out)["segments"]
    assert [(row["preset"], row["segment"]) for row in printed] == [
        (batch.name, segment) for batch in own for segment in ("proj_a", "proj_b")
    ]
    assert all(f"breach proj_b {batch.name}: no room\n" in said.err for batch in own)
