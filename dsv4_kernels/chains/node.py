"""A segment as a node of a chain: lane, parts and weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dsv4_kernels.buffers import BUFFERS, shapes
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.segments.segment import Segment

# The queue of a segment by the cores that it keeps busy; a chain may give it another.
LANES = {"AIV": "vector", "MIX": "mix", "AIC": "cube"}


def node(
    segment: Segment,
    sizes: Mapping[str, int],
    *,
    lane: str | None = None,
    groups: range | None = None,
) -> Node:
    """The node of a segment, for some of the groups or for all.

    sizes: by letter, N the tokens of a wave. Its weight is that of its own groups and heads, and of
    all that has neither.
    """
    own = sizes
    if groups is not None:
        own = {**sizes, "G": len(groups)}
        if "H" in sizes:
            own["H"] = sizes["H"] // sizes["G"] * len(groups)
    tensors = {
        name: torch.empty(extent, dtype=BUFFERS[name].dtype, device="meta")  # type: ignore[arg-type]
        for name, extent in shapes(segment.reads + segment.writes + segment.updates, own).items()
    }
    return Node(
        segment.name,
        lane or LANES[segment.core],
        segment.reads,
        segment.writes,
        segment.updates,
        parts=() if groups is None else (("groups", groups),),
        weight=segment.cost(tensors).bytes,
        work=segment,
    )


def chunks(groups: int, groups_per_launch: int) -> list[range]:
    """All groups, so many at a time."""
    starts = range(0, groups, groups_per_launch)
    return [range(first, min(first + groups_per_launch, groups)) for first in starts]
