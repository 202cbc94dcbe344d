"""A stand-in for `torch.npu`'s streams, events and graphs that keeps a log and rejects wrong use.

Nothing is queued: whatever is launched under `stream(...)` has been run when it returns. What is
tested with it is the log: `happens_before` tells what real streams would be bound to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """kind: "launch" of a node by its place, "record" or "wait" of an event, on a stream."""

    kind: str
    stream: Any
    what: Any


class StandIn:
    """What `OnStreams` and plans use of `torch.npu`, for one device."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.log: list[Entry] = []
        self.capturing = False
        stand_in = self

        class Stream:
            def __init__(self, device: Any) -> None:
                assert device == stand_in.device, f"a stream of {device} for {stand_in.device}"

            def wait_event(self, event: Event) -> None:
                assert isinstance(event, Event), "an event of another device"
                assert event.recorded, "waits for an event that nobody recorded"
                stand_in.log.append(Entry("wait", self, event))

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                self.timed, self.recorded = enable_timing, 0

            def record(self, stream: Stream) -> None:
                assert isinstance(stream, Stream), "recorded on a stream of another device"
                stand_in.log.append(Entry("record", stream, self))
                self.recorded = len(stand_in.log)  # the place in the log, as its time

            def elapsed_time(self, end: Event) -> float:
                assert self.timed, "an event without a time"
                assert end.timed, "an event without a time"
                return end.recorded - self.recorded

        class NPUGraph:
            log: Sequence[Entry] = ()

            def replay(self) -> None:
                stand_in.log += [Entry("replay", stand_in.current, self)]

        self.Stream, self.Event, self.NPUGraph = Stream, Event, NPUGraph
        self.current = Stream(device)

    def current_stream(self, device: Any) -> Any:
        assert device == self.device, f"the stream of {device}, not of {self.device}"
        return self.current

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        assert isinstance(stream, self.Stream), "an unknown stream"
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextlib.contextmanager
    def graph(self, graph: Any) -> Iterator[None]:
        """What is issued inside goes into the graph, from a stream of its own."""
        assert isinstance(graph, self.NPUGraph), "an unknown graph"
        outside, self.log, self.capturing = self.log, [], True
        with self.stream(self.Stream(self.device)):
            yield
        graph.log, self.log, self.capturing = self.log, outside, False

    def launched(self, what: Any) -> None:
        """Note a launch on the current stream."""
        self.log.append(Entry("launch", self.current, what))


def happens_before(log: Sequence[Entry]) -> dict[Any, frozenset[Any]]:
    """{launch: all launches that are done before it starts, whatever the streams' speeds}.

    A stream does its entries in order; an event stands for all that its stream had before the
    record, and for all that was known there to be done.
    """
    known: dict[Any, frozenset[Any]] = {}  # by stream, and by event
    before = {}
    for kind, stream, what in log:
        done = known.get(stream, frozenset())
        if kind == "launch":
            before[what] = done
            known[stream] = done | {what}
        elif kind == "record":
            known[what] = done
        elif kind == "wait":
            known[stream] = done | known[what]
        else:
            raise ValueError(f"cannot tell what a {kind} is ordered by")
    return before
