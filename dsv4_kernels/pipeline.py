"""The chain as data: which segment reads and writes which buffers.

A buffer has one name everywhere: here, as argument of its segments, in the documentation. So a node
needs nothing but names, and whoever runs the nodes - in order as `run` does, or on streams - can
derive every dependency from them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dsv4_kernels.segments.column_bias import column_bias
from dsv4_kernels.segments.dequant_sum import dequant_sum
from dsv4_kernels.segments.gather_kv import gather_kv
from dsv4_kernels.segments.group_quant import group_quant
from dsv4_kernels.segments.inverse_rope import inverse_rope
from dsv4_kernels.segments.merge_norm import merge_norm
from dsv4_kernels.segments.proj_a import proj_a
from dsv4_kernels.segments.proj_b import proj_b
from dsv4_kernels.segments.qk_softmax_pv import qk_softmax_pv

Buffers = dict[str, Any]  # tensors and sizes, by name


@dataclass(frozen=True)
class Node:
    """One launch.

    reads: buffers its segment takes. writes: buffers it makes, or fills where they exist already.
    updates: buffers it both takes and changes. sizes: plain numbers it takes.
    """

    segment: Callable[..., Any]
    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()
    updates: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.segment.__name__

    @property
    def tiles(self) -> Any:
        """The tiles that the segment takes if it is given none."""
        return inspect.signature(self.segment).parameters["tiles"].default

    def run(self, buffers: Buffers, **options: Any) -> None:
        """Launch the segment on `buffers`; what it had to allocate is added to them.

        options: more keyword arguments of the segment, its tiles for instance.
        """
        taken = {name: buffers[name] for name in self.reads + self.updates + self.sizes}
        made = self.segment(**taken, **{name: buffers.get(name) for name in self.writes}, **options)
        if self.writes:
            results = made if isinstance(made, tuple) else (made,)
            buffers.update(zip(self.writes, results, strict=True))


SLOTS = (
    "ori_kv", "ori_block_table", "kv_overlay", "cmp_kv", "cmp_block_table",
    "cmp_sparse_indices", "cmp_sparse_lens",
)  # fmt: skip
SLOT_SIZES = ("num_tokens", "window", "first_token")

PIPELINE: tuple[Node, ...] = (
    Node(gather_kv, SLOTS, ("kv",), sizes=SLOT_SIZES),
    Node(column_bias, SLOTS, ("bias", "live_slots"), sizes=SLOT_SIZES),
    Node(qk_softmax_pv, ("q", "kv", "bias"), ("m", "l", "o")),
    Node(
        merge_norm,
        ("m", "l", "o", "live_slots", "attn_sink"),
        ("o_packed", "o_rope"),
        sizes=("groups", "rope_dim"),
    ),
    Node(inverse_rope, ("o_rope", "live_slots", "freqs_cos", "freqs_sin"), updates=("o_packed",)),
    Node(proj_a, ("o_packed", "wo_a"), ("o_r",)),
    Node(group_quant, ("o_r",), ("codes", "scale")),
    Node(proj_b, ("codes", "wo_b"), ("partial",)),
    Node(dequant_sum, ("partial", "scale", "wo_b_scale"), ("attn_out",)),
)

# What the segments make for each other; of a wave's shape, and re-used by the next wave.
WORKSPACE = tuple(name for node in PIPELINE for name in node.writes if name != "attn_out")


def run(nodes: Sequence[Node], buffers: Buffers) -> None:
    """The plainest executor: every node in the order given, on the current stream."""
    for node in nodes:
        node.run(buffers)
