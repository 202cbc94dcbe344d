"""When every launch of a run began and ended, and which of them made the run as long as it was.

A clock is an executor that also takes times: `HostClock` where a launch returns when its work is
done (a CPU), `EventClock` on a device with streams, one per lane.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from dsv4_kernels import device as devices
from dsv4_kernels.chains.pipeline import SCHEDULES, Buffers, Node, edges
from dsv4_kernels.inputs.prefill import PrefillInputs
from dsv4_kernels.launcher.executors import OnStreams
from dsv4_kernels.launcher.plan import PrefillSparseAttn


class Launch(NamedTuple):
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
    launches: tuple[Launch, ...]

    @property
    def makespan(self) -> float:
        """Microseconds from the begin of the first launch to the end of the last."""
        return max(launch.end for launch in self.launches)

    @functools.cached_property
    def critical_path(self) -> tuple[int, ...]:
        """Places of the launches that made the makespan, first to last.

        Walked back from the launch that ended last: what a launch waited for is the last to end of
        those that it depends on and the one before it on its lane.
        """
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


class HostClock:
    """`executors.in_order` with the host's clock read around every launch."""

    def __init__(self) -> None:
        self._runs: list[list[tuple[Node, float, float]]] = []

    def __call__(self, nodes: Sequence[Node], buffers: Buffers) -> None:
        run: list[tuple[Node, float, float]] = []
        for node in nodes:
            begin = time.perf_counter()
            node.run(buffers)
            run.append((node, 1e6 * begin, 1e6 * time.perf_counter()))
        self._runs.append(run)

    def read(self) -> list[tuple[Launch, ...]]:
        """Every run so far."""
        return [_from_first_begin(run) for run in self._runs]


class EventClock:
    """`executors.OnStreams` with an event before and behind every launch, on its lane's stream.

    A launch begins when its lane is free and has nothing left to wait for: where a device is faster
    than its host, the time that the launch itself takes is in it. Arguments as for OnStreams.
    """

    def __init__(self, nodes: Sequence[Node], device: torch.device, api: Any) -> None:
        self._device = device
        self._api = api
        self._execute = OnStreams(nodes, device, api, launch=self._launch)
        self._runs: list[list[tuple[Node, Any, Any]]] = []  # (node, begin, end)

    def __call__(self, nodes: Sequence[Node], buffers: Buffers) -> None:
        self._runs.append([])
        self._execute(nodes, buffers)

    def read(self) -> list[tuple[Launch, ...]]:
        """Every run so far, once the device has done them all."""
        devices.synchronize(self._device)
        runs = []
        for run in self._runs:
            _, origin, _ = run[0]
            since = origin.elapsed_time  # in milliseconds
            runs.append([(node, 1e3 * since(begin), 1e3 * since(end)) for node, begin, end in run])
        return [_from_first_begin(run) for run in runs]

    def _launch(self, node: Node, buffers: Buffers) -> None:
        begin, end = (self._api.Event(enable_timing=True) for _ in range(2))
        stream = self._api.current_stream(self._device)
        begin.record(stream)
        node.run(buffers)
        end.record(stream)
        self._runs[-1].append((node, begin, end))


def _from_first_begin(run: Sequence[tuple[Node, float, float]]) -> tuple[Launch, ...]:
    first = min(begin for _, begin, _ in run)
    return tuple(Launch(node, begin - first, end - first) for node, begin, end in run)


def record(
    inputs: PrefillInputs,
    schedules: Iterable[str],
    groups_per_launch: int,
    runs: int,
    after_each: Callable[[], None],
) -> list[Timeline]:
    """Of every schedule, the run of median makespan out of `runs`, behind one that compiles.

    The schedules take turns, so that a device that slows down slows them alike. Runs are queued
    without a wait in between, which lets the host get ahead of the device.

    Args:
        inputs: at least one live token; they run as one wave.
        schedules, groups_per_launch: as for PrefillSparseAttn.
        runs: an odd number, so that the median is one of them.
        after_each: called after every run, those that compile included.
    """
    device, api = inputs.q.device, devices.stream_api(inputs.q.device)
    clocks: dict[str, HostClock | EventClock] = {}
    plans = []
    for schedule in schedules:
        nodes = SCHEDULES[schedule](inputs.wo_a.shape[0], groups_per_launch)
        clocks[schedule] = HostClock() if api is None else EventClock(nodes, device, api)
        plan = PrefillSparseAttn(
            *inputs.args(),
            window=inputs.window,
            wave_tokens=inputs.q.shape[0],
            schedule=schedule,
            groups_per_launch=groups_per_launch,
            executor=clocks[schedule],
        )
        plans.append(plan)
    for run in range(1 + runs):
        for plan in plans:
            plan.run(*inputs.args())
            after_each()
        if run == 0:
            devices.synchronize(device)
    medians = []
    for schedule, clock in clocks.items():
        timelines = [Timeline(schedule, launches) for launches in clock.read()[1:]]
        medians.append(sorted(timelines, key=lambda timeline: timeline.makespan)[runs // 2])
    return medians
