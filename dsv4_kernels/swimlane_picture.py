"""The picture of a swimlane: both schedules on one time axis, the critical path outlined."""

from __future__ import annotations

from collections.abc import Sequence

from dsv4_kernels.device import MissingDependency
from dsv4_kernels.graph import COLOURS
from dsv4_kernels.swimlane import Swimlane, lane_names

try:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
except ImportError as error:
    raise MissingDependency(
        "the picture needs matplotlib: pip install 'dsv4-kernels[bench]'"
    ) from (error)

# A label of 16 letters takes this share of the axis; one of a narrower bar stands above it, aslant.
ROOM_FOR_A_LABEL = 0.07
CRITICAL = "#b00020"


def draw(lanes: Sequence[Swimlane], title: str, path: str) -> None:
    """Write the PNG."""
    end = max(lane.makespan for lane in lanes) / 1e3
    figure, axes = pyplot.subplots(
        len(lanes), 1, sharex=True, figsize=(13, 2.9 * len(lanes) + 0.8), layout="constrained"
    )
    for axis, lane in zip(axes, lanes, strict=True):
        names = lane_names(lane)
        for place, span in enumerate(lane.spans):
            begin, width = span.begin / 1e3, (span.end - span.begin) / 1e3
            row, critical = names.index(span.node.lane), place in lane.critical
            axis.barh(
                row,
                width,
                left=begin,
                height=0.55,
                color=COLOURS[span.node.lane],
                edgecolor=CRITICAL if critical else "#555555",
                linewidth=1.5 if critical else 0.6,
            )
            middle, label = begin + width / 2, span.node.label
            if width >= ROOM_FOR_A_LABEL * end:
                axis.text(middle, row, label, ha="center", va="center", fontsize=9)
            else:
                axis.text(middle, row - 0.32, label, rotation=20, fontsize=7, va="bottom")
        axis.axvline(lane.makespan / 1e3, color=CRITICAL, linewidth=0.8, linestyle=":")
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.6, -0.9)
        axis.set_title(f"{lane.schedule}: {lane.makespan / 1e3:.3f} ms", loc="left", fontsize=11)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("milliseconds; red outline: the critical path")
    axes[-1].set_xlim(0, 1.05 * end)
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
