"""A chain as data: nodes that name the buffers they read and write, and the edges derived from it.

Nothing here knows what a node computes. A buffer is a name; what two nodes may touch at a time is a
matter of parts along named axes (`buffers.Axis`) and of the memory that a wave has of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from dsv4_kernels.buffers import BUFFERS, Axis, Buffers


class Runnable(Protocol):
    """What a node does: bound to the shapes of its buffers once, run on them as often as wanted."""

    def __call__(self, buffers: Mapping[str, Any], /) -> None: ...


@dataclass(frozen=True)
class Node:
    """One thing to run.

    lane: the queue it is issued to; nodes of a lane follow each other. reads, writes: buffers.
    updates: buffers it both takes and changes. parts: along an axis the range it is for, all of it
    where there is none; of a buffer that has the axis it touches only that. wave: which pass over
    the tokens it is part of, and tokens how many that has. slot: which copy of the workspace it
    has. weight: to weigh the node against others, the bytes that it moves at the least. work: what
    runs it, opaque here.
    """

    name: str
    lane: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    updates: tuple[str, ...] = ()
    parts: tuple[tuple[Axis, range], ...] = ()
    wave: int = 0
    tokens: int = 0
    slot: int = 0
    weight: int = 0
    work: Any = field(default=None, compare=False)

    @property
    def label(self) -> str:
        """Its name, and its parts where it is not for all."""
        return self.name + "".join(f"[{part.start}:{part.stop}]" for _, part in self.parts)

    def part(self, axis: Axis) -> range | None:
        """The range along `axis`; None for all of it."""
        return dict(self.parts).get(axis)

    def run(self, waves: Sequence[Buffers]) -> None:
        """Do its work on the buffers of its wave."""
        self.work(waves[self.wave])


class Edge(NamedTuple):
    """Node `after` must not start before node `before` is done, because of `buffer`.

    kind: RAW (reads what was written), WAW or WAR.
    """

    before: int
    after: int
    buffer: str
    kind: str


class _Access(NamedTuple):
    place: int
    node: Node


def edges(nodes: Sequence[Node]) -> Iterator[Edge]:
    """The dependencies of later nodes on earlier ones, by their places in `nodes`.

    What follows from others through a node that writes a part again is left out: behind such a
    write nothing older of that part is looked at.
    """
    readers: dict[tuple[str, int], list[_Access]] = {}
    writers: dict[tuple[str, int], list[_Access]] = {}
    for after, node in enumerate(nodes):
        taken, changed = {*node.reads, *node.updates}, {*node.writes, *node.updates}
        for buffer in sorted(taken | changed):
            memory = (buffer, _copy(node, buffer))
            read, written = readers.setdefault(memory, []), writers.setdefault(memory, [])
            if buffer in taken:
                yield from _meeting(written, after, node, buffer, "RAW")
            if buffer in changed:
                yield from _meeting(written, after, node, buffer, "WAW")
                yield from _meeting(read, after, node, buffer, "WAR")
        for buffer in sorted(taken | changed):
            memory = (buffer, _copy(node, buffer))
            if buffer in changed:
                for accesses in (readers[memory], writers[memory]):
                    accesses[:] = [a for a in accesses if not _within(a.node, node, buffer)]
                writers[memory].append(_Access(after, node))
            if buffer in taken:
                readers[memory].append(_Access(after, node))


def _meeting(
    earlier: Sequence[_Access], after: int, node: Node, buffer: str, kind: str
) -> Iterator[Edge]:
    for place, other in earlier:
        if not _apart(other, node, buffer):
            yield Edge(place, after, buffer, kind)


def _copy(node: Node, buffer: str) -> int:
    """Which copy of a buffer a node touches: a wave's workspace is one of several, its rows of the
    chunk's are its own, and everything else there is once."""
    known = BUFFERS.get(buffer)
    if known is None or known.lifetime == "wave":
        return node.slot
    return node.wave if known.lifetime in ("chunk", "output") else 0


def _axes(node: Node, buffer: str) -> dict[Axis, range]:
    """The parts of `buffer` that the node keeps to."""
    known = BUFFERS.get(buffer)
    return {axis: part for axis, part in node.parts if known is not None and axis in known.axes}


def _laid_alike(a: Node, b: Node, buffer: str) -> bool:
    """Whether the same part of `buffer` is the same memory to both: what has its tokens inside of
    a group is laid out anew for a wave of fewer."""
    known = BUFFERS.get(buffer)
    places = {} if known is None else known.axes
    inside = "tokens" in places and places.get("groups", len(places)) < places["tokens"]
    return a.tokens == b.tokens or not inside


def _within(a: Node, b: Node, buffer: str) -> bool:
    """Whether all that `a` touches of `buffer` is touched by `b`, or by nobody after it."""
    of_a = _axes(a, buffer)
    if not _laid_alike(a, b, buffer) and _axes(b, buffer):
        return False
    return all(
        axis in of_a and part.start <= of_a[axis].start and of_a[axis].stop <= part.stop
        for axis, part in _axes(b, buffer).items()
    )


def _apart(a: Node, b: Node, buffer: str) -> bool:
    """Whether the nodes touch different parts of `buffer` along some axis."""
    of_a, of_b = _axes(a, buffer), _axes(b, buffer)
    return _laid_alike(a, b, buffer) and any(
        of_a[axis].stop <= of_b[axis].start or of_b[axis].stop <= of_a[axis].start
        for axis in of_a.keys() & of_b.keys()
    )
