"""The launches of `sparse_attn`, compiled for Ascend: they keep the gate's claims."""

from __future__ import annotations

import pytest

from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates.ascend import compiler
from dsv4_kernels.gates.ascend.gate import hold
from dsv4_kernels.gates.ascend.launches import part_target
from dsv4_kernels.gates.chunk import record_batch
from dsv4_kernels.segments import segments_on
from dsv4_kernels.segments.proj_a import ProjATiles

# (heads of a rank, part, capacity, kind of layer): all ranks and kinds, with a list of slots, with
# none, and without slots. The command has the rest of the table.
BATCHES = (
    (8, "Ascend910B3", 8, "CSA"),
    (16, "Ascend910_9392", 64, "CSA"),
    (64, "Ascend910B3", 1, "CSA"),
    (64, "Ascend910_9392", 64, "SWA"),
    (128, "Ascend910_9392", 8, "HCA"),
)


@pytest.mark.parametrize(
    ("heads", "part", "capacity", "layer"), BATCHES, ids=lambda value: str(value)
)
def test_a_batch_keeps_its_claims(heads, part, capacity, layer):
    target, driver = part_target(part), compiler.driver(part)
    preset = "PRO" if heads > PRESETS["FLASH"].heads else "FLASH"
    dims = PRESETS[preset].of_rank(PRESETS[preset].heads // heads)
    kernels = record_batch(target, driver, dims, tokens=capacity, layer=layer)
    own = {*segments_on("npu")} - {"resolve_slots"}
    assert {k.segment for k in kernels} == {"token_map", "resolve_requests", *own}
    assert any(k.label == "proj_b_dequant fp32" for k in kernels)
    for kernel in kernels:
        row = hold(kernel, preset, part)
        assert not row.breaches, (row.segment, row.breaches)
        assert row.counts is not None
        if capacity == 8 and row.segment in ("proj_a", "proj_b"):
            # The weights, and 8 rows of activations for 256 or 128 of them.
            assert 1 < row.counts.moved / row.minimum_bytes < 1.07


def test_narrower_tiles_of_one_group_move_more_than_a_tenth():
    """Of 64 columns proj_a would have 16 of 20 cores busy at 8 tokens, not 8, and read the tokens'
    rows twice as often."""
    target, driver = part_target("Ascend910B3"), compiler.driver("Ascend910B3")
    dims = PRESETS["FLASH"].of_rank(8)
    found = {}
    for block_r in (128, 64):
        tiles = {"proj_a": ProjATiles(block_t=16, block_r=block_r)}
        kernels = record_batch(target, driver, dims, tokens=8, tiles=tiles)
        [kernel] = [k for k in kernels if k.segment == "proj_a"]
        row = hold(kernel, "FLASH", "Ascend910B3")
        assert row.counts is not None
        found[kernel.launch.grid] = row.counts.moved / row.minimum_bytes
    assert found == {8: pytest.approx(1.054, abs=1e-3), 16: pytest.approx(1.116, abs=1e-3)}
