"""What may run at a time, counted: shares of weight, and the path that no overlap shortens.

Two nodes may run at a time if neither happens before the other: not by an edge, not by the order of
a lane, not by what follows from both. That is said of the order of issue and the waits, and is no
measurement: whether the cores do it is for a device to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.launcher.lanes import FORK, synchronise


@dataclass(frozen=True)
class Overlap:
    """Of a lane: its weight, and that of its nodes that may run beside a node of another lane."""

    lane: str
    total: int
    beside: dict[str, int]  # by the other lane; "any" for all of them together

    def share(self, lane: str = "any") -> float:
        """The share of this lane's weight that may run beside `lane`."""
        return self.beside.get(lane, 0) / self.total if self.total else 0.0


def happens_before(nodes: tuple[Node, ...]) -> list[set[int]]:
    """For every node in its order of issue, the places of those that are done before it starts."""
    before: list[set[int]] = []
    last: dict[str, int] = {}
    for place, (node, step) in enumerate(zip(nodes, synchronise(nodes).steps, strict=True)):
        done: set[int] = set()
        own = {last[node.lane]} if node.lane in last else set()
        for earlier in (own | {*step.waits}) - {FORK}:
            done |= before[earlier] | {earlier}
        before.append(done)
        last[node.lane] = place
    return before


def overlaps(nodes: tuple[Node, ...]) -> dict[str, Overlap]:
    """By lane, for nodes in their order of issue."""
    before = happens_before(nodes)
    beside: dict[str, dict[str, int]] = {node.lane: {} for node in nodes}
    for place, node in enumerate(nodes):
        lanes = {
            other.lane
            for at, other in enumerate(nodes)
            if at not in before[place] and place not in before[at] and other.lane != node.lane
        }
        for lane in (*lanes, *(("any",) if lanes else ())):
            found = beside[node.lane]
            found[lane] = found.get(lane, 0) + node.weight
    total = {lane: sum(n.weight for n in nodes if n.lane == lane) for lane in beside}
    return {lane: Overlap(lane, total[lane], found) for lane, found in beside.items()}


def may_overlap(nodes: tuple[Node, ...]) -> bool:
    """Whether any two may run at a time."""
    return any(len(done) < place for place, done in enumerate(happens_before(nodes)))


def critical_path(nodes: Sequence[Node]) -> tuple[int, ...]:
    """Places of the heaviest chain of nodes of which each must wait for the one before."""
    before = happens_before(tuple(nodes))
    heaviest: list[tuple[int, tuple[int, ...]]] = []
    for place, node in enumerate(nodes):
        weight, path = max((heaviest[at] for at in before[place]), default=(0, ()))
        heaviest.append((weight + node.weight, (*path, place)))
    return max(heaviest)[1]
