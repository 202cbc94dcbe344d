"""The study as a picture: errors by activations and scheme above, the chain's budget below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dsv4_kernels.commands.study.accuracy.granularity import SCHEMES, Errors
from dsv4_kernels.commands.study.accuracy.study import Study
from dsv4_kernels.commands.study.accuracy.tables import POINT_NAMES, percent
from dsv4_kernels.device import MissingDependency, with_extra
from reference import ROUNDING_POINTS

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingDependency(f"the picture needs matplotlib: {with_extra('bench')}") from error

INK, FAINT = "#24292f", "#d0d7de"
OURS = "#0969da"
COLOURS = dict(zip(SCHEMES, ("#cf222e", OURS, "#1a7f37", "#8250df"), strict=True))
LANE = 0.2  # height of a scheme, where an activation's row is 1 high


def draw(study: Study, file: Path) -> None:
    """Write the PNG; every figure in it is also in the tables."""
    presets = list(study.granularity)
    width = 1.5 + 5.25 * len(presets)
    figure = Figure(figsize=(width, 9.2), dpi=150, facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.12, w_pad=0.1)  # inches
    axes = figure.subplots(
        2, len(presets), sharex="row", sharey="row", squeeze=False, height_ratios=(7, 3)
    )
    for above, below, preset in zip(axes[0], axes[1], presets, strict=True):
        _granularity(above, preset, study.granularity[preset])
        _budget(below, preset, study)
    marks, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        marks, names, loc="outside upper center", ncols=len(names), frameon=False, fontsize=10,
        title="relative error of the output: "
        "over all tokens (dot), of the worst group of any token (end of line)",
    )  # fmt: skip
    figure.savefig(file, metadata={"Software": None})  # the same bytes from the same results


def _granularity(axes: Axes, preset: str, by_activations: dict[str, dict[str, Errors]]) -> None:
    for row, found in enumerate(by_activations.values()):
        for lane, (scheme, e) in enumerate(found.items()):
            y = row + (lane - (len(found) - 1) / 2) * LANE
            low, high = 100 * e.all, 100 * e.worst_group
            colour = COLOURS[scheme]
            weight = "bold" if colour == OURS else "normal"
            axes.plot([low, high], [y, y], lw=1.6, alpha=0.45, solid_capstyle="butt", color=colour)
            axes.plot(high, y, "|", ms=7, mew=1.6, color=colour)
            axes.plot(low, y, "o", ms=6, label=scheme if row == 0 else None, color=colour)
            text: dict[str, Any] = dict(va="center", textcoords="offset points", fontsize=8)
            text |= dict(color=colour, weight=weight)
            axes.annotate(percent(e.all), (low, y), (-6, 0), ha="right", **text)
            axes.annotate(percent(e.worst_group), (high, y), (6, 0), alpha=0.7, **text)
        if row:
            axes.axhline(row - 0.5, color=FAINT, lw=0.8)
    axes.set_xscale("log")
    axes.set_xlim(0.4, 60)
    ticks = [0.5, 1, 2, 5, 10, 20, 50]
    axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylim(len(by_activations) - 0.5, -0.5)
    axes.set_yticks(
        range(len(by_activations)), [name.replace(", ", ",\n") for name in by_activations]
    )
    _finish(axes, f"{preset}: INT8 and FP8 activations")


def _budget(axes: Axes, preset: str, study: Study) -> None:
    budget = study.budgets[preset]
    names = [*(POINT_NAMES[point] for point in ROUNDING_POINTS), "all of them"]
    values = [*(budget.alone[point] for point in ROUNDING_POINTS), budget.all]
    colours = [OURS if point == "codes" else "#8c959f" for point in ROUNDING_POINTS]
    bars = axes.barh(names, [100 * e for e in values], color=[*colours, INK], height=0.62)
    axes.bar_label(bars, [percent(e) for e in values], padding=4, fontsize=9, color=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * max(100 * b.all for b in study.budgets.values()))
    axes.xaxis.set_major_formatter("{x:g} %")
    _finish(axes, f"{preset}: the chain's roundings, each alone")


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    axes.grid(axis="x", color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    for side in axes.spines.values():
        side.set_visible(False)
