"""In which order nodes are issued, so that no lane waits where it need not.

A lane does its nodes in the order in which they are issued. List scheduling: whatever may begin
first is issued first, each node taking as long as its weight says; of those that may begin at a
time, the one of the earliest wave, then the first in the chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dsv4_kernels.launcher.graph import Node, edges


class Issue(NamedTuple):
    """A node's place in the chain, and when it would begin and end if a byte took one unit."""

    place: int
    begin: int
    end: int


def issue(nodes: Sequence[Node]) -> list[Issue]:
    """Every node once, in the order of issue."""
    needs: list[set[int]] = [set() for _ in nodes]
    for edge in edges(nodes):
        needs[edge.after].add(edge.before)
    behind: list[list[int]] = [[] for _ in nodes]
    for after, befores in enumerate(needs):
        for before in befores:
            behind[before].append(after)
    missing = [len(befores) for befores in needs]
    ready = [place for place, count in enumerate(missing) if count == 0]
    end: dict[int, int] = {}
    free: dict[str, int] = {}  # when a lane is done with what was issued to it

    def begin(place: int) -> int:
        done = [end[before] for before in needs[place]]
        return max([free.get(nodes[place].lane, 0), *done])

    order: list[Issue] = []
    while ready:
        first = min(ready, key=lambda place: (begin(place), nodes[place].wave, place))
        start = begin(first)
        end[first] = free[nodes[first].lane] = start + nodes[first].weight
        order.append(Issue(first, start, end[first]))
        ready.remove(first)
        for after in behind[first]:
            missing[after] -= 1
            if missing[after] == 0:
                ready.append(after)
    return order


def in_order_of_issue(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes as they are issued."""
    return tuple(nodes[each.place] for each in issue(nodes))
