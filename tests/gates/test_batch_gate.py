"""The launches of `sparse_attn`, compiled for Ascend: they keep the gate's claims."""

from __future__ import annotations

import pytest

from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates.ascend import compiler
from dsv4_kernels.gates.ascend.gate import hold
from dsv4_kernels.gates.ascend.launches import part_target
from dsv4_kernels.gates.chunk import record_batch
from dsv4_kernels.segments import SEGMENTS

# (preset, part, capacity, kind of layer): a list of slots, none, and no slots.
BATCHES = (
    ("FLASH", "Ascend910B3", 8, "CSA"),
    ("PRO", "Ascend910_9392", 64, "HCA"),
    ("FLASH", "Ascend910_9392", 64, "SWA"),
)


@pytest.mark.parametrize(
    ("preset", "part", "capacity", "layer"), BATCHES, ids=lambda value: str(value)
)
def test_a_batch_keeps_its_claims(preset, part, capacity, layer):
    target, driver = part_target(part), compiler.driver(part)
    kernels = record_batch(target, driver, PRESETS[preset], tokens=capacity, layer=layer)
    own = [name for name in SEGMENTS if name != "resolve_slots"]
    assert sorted(k.segment for k in kernels) == sorted(["token_map", "resolve_requests", *own])
    for kernel in kernels:
        row = hold(kernel, preset, part)
        assert not row.breaches, (row.segment, row.breaches)
        assert row.minimum_bytes > 0
