"""The launches of `sparse_attn`, compiled for Ascend: they keep the gate's claims."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
import torch

from dsv4_kernels import device, sparse_attn
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates.ascend import compiler, gate
from dsv4_kernels.gates.ascend.launches import PARTS, part_target
from dsv4_kernels.gates.ascend.memory import read_plan
from dsv4_kernels.gates.chunk import Compiled
from dsv4_kernels.inputs.batch import Request, make_batch
from dsv4_kernels.segments import SEGMENTS
from dsv4_kernels.segments.requests import RESOLVE_REQUESTS, TOKEN_MAP

# (preset, part, capacity, positions per compressed slot): a list of slots, none, and no slots.
BATCHES = (
    ("FLASH", "Ascend910B3", 8, 4),
    ("PRO", "Ascend910_9392", 64, 128),
    ("FLASH", "Ascend910_9392", 64, 0),
)
KNOWN = {**SEGMENTS, TOKEN_MAP.name: TOKEN_MAP, RESOLVE_REQUESTS.name: RESOLVE_REQUESTS}


def compiled(preset: str, part: str, capacity: int, ratio: int) -> list[Compiled[Any]]:
    """Every kernel of the batch once, on meta tensors."""
    batch = make_batch(PRESETS[preset], (Request(4000, 1, key=1),), ratio=ratio, capacity=capacity)
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    arguments = {
        name: fields[name].to("meta") if isinstance(fields[name], torch.Tensor) else fields[name]
        for name in inspect.signature(sparse_attn).parameters
        if name in fields
    }
    target, driver = part_target(part), compiler.driver(part)
    driver.launches.clear()
    tiles: dict[str, Any] = {}

    def executor(nodes: Any, waves: Any) -> None:
        for node in nodes:
            if node.name not in tiles:
                tiles[node.name] = KNOWN[node.name].tiles.on(target)
                with device.on(waves[0]["q"]):
                    node.run(waves)

    with device.route("meta", target, driver):
        sparse_attn(**arguments, executor=executor, groups_per_launch=PRESETS[preset].groups)
    return [
        Compiled(name, tiles[name], launch)
        for name, launch in zip(tiles, driver.launches, strict=True)
    ]


@pytest.mark.parametrize(
    ("preset", "part", "capacity", "ratio"), BATCHES, ids=lambda value: str(value)
)
def test_a_batch_keeps_its_claims(preset, part, capacity, ratio):
    kernels = compiled(preset, part, capacity, ratio)
    assert [kernel.segment for kernel in kernels][:2] == ["token_map", "resolve_requests"]
    for kernel in kernels:
        assert not kernel.launch.refusal, kernel.segment
        plan = read_plan(kernel.launch.hivm)
        budget, counts = kernel.tiles.budget(kernel.launch.constants), gate.count_launch(kernel)
        assert not list(gate._breaches(kernel, plan, budget, counts, PARTS[part])), kernel.segment
