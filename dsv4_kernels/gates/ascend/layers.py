"""What attention moves by kind of layer and form, counted in the compiled code.

A row is a layer as users run it: a chunk of 128 tokens at a position, with the indices that the
generator of inputs draws for it. resolve_slots runs on the CPU on just these; what it wrote -
rows, runs, live blocks - is what the compiled kernels load. Counted is what stands before proj_a.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dsv4_kernels.chains.attention import TAIL
from dsv4_kernels.chains.prefill import prefill_sparse_attn, wave_nodes
from dsv4_kernels.dims import Dims
from dsv4_kernels.gates.ascend import compiler
from dsv4_kernels.gates.ascend.counts import Counts
from dsv4_kernels.gates.ascend.first_form import FirstForm, first_form
from dsv4_kernels.gates.ascend.gate import count_launches
from dsv4_kernels.gates.ascend.launches import part_target
from dsv4_kernels.gates.chunk import meta, meta_inputs, record
from dsv4_kernels.inputs.prefill import PrefillInputs, make_inputs
from dsv4_kernels.inputs.shared import share
from dsv4_kernels.segments.resolve_slots import resolve_slots
from dsv4_kernels.segments.slots import BLOCK_COLUMNS, SLOTS

TOKENS = 128
# The forms that differ in more than their tail.
ATTENTIONS = ("fused", "lanes")

SMALL_PAGE = 32  # rows of a page, next to a preset's 128: a run breaks where a page ends


@dataclass(frozen=True)
class Layer:
    """A kind of layer at a position.

    sharers: neighbouring tokens that share their KV. picks: slots of a CSA layer, the preset's if
    None. any_order: every token names its rows in an order of its own, so that no two are linked.
    """

    kind: str
    start: int
    sharers: int = 1
    picks: int | None = None
    any_order: bool = False

    def inputs(self, dims: Dims) -> PrefillInputs:
        """A chunk with the slots of such a layer, and KV as narrow as it can be."""
        narrow = replace(
            dims, heads=1, groups=1, head_dim=16, rope_dim=16, o_lora_rank=1, hidden=1,
            index_topk=dims.index_topk if self.picks is None else self.picks,
        )  # fmt: skip
        inputs = make_inputs(narrow, layer=self.kind, tokens=TOKENS, start=self.start)
        if self.any_order:
            generator = torch.Generator().manual_seed(0)
            indices = inputs.cmp_sparse_indices
            places = torch.rand(indices.shape, generator=generator)
            order = (places + (indices < 0)).argsort(dim=1)  # what is unused stays behind
            inputs = replace(inputs, cmp_sparse_indices=indices.gather(1, order))
        return share(inputs, self.sharers) if self.sharers > 1 else inputs


# The seed's own CSA fixture is a request's first chunk with three blocks of columns: tokens that
# see few positions fill the first of them only.
FIXTURE = Layer("CSA", 0, picks=256)

LAYERS = (
    Layer("SWA", 4000),
    Layer("SWA", 4000, sharers=8),
    Layer("CSA", 4000),
    Layer("CSA", 4000, any_order=True),
    FIXTURE,
    Layer("HCA", 4000),
    Layer("HCA", 131_072 - TOKENS),
    Layer("HCA", 131_072 - TOKENS, sharers=8),
)


@dataclass(frozen=True)
class Moved:
    """What one form of a layer moves before proj_a: bytes of global memory, DMA instructions of the
    gather, loads of single elements; small_pages_dma: the gather's with pages of SMALL_PAGE rows.

    columns: K. first: the same layer in the form that this project began with, nothing shared.
    """

    layer: Layer
    columns: int
    attention: str
    bytes: int
    gather_dma: int
    scalar_loads: int
    small_pages_dma: int
    first: FirstForm


def count_layers(part: str, dims: Dims, layers: Iterable[Layer] = LAYERS) -> Iterator[Moved]:
    """Both forms of every layer. Raises ValueError where the compiler refuses a kernel."""
    for layer in layers:
        alone = replace(layer, sharers=1).inputs(dims)
        live = int(resolved(alone)["live_slots"].sum())
        first = first_form(dims, TOKENS, alone.cmp_sparse_indices.shape[1], live)
        for attention in ATTENTIONS:
            total, gather = _count(part, dims, layer, attention)
            small_pages = replace(dims, page_rows=SMALL_PAGE)
            _, small = _count(part, small_pages, layer, attention, gather_only=True)
            yield Moved(
                layer,
                layer.inputs(dims).cmp_sparse_indices.shape[1],
                attention,
                total.moved,
                gather.dma,
                total.scalar_loads,
                small.dma,
                first,
            )


def _count(
    part: str, dims: Dims, layer: Layer, attention: str, gather_only: bool = False
) -> tuple[Counts, Counts]:
    """Of the segments before the first projection together, and of the gather."""
    inputs = layer.inputs(dims)
    arguments = _on_meta(dims, inputs)
    columns = inputs.cmp_sparse_indices.shape[1]
    before: list[str] = []
    for node in wave_nodes(dims, TOKENS, columns, attention=attention, sharers=layer.sharers):
        if "wo_a" in node.reads:
            break
        if not gather_only or "runs" in node.reads:
            before.append(node.name)
    kernels = record(
        part_target(part),
        compiler.driver(part),
        lambda executor: prefill_sparse_attn(
            **arguments,
            window=dims.window,
            wave_tokens=TOKENS,
            attention=attention,
            sharers=layer.sharers,
            groups_per_launch=dims.groups,
            executor=executor,
        ),
        segments=before,
    )
    slots = resolved(inputs, layer.sharers, TAIL.get(attention, BLOCK_COLUMNS))
    loaded = {f"{name}_ptr": values for name, values in slots.items()}
    total, gather = Counts(), Counts()
    for kernel in kernels:
        if kernel.launch.refusal:
            raise ValueError(f"{kernel.segment}: {kernel.launch.refusal}")
        counts = count_launches(kernel, loaded)
        total += counts
        if "kv_overlay_ptr" in kernel.launch.arguments:  # what is given the chunk's own rows
            gather += counts
    return total, gather


def resolved(
    inputs: PrefillInputs, sharers: int = 1, tail: int = BLOCK_COLUMNS
) -> dict[str, np.ndarray[Any, Any]]:
    """What resolve_slots writes, but the bias, which no scalar load reads."""
    slots = {name: getattr(inputs, name) for name in SLOTS}
    rows, _, runs, live_blocks, live_slots = resolve_slots(
        **slots, num_tokens=TOKENS, window=inputs.window, sharers=sharers, tail=tail
    )
    found = dict(rows=rows, runs=runs, live_blocks=live_blocks, live_slots=live_slots)
    return {name: tensor.numpy() for name, tensor in found.items()}


def _on_meta(dims: Dims, inputs: PrefillInputs) -> dict[str, Any]:
    """The chunk's arguments at the preset's widths, sizes without memory."""
    arguments = meta_inputs(dims, TOKENS, inputs.cmp_sparse_indices.shape[1])
    for name in SLOTS:
        drawn = getattr(inputs, name)
        wide = drawn.shape if drawn.dtype == torch.int32 else (*drawn.shape[:-1], dims.head_dim)
        arguments[name] = meta(*wide, dtype=drawn.dtype)
    return arguments
