"""``python -m dsv4_kernels swimlane``: when every launch of a chunk began and ended, lane by lane.

Both schedules are run on the device present and drawn one above the other, as a picture and as a
trace that Perfetto and chrome://tracing open. On an NPU or a GPU the times are those of events
round every launch on its lane's stream; on a CPU those of the host's clock, where launches take all
cores and follow each other, so that nothing can overlap.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dsv4_kernels import device as devices
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.executors import OnStreams
from dsv4_kernels.inputs import PrefillInputs, make_inputs
from dsv4_kernels.pipeline import SCHEDULES, Buffers, Node, edges
from dsv4_kernels.plan import PrefillSparseAttn

RUNS = 5  # of which the one with the median makespan is shown


@dataclass(frozen=True)
class Span:
    """One launch: microseconds after the chunk's first launch began."""

    node: Node
    begin: float
    end: float


@dataclass(frozen=True)
class Swimlane:
    """One run of a schedule; critical: places of the spans on its critical path."""

    schedule: str
    spans: tuple[Span, ...]
    critical: tuple[int, ...]

    @property
    def makespan(self) -> float:
        """Microseconds from the first launch's begin to the last one's end."""
        return max(span.end for span in self.spans)


def swimlane(
    *,
    preset: str,
    layer: str,
    tokens: int,
    start: int,
    seed: int,
    groups_per_launch: int,
    json_file: str,
    png_file: str,
) -> bool:
    """Run, draw and print; True.

    Raises ValueError for fewer than one token, MissingDependency without matplotlib.
    """
    from dsv4_kernels.swimlane_picture import draw  # imported late: needs matplotlib

    if tokens < 1:
        raise ValueError(f"`--tokens` must be at least 1, got {tokens}")
    console = Console()
    device = devices.best()
    inputs = make_inputs(
        PRESETS[preset], layer=layer, tokens=tokens, start=start, seed=seed, device=device
    )
    lanes = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("running", total=len(SCHEDULES))
        for schedule in SCHEDULES:
            progress.update(task, description=f"running {schedule}")
            lanes.append(record(inputs, schedule, groups_per_launch))
            progress.advance(task)
    title = f"{preset} {layer}, T = {tokens}, on {devices.describe(device)}"
    Path(json_file).write_text(json.dumps(trace(lanes, title)))
    draw(lanes, title, png_file)
    for lane in lanes:
        console.print(_table(lane))
    makespans = {lane.schedule: lane.makespan for lane in lanes}
    ratio = makespans["decoupled"] / makespans["row_barrier"]
    console.print(f"makespan decoupled / row_barrier: {ratio:.3f}, on {devices.describe(device)}")
    if device.type == "cpu":
        console.print("launches follow each other on a CPU: the ratio compares work, not overlap")
    console.print(f"wrote {json_file} (Perfetto, chrome://tracing) and {png_file}")
    return True


def record(inputs: PrefillInputs, schedule: str, groups_per_launch: int) -> Swimlane:
    """The run with the median makespan of RUNS, after one that compiles. inputs: of one wave."""
    nodes = SCHEDULES[schedule](inputs.wo_a.shape[0], groups_per_launch)
    api = devices.stream_api(inputs.q.device)
    clock = HostClock() if api is None else EventClock(nodes, inputs.q.device, api)
    plan = PrefillSparseAttn(
        *inputs.args(),
        window=inputs.window,
        wave_tokens=inputs.q.shape[0],
        schedule=schedule,
        groups_per_launch=groups_per_launch,
        executor=clock,
    )
    plan.run(*inputs.args())
    runs = []
    for _ in range(RUNS):
        clock.clear()
        plan.run(*inputs.args())
        runs.append(clock.spans())
    middle = statistics.median_low(max(span.end for span in run) for run in runs)
    spans = next(run for run in runs if max(span.end for span in run) == middle)
    return Swimlane(schedule, spans, critical_path(spans))


def critical_path(spans: Sequence[Span]) -> tuple[int, ...]:
    """Places of the launches from the first to the last to end, each the one that the next waited
    for: of what it depends on and what was before it on its lane, whatever ended last."""
    nodes = [span.node for span in spans]
    before: dict[int, set[int]] = {place: set() for place in range(len(nodes))}
    for edge in edges(nodes):
        before[edge.after].add(edge.before)
    for place, node in enumerate(nodes):
        before[place] |= {other for other in range(place) if nodes[other].lane == node.lane}
    path = [max(before, key=lambda place: spans[place].end)]
    while before[path[0]]:
        path.insert(0, max(before[path[0]], key=lambda place: spans[place].end))
    return tuple(path)


def trace(lanes: Sequence[Swimlane], title: str) -> dict[str, Any]:
    """Chrome's trace event format: a process per schedule, a thread per lane, microseconds."""
    events: list[dict[str, Any]] = []
    for pid, lane in enumerate(lanes):
        threads = {name: tid for tid, name in enumerate(lane_names(lane))}
        events.append(_named("process_name", pid, 0, lane.schedule))
        events += [_named("thread_name", pid, tid, name) for name, tid in threads.items()]
        events += [
            {
                "name": span.node.label,
                "cat": "critical" if place in lane.critical else "launch",
                "ph": "X",
                "ts": span.begin,
                "dur": span.end - span.begin,
                "pid": pid,
                "tid": threads[span.node.lane],
            }
            for place, span in enumerate(lane.spans)
        ]
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"title": title}}


def lane_names(lane: Swimlane) -> list[str]:
    """The lanes that have launches, in the order in which they begin."""
    return list(dict.fromkeys(span.node.lane for span in lane.spans))


def _named(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}


class HostClock:
    """An executor that runs in order and times every launch on the host's clock."""

    def __init__(self) -> None:
        self._times: list[tuple[Node, float, float]] = []

    def __call__(self, nodes: Sequence[Node], buffers: Buffers) -> None:
        for node in nodes:
            begin = time.perf_counter()
            node.run(buffers)
            self._times.append((node, begin, time.perf_counter()))

    def clear(self) -> None:
        self._times.clear()

    def spans(self) -> tuple[Span, ...]:
        first = self._times[0][1]
        return tuple(
            Span(node, 1e6 * (begin - first), 1e6 * (end - first))
            for node, begin, end in self._times
        )


class EventClock:
    """An executor on streams with a timing event before and after every launch."""

    def __init__(self, nodes: tuple[Node, ...], device: torch.device, api: Any) -> None:
        self._api, self._device = api, device
        self._events: list[tuple[Node, Any, Any]] = []
        self._on_streams = OnStreams(nodes, device, api, launch=self._launch)

    def __call__(self, nodes: Sequence[Node], buffers: Buffers) -> None:
        self._on_streams(nodes, buffers)

    def clear(self) -> None:
        self._events.clear()

    def spans(self) -> tuple[Span, ...]:
        devices.synchronize(self._device)
        origin = self._events[0][1]
        after = [
            (node, 1e3 * origin.elapsed_time(begin), 1e3 * origin.elapsed_time(end))
            for node, begin, end in self._events
        ]
        first = min(begin for _, begin, _ in after)
        return tuple(Span(node, begin - first, end - first) for node, begin, end in after)

    def _launch(self, node: Node, buffers: Buffers) -> None:
        begin, end = (self._api.Event(enable_timing=True) for _ in range(2))
        stream = self._api.current_stream(self._device)
        begin.record(stream)
        node.run(buffers)
        end.record(stream)
        self._events.append((node, begin, end))


def _table(lane: Swimlane) -> Table:
    table = Table(title=f"{lane.schedule}: makespan {lane.makespan / 1e3:.3f} ms")
    for heading in ("launch", "lane", "begin us", "us", "critical"):
        table.add_column(heading, justify="right" if "us" in heading else "left")
    for place, span in enumerate(lane.spans):
        mark = "*" if place in lane.critical else ""
        numbers = (f"{span.begin:,.1f}", f"{span.end - span.begin:,.1f}")
        table.add_row(span.node.label, span.node.lane, *numbers, mark)
    return table
