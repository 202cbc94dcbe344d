"""The launches of `sparse_attn`, compiled for Ascend: they keep the gate's claims."""

from __future__ import annotations

import pytest

from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates.ascend import compiler
from dsv4_kernels.gates.ascend.gate import hold
from dsv4_kernels.gates.ascend.launches import part_target
from dsv4_kernels.gates.chunk import record_batch
from dsv4_kernels.segments import SEGMENTS

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
    own = {*SEGMENTS} - {"resolve_slots"}
    assert {k.segment for k in kernels} == {"token_map", "resolve_requests", *own}
    assert any(k.label == "proj_b_dequant fp32" for k in kernels)
    for kernel in kernels:
        row = hold(kernel, preset, part)
        assert not row.breaches, (row.segment, row.breaches)
        assert row.counts is not None
        if capacity == 8 and row.segment in ("proj_a", "proj_b"):
            # The weights, and 8 rows of activations for 256 or 128 of them.
            assert 1 < row.counts.moved / row.minimum_bytes < 1.07
