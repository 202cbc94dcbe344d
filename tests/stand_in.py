"""A stand-in for `torch.npu`'s streams, events and graphs that keeps a log and rejects wrong use.

Nothing is queued: whatever is launched under `stream(...)` has been run when it returns. What is
tested with it is the log: `happens_before` tells what real streams would be bound to. `installed`
puts one where plans look for `torch.npu`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from dsv4_kernels import device as devices
from dsv4_kernels.buffers import Buffers
from dsv4_kernels.launcher.executors import OnStreams
from dsv4_kernels.launcher.graph import Node


class Entry(NamedTuple):
    """kind: "launch" of a node by its place, "record" or "wait" of an event, on a stream."""

    kind: str
    stream: Any
    what: Any


class IllegalCall(AssertionError):
    """What the real thing answers with an error code, and this with its reason: a verdict."""


class StandIn:
    """What executors and plans use of `torch.npu`, for one device.

    Captures follow the rules of CUDA graphs, which NPU graphs mirror: a stream is drawn into a
    capture by an event that was recorded in it; a capturing stream waits for nothing recorded
    outside (error 905); nothing outside waits for what a capture recorded once that is over (907);
    all streams drawn in are joined before it ends (904); a graph whose capture failed is not
    replayed.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        self.current_device = device
        self.log: list[Entry] = []
        self.graphs: list[Any] = []  # that were captured
        self.kept: list[tuple[Any, Any]] = []  # (tensor, stream) that the allocator was told of
        stand_in = self

        class Stream:
            def __init__(self, device: Any) -> None:
                assert device == stand_in._device, f"a stream of {device} for {stand_in._device}"
                self.capture: Capture | None = None

            def wait_event(self, event: Event) -> None:
                assert isinstance(event, Event), "an event of another device"
                if not event.recorded:
                    raise IllegalCall("waits for an event that nobody recorded")
                if self.capture is not None and event.capture is not self.capture:
                    raise IllegalCall("905: a capture waits for what is outside of it")
                if event.capture is not None:
                    if not event.capture.open:
                        raise IllegalCall("907: waits for an event of a capture that is over")
                    self.capture = event.capture  # drawn in
                    self.capture.draw_in(self)
                    self.capture.note(Entry("wait", self, event))
                    self.capture.join(event.stream, event.recorded)
                    return
                stand_in.log.append(Entry("wait", self, event))

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                self.timed, self.recorded = enable_timing, 0
                self.capture: Capture | None = None
                self.stream: Stream | None = None

            def record(self, stream: Stream) -> None:
                assert isinstance(stream, Stream), "recorded on a stream of another device"
                self.capture, self.stream = stream.capture, stream
                log = stand_in.log if self.capture is None else self.capture.log
                log.append(Entry("record", stream, self))
                self.recorded = len(log)  # the place in the log, as its time

            def elapsed_time(self, end: Event) -> float:
                assert self.timed, "an event without a time"
                assert end.timed, "an event without a time"
                return end.recorded - self.recorded

        class Capture:
            """One capture: its own log, and of every stream drawn in whether it was joined."""

            def __init__(self, origin: Stream) -> None:
                self.log: list[Entry] = []
                self.launches: list[Callable[[], None]] = []  # to do them again
                self.open = True
                self.origin = origin
                self.streams: dict[Stream, bool] = {}

            def draw_in(self, stream: Stream) -> None:
                if stream is not self.origin:
                    self.streams.setdefault(stream, False)

            def note(self, entry: Entry) -> None:
                self.log.append(entry)
                if entry.stream in self.streams:
                    self.streams[entry.stream] = False  # it has something nobody waited for

            def join(self, stream: Stream | None, recorded: int) -> None:
                last = [i for i, e in enumerate(self.log) if e.stream is stream]
                if stream in self.streams and last and last[-1] < recorded:
                    self.streams[stream] = True

        class NPUGraph:
            log: Sequence[Entry] = ()
            launches: Sequence[Callable[[], None]] = ()
            device: Any = None

            def replay(self) -> None:
                if not self.log:
                    raise IllegalCall("replays a graph whose capture failed or never was")
                stand_in.log += [Entry("replay", stand_in.current, self)]
                for launch in self.launches:
                    launch()

        self.Stream, self.Event, self.NPUGraph, self._Capture = Stream, Event, NPUGraph, Capture
        self.current = Stream(device)

    def current_stream(self, device: Any) -> Any:
        assert device == self._device, f"the stream of {device}, not of {self._device}"
        return self.current

    def is_current_stream_capturing(self) -> bool:
        return self.current.capture is not None

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        assert isinstance(stream, self.Stream), "an unknown stream"
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def device(self, device: Any) -> Iterator[None]:
        before, self.current_device = self.current_device, device
        try:
            yield
        finally:
            self.current_device = before

    @contextlib.contextmanager
    def graph(self, graph: Any) -> Iterator[None]:
        """What is issued inside goes into the graph, from a stream of its own."""
        assert isinstance(graph, self.NPUGraph), "an unknown graph"
        origin = self.Stream(self._device)
        origin.capture = capture = self._Capture(origin)
        graph.device = self.current_device
        try:
            with self.stream(origin):
                yield
            unjoined = [stream for stream, joined in capture.streams.items() if not joined]
            if unjoined:
                raise IllegalCall("904: a stream drawn into the capture was not joined")
            self.graphs.append(graph)
            graph.log, graph.launches = capture.log, capture.launches
        finally:
            capture.open = False
            for stream in (origin, *capture.streams):
                stream.capture = None

    def launched(self, what: Any, again: Callable[[], None] | None = None) -> None:
        """Note a launch on the current stream. again: does it, when a graph is replayed."""
        capture, entry = self.current.capture, Entry("launch", self.current, what)
        if capture is None:
            self.log.append(entry)
        else:
            capture.note(entry)
            if again is not None:
                capture.launches.append(again)


def installed(patch: Any) -> StandIn:
    """A stand-in, where plans look for torch.npu: they take their CPU tensors to be on its device.

    Every launch is noted as (label, wave, place in the log), and done; a replay does those of its
    capture again. patch: pytest's monkeypatch.
    """
    device = torch.device("cpu")
    api = StandIn(device)
    patch.setattr(devices, "stream_api", lambda device: api)
    patch.setattr(devices, "current", api.device)
    patch.setattr(devices, "keep_for", lambda *what: api.kept.append(what))
    launch = Node.run

    def again(node: Node, waves: Sequence[Buffers]) -> None:
        with devices.launching(device):
            launch(node, waves)

    def noted(node: Node, waves: Sequence[Buffers]) -> None:
        what = (node.label, node.wave, len(api.log))
        api.launched(what, again=functools.partial(again, node, waves))
        launch(node, waves)

    patch.setattr(Node, "run", noted)
    patch.setattr(OnStreams.__init__, "__defaults__", (noted,))
    return api


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
