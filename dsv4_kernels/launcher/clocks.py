"""When every launch of a run began and ended, and which of them made the run as long as it was.

A clock is an executor that also takes times: `HostClock` where a launch returns when its work is
done (a CPU), `EventClock` on a device with streams, one per lane.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from dsv4_kernels import device as devices
from dsv4_kernels.buffers import Buffers
from dsv4_kernels.launcher.executors import OnStreams
from dsv4_kernels.launcher.graph import Node, edges


class Span(NamedTuple):
    """A node that ran; times in microseconds since the run's first launch began."""

    node: Node
    begin: float
    end: float

    @property
    def duration(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True)
class Timeline:
    """One run of a schedule, its launches in the order of issue."""

    schedule: str
    launches: tuple[Span, ...]

    @property
    def makespan(self) -> float:
        """Microseconds from the begin of the first launch to the end of the last."""
        return max(launch.end for launch in self.launches)

    @functools.cached_property
    def critical_path(self) -> tuple[int, ...]:
        """Places of the launches that made the makespan, first to last; none where all ran one
        after the other, as on a CPU.

        Walked back from the launch that ended last: what a launch waited for is the last to end of
        those that it depends on and the one before it on its lane.
        """
        in_time = sorted(self.launches, key=lambda launch: launch.begin)
        if all(one.end <= next_.begin for one, next_ in itertools.pairwise(in_time)):
            return ()
        nodes = [launch.node for launch in self.launches]
        waited_for: list[set[int]] = [set() for _ in nodes]
        for edge in edges(nodes):
            waited_for[edge.after].add(edge.before)
        on_lane: dict[str, int] = {}
        for place, node in enumerate(nodes):
            if node.lane in on_lane:
                waited_for[place].add(on_lane[node.lane])
            on_lane[node.lane] = place

        def last_to_end(places: Sequence[int] | set[int]) -> int:
            return max(places, key=lambda place: self.launches[place].end)

        path = [last_to_end(range(len(nodes)))]
        while before := waited_for[path[-1]]:
            path.append(last_to_end(before))
        return tuple(reversed(path))


def lanes(timelines: Sequence[Timeline]) -> list[str]:
    """Every lane of any of them, in the order in which they first have something to do."""
    nodes = [launch.node for timeline in timelines for launch in timeline.launches]
    return list(dict.fromkeys(node.lane for node in nodes))


class HostClock:
    """`executors.in_order` with the host's clock read around every launch."""

    def __init__(self) -> None:
        self._runs: list[list[tuple[Node, float, float]]] = []

    def __call__(self, nodes: Sequence[Node], waves: Sequence[Buffers]) -> None:
        run: list[tuple[Node, float, float]] = []
        for node in nodes:
            begin = time.perf_counter()
            node.run(waves)
            run.append((node, 1e6 * begin, 1e6 * time.perf_counter()))
        self._runs.append(run)

    def read(self) -> list[tuple[Span, ...]]:
        """Every run so far."""
        return [_from_first_begin(run) for run in self._runs]


class EventClock:
    """`executors.OnStreams` with an event before and behind every launch, on its lane's stream.

    A launch begins when its lane is free and has nothing left to wait for: where a device is faster
    than its host, the time that the launch itself takes is in it. Arguments as for OnStreams.
    """

    def __init__(self, device: torch.device, api: Any) -> None:
        self._device = device
        self._api = api
        self._execute = OnStreams(device, api, launch=self._launch)
        self._runs: list[list[tuple[Node, Any, Any]]] = []  # (node, begin, end)

    def __call__(self, nodes: Sequence[Node], waves: Sequence[Buffers]) -> None:
        self._runs.append([])
        self._execute(nodes, waves)

    def read(self) -> list[tuple[Span, ...]]:
        """Every run so far, once the device has done them all."""
        devices.synchronize(self._device)
        runs = []
        for run in self._runs:
            _, origin, _ = run[0]
            since = origin.elapsed_time  # in milliseconds
            runs.append([(node, 1e3 * since(begin), 1e3 * since(end)) for node, begin, end in run])
        return [_from_first_begin(run) for run in runs]

    def _launch(self, node: Node, waves: Sequence[Buffers]) -> None:
        begin, end = (self._api.Event(enable_timing=True) for _ in range(2))
        stream = self._api.current_stream(self._device)
        begin.record(stream)
        node.run(waves)
        end.record(stream)
        self._runs[-1].append((node, begin, end))


def _from_first_begin(run: Sequence[tuple[Node, float, float]]) -> tuple[Span, ...]:
    first = min(begin for _, begin, _ in run)
    return tuple(Span(node, begin - first, end - first) for node, begin, end in run)
