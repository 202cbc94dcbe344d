"""The forms of the output projection, which are a schedule's names.

decoupled     proj_a, group_quant, proj_b, dequant_sum by chunks of groups, and no barrier
row_barrier   one amax per token over all groups: what the seed replaced, kept as its baseline
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dsv4_kernels.chains.attention import Form
from dsv4_kernels.chains.node import chunks, node
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.segments.dequant_sum import of_groups
from dsv4_kernels.segments.segment import Segment


def decoupled(
    segments: Mapping[str, Segment], sizes: Mapping[str, int], groups_per_launch: int
) -> Iterator[Node]:
    """A group's proj_b needs its own quant and nothing else; a chunk is added up as it ends, behind
    the one before."""
    G = sizes["G"]
    parts = chunks(G, groups_per_launch)
    for name in ("proj_a", "group_quant", "proj_b"):
        yield from (node(segments[name], sizes, groups=groups) for groups in parts)
    for groups in parts:
        segment = of_groups(segments["dequant_sum"], groups, G)
        yield node(segment, sizes, groups=groups if segment.by_groups else None)


def row_barrier(
    segments: Mapping[str, Segment], sizes: Mapping[str, int], groups_per_launch: int
) -> Iterator[Node]:
    """One scale per token over all groups: nothing is quantised before the last proj_a."""
    for groups in chunks(sizes["G"], groups_per_launch):
        yield node(segments["proj_a"], sizes, groups=groups)
    yield node(segments["row_quant"], sizes)
    yield node(segments["proj_b_dequant"], sizes)


FORMS: dict[str, Form] = {"decoupled": decoupled, "row_barrier": row_barrier}
