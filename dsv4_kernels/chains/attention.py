"""The forms of attention: from queries and caches to heads packed by group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from dsv4_kernels import device
from dsv4_kernels.chains.node import chunks, node
from dsv4_kernels.contract import Contract
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.segments import SEGMENTS
from dsv4_kernels.segments.segment import Segment
from dsv4_kernels.segments.slots import BLOCK_COLUMNS
from dsv4_kernels.segments.tiles import FRACTAL

Form = Callable[[Mapping[str, Segment], Mapping[str, int], int], Iterator[Node]]


def fused(
    segments: Mapping[str, Segment], sizes: Mapping[str, int], groups_per_launch: int
) -> Iterator[Node]:
    """One kernel per block of columns, then a merge of the blocks with all that follows it."""
    yield from _gather(segments, sizes)
    yield node(segments["qk_softmax_pv"], sizes)
    for groups in chunks(sizes["G"], groups_per_launch):
        yield node(segments["merge_finish"], sizes, groups=groups)


def separate_tail(
    segments: Mapping[str, Segment], sizes: Mapping[str, int], groups_per_launch: int
) -> Iterator[Node]:
    """The seed's form, whose bytes `fused` has: merge and RoPE each by itself."""
    yield from _gather(segments, sizes)
    yield node(segments["qk_softmax_pv"], sizes)
    for groups in chunks(sizes["G"], groups_per_launch):
        yield node(segments["merge_norm"], sizes, groups=groups)
        yield node(segments["inverse_rope"], sizes, groups=groups)


def lanes(
    segments: Mapping[str, Segment], sizes: Mapping[str, int], groups_per_launch: int
) -> Iterator[Node]:
    """Each step pure cube or pure vector, and o written once, not once a block."""
    yield from _gather(segments, sizes)
    for name in ("qk", "softmax", "pv", "finish"):
        yield node(segments[name], sizes)


def one_kernel(
    segments: Mapping[str, Segment], sizes: Mapping[str, int], groups_per_launch: int
) -> Iterator[Node]:
    """Rows go from their pools to where they are multiplied, o leaves once, packed: CUDA's form."""
    yield node(segments["resolve_slots"], sizes, lane="gather")
    yield node(segments["attend_rows"], sizes)


def _gather(segments: Mapping[str, Segment], sizes: Mapping[str, int]) -> Iterator[Node]:
    """Rows of KV side by side, in a lane of their own: they need nothing of the wave before, and
    would else wait behind its merge and quantisation on the vector cores' queue."""
    yield node(segments["resolve_slots"], sizes, lane="gather")
    yield node(segments["gather_kv"], sizes, lane="gather")


FORMS: dict[str, Form] = {
    "fused": fused,
    "lanes": lanes,
    "separate_tail": separate_tail,
    "one_kernel": one_kernel,
}

# The fewest columns of a row's last block; 128 where a form takes whole blocks only, and on CUDA,
# where KV of a block and a tail beside q of 64 rows is 240 KiB, of 227 of shared memory.
TAIL = {"lanes": FRACTAL}

# The first projection that takes a form's output as it lies, where it is not proj_a.
PROJ_A = {"lanes": "proj_a_heads"}

# By family of devices the forms that move once what tokens share: one_kernel copies no KV, and on
# CUDA fused has no room for KV that stays.
SHARING = {"npu": ("fused", "lanes", "separate_tail"), "cuda": ("lanes",)}

DEFAULTS = {"cuda": "one_kernel"}  # by family of devices; of others the first form


def forms_on(family: str) -> list[str]:
    """The forms that a family of devices runs."""
    return [name for name in FORMS if name != "one_kernel" or not _refusal(family)]


def form_of(op: str, attention: str | None, q: Any) -> str:
    """The form that the caller of `op` asks for, or if None that of the device of these queries.

    Raises ContractError where the device does not run it.
    """
    family = device.family(q.device) if isinstance(q, torch.Tensor) else ""
    if attention is None:
        return DEFAULTS.get(family, next(iter(FORMS)))
    runs = attention != "one_kernel" or not _refusal(family)
    forms = ", ".join(forms_on(family))
    contract = f"one of {forms} here ({_refusal(family)})"
    Contract(op).require(runs, "attention", contract, repr(attention))
    return attention


def tail_on(q: Any) -> int | None:
    """The fewest columns of a row's last block, on the device of these queries; None where each
    form has its own."""
    on_cuda = isinstance(q, torch.Tensor) and device.family(q.device) == "cuda"
    return BLOCK_COLUMNS if on_cuda else None


def _refusal(family: str) -> str:
    return SEGMENTS["attend_rows"].not_on.get(family, "")
