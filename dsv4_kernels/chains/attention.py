"""The forms of attention: from queries and caches to heads packed by group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from dsv4_kernels.chains.node import chunks, node
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.segments.segment import Segment

Form = Callable[[Mapping[str, Segment], Mapping[str, int], int], Iterator[Node]]


def fused(
    segments: Mapping[str, Segment], sizes: Mapping[str, int], groups_per_launch: int
) -> Iterator[Node]:
    """One kernel per block of columns, then a merge of the blocks: the seed's form.

    resolve_slots and gather_kv have a lane of their own: they need nothing of the wave before, and
    would else wait behind its merge and quantisation on the vector cores' queue.
    """
    yield node(segments["resolve_slots"], sizes, lane="gather")
    yield node(segments["gather_kv"], sizes, lane="gather")
    yield node(segments["qk_softmax_pv"], sizes)
    for groups in chunks(sizes["G"], groups_per_launch):
        yield node(segments["merge_norm"], sizes, groups=groups)
        yield node(segments["inverse_rope"], sizes, groups=groups)


FORMS: dict[str, Form] = {"fused": fused}
