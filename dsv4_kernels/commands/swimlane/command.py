"""``python -m dsv4_kernels swimlane``: when every launch of a chunk began and ended, lane by lane.

Both schedules are run on the device present and drawn one above the other, as a picture and as a
trace that Perfetto (ui.perfetto.dev) and chrome://tracing open.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from dsv4_kernels import device as devices
from dsv4_kernels.chains.prefill import SCHEDULES, PrefillSparseAttn
from dsv4_kernels.commands import terminal
from dsv4_kernels.commands.options import add_chunk, add_groups_per_launch, require_folders
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs.prefill import PrefillInputs, make_inputs
from dsv4_kernels.launcher.clocks import EventClock, HostClock, Timeline, lanes

RUNS = 5  # of which the one with the median makespan is shown


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which chunk to draw, by how many groups a launch, and where to write."""
    add_chunk(parser)
    add_groups_per_launch(parser)
    parser.add_argument(
        "--json", dest="json_file", default="swimlane.json", metavar="FILE", help="for Perfetto"
    )
    parser.add_argument(
        "--png", dest="png_file", default="swimlane.png", metavar="FILE", help="the picture"
    )


def swimlane(
    *,
    preset: str,
    layer: str,
    tokens: int,
    start: int,
    seed: int,
    json_file: str,
    png_file: str,
    groups_per_launch: int,
) -> bool:
    """Run, draw and print; True.

    Raises ValueError for fewer than one token or a file in no folder, MissingDependency without
    matplotlib.
    """
    from dsv4_kernels.commands.swimlane.picture import draw  # imported late: needs matplotlib

    if tokens < 1:
        raise ValueError(f"`--tokens` must be at least 1, got {tokens}")
    require_folders(json_file, png_file)
    console = terminal.console(terminal.WIDTH)
    device = devices.best()
    inputs = make_inputs(
        PRESETS[preset], layer=layer, tokens=tokens, start=start, seed=seed, device=device
    )
    with terminal.progress(console, transient=True) as progress:
        task = progress.add_task("compiling and running", total=len(SCHEDULES) * (1 + RUNS))
        timelines = record(
            inputs, SCHEDULES, groups_per_launch, RUNS, lambda: progress.advance(task)
        )
    for timeline in timelines:
        console.print(_table(timeline))
    title = f"{preset} {layer}, T = {tokens}, from position {start}"
    caption = f"on {devices.describe(device)}\n{verdict(timelines, device)}"
    console.print(f"{title}\n{caption}", highlight=False)
    Path(json_file).write_text(json.dumps(trace(timelines, f"{title}\n{caption}")))
    draw(timelines, title, caption, png_file)
    console.print(f"wrote {json_file} (Perfetto, chrome://tracing) and {png_file}")
    return True


def verdict(timelines: Sequence[Timeline], device: torch.device) -> str:
    """The ratio of every makespan to the last schedule's, and what it is worth on `device`."""
    *others, base = timelines
    worth = (
        "launches run one after the other, each on all cores: the ratio says nothing about "
        "overlap on an NPU"
        if devices.stream_api(device) is None
        else "a stream per lane, timed by events"
    )
    ratios = ", ".join(
        f"{timeline.schedule} / {base.schedule}: {timeline.makespan / base.makespan:.3f}"
        for timeline in others
    )
    return f"makespan {ratios}, medians of {RUNS} runs; {worth}"


def trace(timelines: Sequence[Timeline], title: str) -> dict[str, Any]:
    """Chrome's trace format: a process per schedule, a thread per lane, microseconds."""
    threads = {lane: tid for tid, lane in enumerate(lanes(timelines), start=1)}
    events: list[dict[str, Any]] = []
    for pid, timeline in enumerate(timelines, start=1):  # 0 is Linux's idle process
        name = f"{timeline.schedule}: {_milliseconds(timeline.makespan)}"
        events.append(dict(ph="M", name="process_name", pid=pid, args=dict(name=name)))
        for lane, tid in threads.items():
            thread = dict(ph="M", pid=pid, tid=tid)
            events.append(thread | dict(name="thread_name", args=dict(name=lane)))
            events.append(thread | dict(name="thread_sort_index", args=dict(sort_index=tid)))
        events += [
            dict(
                ph="X",
                name=launch.node.label,
                cat="critical" if place in timeline.critical_path else "launch",
                pid=pid,
                tid=threads[launch.node.lane],
                ts=launch.begin,
                dur=launch.duration,
            )
            for place, launch in enumerate(timeline.launches)
        ]
    return dict(traceEvents=events, displayTimeUnit="ms", otherData=dict(title=title))


def _table(timeline: Timeline) -> Table:
    table = Table(title=f"{timeline.schedule}: {_milliseconds(timeline.makespan)}")
    for heading in ("launch", "lane"):
        table.add_column(heading, no_wrap=True)
    for heading in ("begin", "duration"):
        table.add_column(heading, justify="right")
    if timeline.critical_path:
        table.add_column("critical path", justify="center")
    for place, launch in enumerate(timeline.launches):
        critical = place in timeline.critical_path
        table.add_row(
            launch.node.label,
            launch.node.lane,
            _milliseconds(launch.begin),
            _milliseconds(launch.duration),
            *(["yes" if critical else ""] if timeline.critical_path else []),
            style="bold" if critical else None,
        )
    return table


def _milliseconds(microseconds: float) -> str:
    return f"{microseconds / 1e3:.3f} ms"


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
        clocks[schedule] = HostClock() if api is None else EventClock(device, api)
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
