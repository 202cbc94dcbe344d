"""The chain as data: which segment reads and writes which buffers, in two schedules.

A buffer has one name everywhere: here, as argument of its segments, in the documentation. So a node
needs nothing but names, and every dependency is derived from them (`edges`).

    decoupled     proj_a, group_quant, proj_b by chunks of groups: no barrier before dequant_sum
    row_barrier   one amax per token over all groups: what the seed replaced, kept as its baseline
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch

from dsv4_kernels.segments.column_bias import ColumnBiasTiles, column_bias
from dsv4_kernels.segments.dequant_sum import DequantSumTiles, dequant_sum
from dsv4_kernels.segments.gather_kv import GatherKvTiles, gather_kv
from dsv4_kernels.segments.group_quant import GroupQuantTiles, group_quant
from dsv4_kernels.segments.inverse_rope import InverseRopeTiles, inverse_rope
from dsv4_kernels.segments.merge_norm import MergeNormTiles, merge_norm
from dsv4_kernels.segments.proj_a import ProjATiles, proj_a
from dsv4_kernels.segments.proj_b import ProjBTiles, proj_b
from dsv4_kernels.segments.proj_b_dequant import ProjBDequantTiles, proj_b_dequant
from dsv4_kernels.segments.qk_softmax_pv import QkSoftmaxPvTiles, qk_softmax_pv
from dsv4_kernels.segments.row_quant import RowQuantTiles, row_quant
from dsv4_kernels.segments.tiles import Core, Tiles

Buffers = dict[str, Any]  # tensors and sizes, by name
Lane = Literal["vector", "mix", "cube"]

LANES: dict[Core, Lane] = {"AIV": "vector", "MIX": "mix", "AIC": "cube"}

# Groups of the output projection per launch. A launch costs tens of microseconds of host time: one
# group a launch is 24 launches of FLASH's projection, more host time than the device has work for.
# 4 leaves FLASH two chunks and PRO four, enough for proj_b to overlap the next chunk's proj_a.
GROUPS_PER_LAUNCH = 4


@dataclass(frozen=True)
class Node:
    """One launch.

    reads: buffers its segment takes. writes: buffers it makes, or fills where they exist already.
    updates: buffers it both takes and changes. sizes: plain numbers it takes. groups: the groups it
    is for, all if None; of a buffer that has groups (`GROUPED`) it touches only those.
    """

    segment: Callable[..., Any]
    tiles: type[Tiles]
    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()
    updates: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    groups: range | None = None

    @property
    def name(self) -> str:
        return self.segment.__name__

    @property
    def label(self) -> str:
        """Its name, and its groups where it is for some of them only."""
        if self.groups is None:
            return self.name
        return f"{self.name}[{self.groups.start}:{self.groups.stop}]"

    @property
    def lane(self) -> Lane:
        """Which cores it keeps busy."""
        return LANES[self.tiles.core]

    def inputs_of(self, buffers: Buffers) -> Buffers:
        """What its segment takes of `buffers`."""
        return {name: buffers[name] for name in self.reads + self.updates + self.sizes}

    def outputs_of(self, buffers: Buffers) -> Buffers:
        """What it has written to `buffers`."""
        return {name: buffers[name] for name in self.writes + self.updates}

    def run(self, buffers: Buffers, **options: Any) -> None:
        """Launch the segment on `buffers`; what it had to allocate is added to them.

        options: more keyword arguments of the segment, its tiles for instance.
        """
        if self.groups is not None:
            options["group_range"] = self.groups
        outputs = {name: buffers.get(name) for name in self.writes}
        made = self.segment(**self.inputs_of(buffers), **outputs, **options)
        if self.writes:
            results = made if isinstance(made, tuple) else (made,)
            buffers.update(zip(self.writes, results, strict=True))


SLOTS = (
    "ori_kv", "ori_block_table", "kv_overlay", "cmp_kv", "cmp_block_table",
    "cmp_sparse_indices", "cmp_sparse_lens",
)  # fmt: skip
SLOT_SIZES = ("num_tokens", "window", "first_token")

GATHER_KV = Node(gather_kv, GatherKvTiles, SLOTS, ("kv",), sizes=SLOT_SIZES)
COLUMN_BIAS = Node(column_bias, ColumnBiasTiles, SLOTS, ("bias", "live_slots"), sizes=SLOT_SIZES)
QK_SOFTMAX_PV = Node(qk_softmax_pv, QkSoftmaxPvTiles, ("q", "kv", "bias"), ("m", "l", "o"))
MERGE_NORM = Node(
    merge_norm,
    MergeNormTiles,
    ("m", "l", "o", "live_slots", "attn_sink"),
    ("o_packed", "o_rope"),
    sizes=("groups", "rope_dim"),
)
INVERSE_ROPE = Node(
    inverse_rope,
    InverseRopeTiles,
    ("o_rope", "live_slots", "freqs_cos", "freqs_sin"),
    updates=("o_packed",),
)
PROJ_A = Node(proj_a, ProjATiles, ("o_packed", "wo_a"), ("o_r",))
GROUP_QUANT = Node(group_quant, GroupQuantTiles, ("o_r",), ("codes", "scale"))
PROJ_B = Node(proj_b, ProjBTiles, ("codes", "wo_b"), ("partial",))
DEQUANT_SUM = Node(dequant_sum, DequantSumTiles, ("partial", "scale", "wo_b_scale"), ("attn_out",))
ROW_QUANT = Node(row_quant, RowQuantTiles, ("o_r",), ("codes", "row_scale"))
PROJ_B_DEQUANT = Node(
    proj_b_dequant, ProjBDequantTiles, ("codes", "wo_b", "row_scale", "wo_b_scale"), ("attn_out",)
)

ATTENTION = (GATHER_KV, COLUMN_BIAS, QK_SOFTMAX_PV, MERGE_NORM, INVERSE_ROPE)
PIPELINE = (*ATTENTION, PROJ_A, GROUP_QUANT, PROJ_B, DEQUANT_SUM)  # a launch per segment
BASELINE = (ROW_QUANT, PROJ_B_DEQUANT)  # what only row_barrier has
SEGMENTS = {node.name: node for node in (*PIPELINE, *BASELINE)}

# Buffers with a part of their own for every group.
GROUPED = frozenset({"o_packed", "wo_a", "o_r", "codes", "scale", "partial", "wo_b"})

# What the segments make for each other; of a wave's shape, and re-used by the next wave.
WORKSPACE: dict[str, tuple[str, torch.dtype]] = {
    "kv": ("N KP C", torch.bfloat16),
    "bias": ("N KP", torch.float32),
    "live_slots": ("N", torch.int32),
    "m": ("N NB H", torch.float32),
    "l": ("N NB H", torch.float32),
    "o": ("N NB H C", torch.float32),
    "o_packed": ("G N J", torch.bfloat16),
    "o_rope": ("N H P", torch.float32),
    "o_r": ("N G R", torch.float32),
    "codes": ("N G R", torch.int8),
    "scale": ("G N", torch.float32),
    "partial": ("G N D", torch.int32),
    "row_scale": ("N", torch.float32),
}


@functools.cache
def decoupled(groups: int, groups_per_launch: int = GROUPS_PER_LAUNCH) -> tuple[Node, ...]:
    """The seed's result. A chunk's proj_b comes after the next chunk's proj_a, whose time hides the
    quant in between."""
    nodes, behind = list(ATTENTION), None
    for chunk in _chunks(groups, groups_per_launch):
        nodes += [replace(PROJ_A, groups=chunk), replace(GROUP_QUANT, groups=chunk)]
        if behind is not None:
            nodes.append(replace(PROJ_B, groups=behind))
        behind = chunk
    return (*nodes, replace(PROJ_B, groups=behind), DEQUANT_SUM)


@functools.cache
def row_barrier(groups: int, groups_per_launch: int = GROUPS_PER_LAUNCH) -> tuple[Node, ...]:
    """What the seed replaced: row_quant waits for every group's proj_a, and everything for it."""
    chunks = _chunks(groups, groups_per_launch)
    return (*ATTENTION, *(replace(PROJ_A, groups=chunk) for chunk in chunks), *BASELINE)


SCHEDULES: dict[str, Callable[[int, int], tuple[Node, ...]]] = {
    "decoupled": decoupled,
    "row_barrier": row_barrier,
}


class Edge(NamedTuple):
    """Node `after` must not start before node `before` is done, because of `buffer`.

    kind: RAW (reads what was written), WAW or WAR.
    """

    before: int
    after: int
    buffer: str
    kind: str


def edges(nodes: Sequence[Node]) -> Iterator[Edge]:
    """Every dependency of a later node on an earlier one, by their places in `nodes`."""
    for after, node in enumerate(nodes):
        reads, writes = {*node.reads, *node.updates}, {*node.writes, *node.updates}
        for before, earlier in enumerate(nodes[:after]):
            read, written = {*earlier.reads, *earlier.updates}, {*earlier.writes, *earlier.updates}
            conflicts = {"RAW": written & reads, "WAW": written & writes, "WAR": read & writes}
            apart = _disjoint(earlier.groups, node.groups)
            for kind, buffers in conflicts.items():
                for buffer in sorted(buffers - GROUPED if apart else buffers):
                    yield Edge(before, after, buffer, kind)


def workspace(
    nodes: Sequence[Node], sizes: Mapping[str, int]
) -> dict[str, tuple[list[int], torch.dtype]]:
    """Shape and dtype of every buffer that `nodes` hand on. sizes: by letter, N a wave's tokens."""
    written = {name for node in nodes for name in node.writes}
    return {
        name: ([sizes[letter] for letter in shape.split()], dtype)
        for name, (shape, dtype) in WORKSPACE.items()
        if name in written
    }


def _chunks(groups: int, groups_per_launch: int) -> list[range]:
    starts = range(0, groups, groups_per_launch)
    return [range(first, min(first + groups_per_launch, groups)) for first in starts]


def _disjoint(a: range | None, b: range | None) -> bool:
    return a is not None and b is not None and (a.stop <= b.start or b.stop <= a.start)
