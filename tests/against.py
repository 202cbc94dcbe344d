"""Run the chain, or a segment in poisoned memory and judge it against its reference."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

import dsv4_kernels
from dsv4_kernels import prefill_sparse_attn
from dsv4_kernels.buffers import Buffers
from dsv4_kernels.chains.prefill import ATTENTIONS, SCHEDULES
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs.prefill import PrefillInputs, make_inputs
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.segments import SEGMENTS
from poison import Poison, is_sentinel
from reference.bounds import judge
from reference.chain_bounds import HANDED_ON, judge_chain, whole
from reference.compare import expected

# Options of the chain by name: every schedule, and every form of attention.
FORMS: dict[str, dict[str, str]] = {
    **{schedule: dict(schedule=schedule) for schedule in SCHEDULES},
    **{attention: dict(attention=attention) for attention in [*ATTENTIONS][1:]},
}

OUTPUTS = {name: segment.writes + segment.updates for name, segment in SEGMENTS.items()}


@functools.cache
def full_widths(preset: str, device: torch.device) -> PrefillInputs:
    """Four tokens of a CSA layer, the same for all tests, which only read them: PRO's weights are
    184 million random numbers."""
    return make_inputs(PRESETS[preset], tokens=4, start=5000, device=device)


def chain(inputs: PrefillInputs, **options: Any) -> torch.Tensor:
    """The whole chain; options: more keyword arguments of `prefill_sparse_attn`."""
    return prefill_sparse_attn(*inputs.args(), window=inputs.window, **options)


def check_hand_overs(inputs: PrefillInputs, **options: Any) -> torch.Tensor:
    """The chain's output, once all that it hands on was judged element by element."""
    kept: dict[str, dict[int, torch.Tensor]] = {}

    def executor(nodes: Sequence[Node], waves: Sequence[Buffers]) -> None:
        for node in nodes:
            node.run(waves)
            for name in {*HANDED_ON} & {*node.writes, *node.updates}:
                kept.setdefault(name, {})[node.wave] = waves[node.wave][name].clone()

    out = chain(inputs, executor=executor, **options)
    if kept:
        got = whole({name: [*by_wave.values()] for name, by_wave in kept.items()})
        schedule = options.get("schedule", "decoupled")
        attention = options.get("attention", "fused")
        verdicts = judge_chain(
            inputs.to("cpu").args(), got | {"attn_out": out.cpu()}, window=inputs.window,
            schedule=schedule, attention=attention,
        )  # fmt: skip
        for verdict in verdicts.values():
            assert verdict.holds, str(verdict)
    return out


def run_kernel(
    name: str, inputs: dict[str, Any], poison: Poison, **options: Any
) -> dict[str, torch.Tensor]:
    """The kernel's outputs by buffer name, made in poisoned memory between guard bands."""
    updated = {buffer: poison.copy(inputs[buffer]) for buffer in SEGMENTS[name].updates}
    with poison.allocations():
        made = getattr(dsv4_kernels, name)(**{**inputs, **updated}, **options)
    return dict(zip(OUTPUTS[name], made if isinstance(made, tuple) else (made,), strict=True))


def check_segment(
    name: str, inputs: dict[str, Any], poison: Poison, **options: Any
) -> dict[str, torch.Tensor]:
    """Kernel, then reference, judged by its bounds; returns the kernel's outputs."""
    got = run_kernel(name, inputs, poison, **options)
    for buffer, (want, bound) in expected(name, inputs, got).items():
        verdict = judge(buffer, got[buffer], want, bound)
        assert verdict.holds, f"{name}: {verdict}"
        if bound.left is not None:
            untouched = is_sentinel(got[buffer]).cpu()[bound.left]
            assert untouched.all(), f"{name} wrote what it leaves to another segment: {buffer}"
    return got
