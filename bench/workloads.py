"""What the benches work on: chunks, the buffers that segments hand on, and judges of both."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import reference
from bench import clock
from bench.costs import chain_cost
from bench.scale import DEVICE, START
from dsv4_kernels import PrefillSparseAttn, prefill_sparse_attn
from dsv4_kernels.buffers import Buffers
from dsv4_kernels.chains.prefill import wave_nodes
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs.prefill import PrefillInputs, make_inputs
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.segments.cost import Cost
from dsv4_kernels.segments.segment import Segment
from dsv4_kernels.segments.slots import SLOTS
from reference import bounds
from reference.compare import compare
from reference.slots import named_rows

# Rows of a chunk that are judged against the references, which take a second a hundred tokens. A
# row does not depend on its neighbours (the tests see to that), so any will do.
JUDGED_ROWS = 16

# How a chain is asked to be of each form, and the segments that it has then; the first that has a
# segment is where its buffers come from.
_FORMS: tuple[dict[str, Any], ...] = (
    dict(attention="fused"), dict(attention="fused", schedule="row_barrier"),
    dict(attention="lanes"), dict(attention="separate_tail"), dict(attention="one_kernel"),
)  # fmt: skip
SEGMENTS_OF = [{node.name for node in wave_nodes(PRESETS["FLASH"], 1, **form)} for form in _FORMS]


@functools.lru_cache(maxsize=2)  # a chunk of PRO is 0.3 GiB, and benches come chunk by chunk
def chunk(preset: str, tokens: int, layer: str = "CSA", start: int = START) -> PrefillInputs:
    """The inputs of a chunk, on the device that is measured."""
    return make_inputs(PRESETS[preset], layer=layer, tokens=tokens, start=start, device=DEVICE)


def copies(inputs: PrefillInputs, number: int) -> list[PrefillInputs]:
    """`number` chunks like this one, itself the first, each in memory of its own."""
    return [
        inputs,
        *(dataclasses.replace(inputs, **_cloned(vars(inputs))) for _ in range(number - 1)),
    ]


def with_live_share(inputs: PrefillInputs, share: float) -> PrefillInputs:
    """The same chunk with the usable prefix of every row cut to `share` of all its columns."""
    most = round(share * inputs.cmp_sparse_indices.shape[1])
    return dataclasses.replace(inputs, cmp_sparse_lens=inputs.cmp_sparse_lens.clamp(max=most))


def live_keys(inputs: PrefillInputs) -> int:
    """Live (token, column) pairs."""
    slots = {name: getattr(inputs, name).cpu() for name in SLOTS}
    live, _, _ = named_rows(**slots, num_tokens=inputs.num_tokens, window=inputs.window)
    return int(live.sum())


def cost_of_chain(inputs: PrefillInputs) -> Cost:
    """Of its live keys only: what a kernel does for dead ones is not counted in its favour."""
    return chain_cost(inputs, live_keys(inputs))


def chain_calls(
    inputs: PrefillInputs, *, captured: bool = False, **options: Any
) -> tuple[list[clock.Call], torch.Tensor]:
    """The chain as a plan runs it, or as graphs of it replay.

    Args:
        options: of the plan.

    Returns the calls for the clock, each run once and compiled, and the output of the first.
    """
    calls: list[clock.Call] = []
    outputs = []
    number = clock.copies(cost_of_chain(inputs).bytes, DEVICE)
    for each in copies(inputs, number):
        plan = PrefillSparseAttn(*each.args(), window=each.window, **options)
        shape = [inputs.q.shape[0], inputs.wo_b.shape[0]]
        out = torch.empty(shape, dtype=torch.bfloat16, device=DEVICE)
        run = plan.capture(*each.args(), out=out).replay if captured else None
        calls.append(run or functools.partial(plan.run, *each.args(), out=out))
        outputs.append(out.fill_(torch.nan))  # what is judged is the call's, not the capture's
        calls[-1]()
    return calls, outputs[0]


@functools.lru_cache(maxsize=3)  # benches come preset by preset, with a few forms each
def handed_over(preset: str, tokens: int, form: int = 0) -> Buffers:
    """All buffers of a chunk of one wave, as its segments leave them."""
    inputs = chunk(preset, tokens)
    kept: Buffers = {}

    def executor(nodes: Sequence[Node], waves: Sequence[Buffers]) -> None:
        for node in nodes:
            node.run(waves)
        kept.update(waves[0])

    out = prefill_sparse_attn(
        *inputs.args(),
        window=inputs.window,
        wave_tokens=inputs.q.shape[0],
        groups_per_launch=inputs.wo_a.shape[0],
        executor=executor,
        **_FORMS[form],
    )
    return kept | {"attn_out": out}


def segment_buffers(segment: Segment, preset: str, tokens: int) -> Buffers:
    """What `segment` takes, and its outputs, not yet written: of what it updates, the rest is
    passed through, and may be any bits."""
    form = next(i for i, names in enumerate(SEGMENTS_OF) if segment.name in names)
    buffers = handed_over(preset, tokens, form)
    outputs = {name: poisoned_like(v) for name, v in segment.outputs_of(buffers).items()}
    return segment.inputs_of(buffers) | outputs


def poisoned_like(tensor: torch.Tensor) -> torch.Tensor:
    """Memory full of ones' bits: a NaN, or -1."""
    poisoned = torch.empty_like(tensor)
    poisoned.view(torch.uint8).fill_(0xFF)
    return poisoned


def tensors_of(buffers: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors among buffers, by name."""
    return {name: v for name, v in buffers.items() if isinstance(v, torch.Tensor)}


def clone(buffers: Buffers) -> Buffers:
    """The same buffers in memory of their own."""
    return buffers | _cloned(buffers)


def cost_of_segment(segment: Segment, buffers: Buffers, inputs: PrefillInputs) -> Cost:
    """Of its live keys only, as `cost_of_chain`."""
    return segment.cost(_own_tensors(segment, buffers), live_keys(inputs))


def _own_tensors(segment: Segment, buffers: Buffers) -> dict[str, torch.Tensor]:
    names = segment.reads + segment.writes + segment.updates
    return {name: buffers[name] for name in names}


def judge_segment(segment: Segment, before: Buffers, after: Buffers) -> None:
    """Assert that what `segment` made of `before` is within the bounds of its reference."""
    for verdict in compare(segment.name, segment.inputs_of(before), segment.outputs_of(after)):
        assert verdict.holds, f"{segment.name}: {verdict}"


def digest(tensors: Sequence[torch.Tensor]) -> str:
    """Of the bytes of `tensors`: the same for the same bytes, and for no others."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:12]


def judged_rows(inputs: PrefillInputs) -> tuple[torch.Tensor, PrefillInputs]:
    """(rows, the chunk cut to them, on the CPU): some from the first to the last live one."""
    on_cpu, most = inputs.to("cpu"), min(JUDGED_ROWS, inputs.num_tokens)
    rows = torch.linspace(0, inputs.num_tokens - 1, most).round().long()
    return rows, on_cpu.rows(rows)


def judge_chain(inputs: PrefillInputs, attn_out: torch.Tensor, schedule: str = "decoupled") -> None:
    """Assert that `attn_out` is the reference's within the tolerance of the chain."""
    rows, cut = judged_rows(inputs)
    want = reference.prefill_sparse_attn(*cut.args(), window=cut.window, schedule=schedule)
    got = attn_out.cpu()[rows]
    assert bounds.relative_l2(got, want) <= bounds.CHAIN_REL_L2


def judge_rival_chain(inputs: PrefillInputs, attn_out: torch.Tensor) -> None:
    """Assert that `attn_out` is the oracle's within what INT8 activations may cost."""
    rows, cut = judged_rows(inputs)
    want = reference.oracle(*cut.args(), window=cut.window)
    assert bounds.relative_l2(attn_out.cpu()[rows], want) <= bounds.ORACLE_REL_L2


def _cloned(values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tensors_of(values).items()}
