"""The picture of a swimlane: a panel per schedule on one time axis, a row per lane."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dsv4_kernels.device import MissingDependency, with_extra
from dsv4_kernels.launcher.clocks import Span, Timeline, lanes
from dsv4_kernels.segments import SEGMENTS

try:
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
except ImportError as error:
    raise MissingDependency(f"the picture needs matplotlib: {with_extra('bench')}") from error

_INK, _GRID, _LANE, _CRITICAL = "#222222", "#e4e4e4", "#f6f6f4", "#111111"
# Pastels, which carry dark text; with more than twelve segments some share one, told by labels.
_COLOURS = {name: colormaps["Set3"](place % 12) for place, name in enumerate(SEGMENTS)}
_BAR = 0.66  # of a row's height
_MARGIN = 1.08  # of the makespan, so that the last bar may have its label to the right
_CHARACTER = 0.0055  # of the time axis, at a font size of 8: 4.2 points of about 770


def draw(timelines: Sequence[Timeline], title: str, caption: str, file: str) -> None:
    """Write a PNG. caption: what device the times are of, and what they are worth."""
    figure = Figure(figsize=(14, 1.9 + 2 * len(timelines)), layout="constrained")
    panels = figure.subplots(len(timelines), sharex=True, squeeze=False)[:, 0]
    span = max(timeline.makespan for timeline in timelines) / 1e3 * _MARGIN
    rows = {lane: row for row, lane in enumerate(lanes(timelines))}
    for axes, timeline in zip(panels, timelines, strict=True):
        _panel(axes, timeline, span, rows)
    panels[-1].set_xlim(0, span)
    panels[-1].set_xlabel("milliseconds", color=_INK)
    figure.suptitle(title, x=0.008, ha="left", fontsize=14, fontweight="bold", color=_INK)
    figure.supxlabel(caption, x=0.008, ha="left", fontsize=9, color=_INK)
    drawn = {launch.node.name for timeline in timelines for launch in timeline.launches}
    keys = [Patch(facecolor=_COLOURS[name], label=name) for name in SEGMENTS if name in drawn]
    if any(timeline.critical_path for timeline in timelines):
        keys.append(
            Patch(facecolor="none", edgecolor=_CRITICAL, linewidth=1.8, label="critical path")
        )
    figure.legend(handles=keys, loc="outside right center", frameon=False, fontsize=9)
    figure.savefig(file, format="png", dpi=150)


def _panel(axes: Axes, timeline: Timeline, span: float, rows: Mapping[str, int]) -> None:
    for place, launch in enumerate(timeline.launches):
        row, colour = rows[launch.node.lane], _COLOURS[launch.node.name]
        bar: dict[str, Any] = dict(
            width=launch.duration / 1e3, left=launch.begin / 1e3, height=_BAR
        )
        if place in timeline.critical_path:  # behind the bar, so that a thin one keeps its colour
            axes.barh(row, **bar, facecolor=_CRITICAL, edgecolor=_CRITICAL, linewidth=4, zorder=2)
        edge = [0.75 * channel for channel in colour[:3]]
        axes.barh(row, **bar, facecolor=colour, edgecolor=edge, linewidth=0.8, zorder=3)
    for lane, row in rows.items():
        on_lane = [launch for launch in timeline.launches if launch.node.lane == lane]
        for x, text, align in _labels(on_lane, span):
            axes.text(x, row, text, ha=align, va="center", fontsize=8, color=_INK, zorder=4)
        axes.axhspan(row - 0.46, row + 0.46, color=_LANE, zorder=0)
    makespan = timeline.makespan / 1e3
    axes.axvline(makespan, color=_INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    heading = f"{timeline.schedule}: {makespan:.3f} ms"
    axes.set_title(heading, loc="left", fontsize=11, color=_INK)
    axes.set_yticks([*rows.values()], [*rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(length=0, labelcolor=_INK)
    axes.grid(axis="x", color=_GRID)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _labels(launches: Sequence[Span], span: float) -> Iterator[tuple[float, str, str]]:
    """Position, text and alignment of a lane's labels.

    A label is on its bar where it fits, in one line or two; otherwise to the right of it, together
    with those of the bars just before, where that is free. What fits nowhere is told by its colour.
    """

    def fits(text: str, begin: float, end: float) -> bool:
        return max(map(len, text.split("\n"))) * _CHARACTER * span <= end - begin

    waiting, end = [], 0.0
    for launch, following in itertools.zip_longest(launches, launches[1:]):
        label, begin = launch.node.label, launch.begin / 1e3
        if fits(" ", end, begin):
            waiting = []  # it is not next to the bar before
        end = launch.end / 1e3
        waiting.append(label)
        inside = [text for text in (label, label.replace("[", "\n[")) if fits(text, begin, end)]
        beside = f"  {', '.join(waiting)}"
        if inside:
            yield (begin + end) / 2, inside[0], "center"
            waiting = []
        elif fits(beside, end, following.begin / 1e3 if following else span):
            yield end, beside, "left"
            waiting = []
