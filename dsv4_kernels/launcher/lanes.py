"""Which lane waits for which launch: the edges of a schedule, as few events as enforce them.

A lane does its nodes in order, one after the other, so an event is needed only where an edge goes
from one lane to another, and only for the latest node that is not already known to be done. What a
lane knows is a vector clock: the last node of every lane that is done before its next one starts.
The caller's own stream is a lane too: it forks before the first node and joins after the last.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from dsv4_kernels.launcher.graph import Node, edges

FORK = -1  # the place of what the caller's stream did before, in `Step.waits`
_CALLER = "caller"


@dataclass(frozen=True)
class Step:
    """The events around a node: those its lane waits for first, by the places of the nodes that
    record them, latest first; and whether it records one itself."""

    waits: tuple[int, ...]
    records: bool


@dataclass(frozen=True)
class Synchronised:
    """A step per node in the order of issue, and the nodes that the caller's stream waits for at
    the end."""

    steps: tuple[Step, ...]
    joins: tuple[int, ...]


@functools.lru_cache(maxsize=256)
def synchronise(nodes: tuple[Node, ...]) -> Synchronised:
    """The fewest waits that enforce every edge of `nodes` on one stream per lane."""
    needs: list[set[int]] = [{FORK} for _ in nodes]  # nothing starts before the caller's work ends
    for edge in edges(nodes):
        needs[edge.after].add(edge.before)
    lane_of = {FORK: _CALLER} | {place: node.lane for place, node in enumerate(nodes)}
    done: dict[int, dict[str, int]] = {FORK: {_CALLER: FORK}}  # clock once a node is done
    clocks: dict[str, dict[str, int]] = {}  # per lane

    def wait(lane: str, places: set[int]) -> tuple[int, ...]:
        clock, waits = clocks.setdefault(lane, {}), []
        for place in sorted(places, reverse=True):
            if clock.get(lane_of[place], FORK - 1) < place:
                waits.append(place)
                for other, last in done[place].items():
                    clock[other] = max(last, clock.get(other, last))
        return tuple(waits)

    waits = []
    for place, node in enumerate(nodes):
        waits.append(wait(node.lane, needs[place]))
        clocks[node.lane][node.lane] = place
        done[place] = dict(clocks[node.lane])
    joins = wait(_CALLER, set(range(len(nodes))))
    awaited = {place for places in (*waits, joins) for place in places}
    steps = [Step(waits[place], records=place in awaited) for place in range(len(nodes))]
    return Synchronised(tuple(steps), joins)
