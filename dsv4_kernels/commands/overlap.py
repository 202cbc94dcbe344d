"""What may run at a time, as a table: ``python -m dsv4_kernels graph --overlap``.

Counted from the happens-before relation of the launches and from the bytes that a segment cannot
avoid; nothing is measured, and whether cores do run at a time is for a device to show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dsv4_kernels.chains.prefill import SCHEDULES, WAVE_TOKENS, wave_nodes
from dsv4_kernels.commands.terminal import Sheet
from dsv4_kernels.dims import LAYER_RATIOS, PRESETS
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.launcher.lanes import synchronise
from dsv4_kernels.launcher.order import in_order_of_issue
from dsv4_kernels.launcher.overlap import critical_path, overlaps

START = 4000  # position of the chunk, as the demo's
RUNS = (  # layer, tokens, waves in flight, groups a launch
    *(("CSA", tokens, flight, groups) for tokens, flight in ((128, 1), (1024, 1), (1024, 2))
      for groups in (4, 8)),
    ("SWA", 1024, 2, 4),
    ("HCA", 1024, 2, 4),
)  # fmt: skip
VECTOR_LANES = ("vector", "gather")  # both keep the vector cores busy


@dataclass(frozen=True)
class Shares:
    """Of a run: the share of the vector lanes' bytes that may run beside the cube lane, of the cube
    lane's bytes and of all FLOP beside any other lane, and of all bytes that lie on the heaviest
    path; launches and calls of events."""

    vector: float
    cube: float
    flop: float
    path: float
    launches: int
    events: int


def run_nodes(
    preset: str, layer: str, schedule: str, tokens: int, groups_per_launch: int, in_flight: int
) -> tuple[Node, ...]:
    """The launches of a chunk from position START in their order of issue, waves of 128 tokens."""
    dims = PRESETS[preset]
    wave = wave_nodes(
        dims,
        min(tokens, WAVE_TOKENS),
        dims.window + _slots(layer, tokens, dims.index_topk),
        schedule=schedule,
        groups_per_launch=groups_per_launch,
    )
    return in_order_of_issue(
        [
            replace(node, wave=at, slot=at % in_flight)
            for at in range(-(-tokens // WAVE_TOKENS))
            for node in wave
        ]
    )


def _slots(layer: str, tokens: int, topk: int) -> int:
    """Compressed slots that a token may attend to; CSA's indexer picks `topk` of them."""
    ratio = LAYER_RATIOS[layer]
    seen = (START + tokens) // ratio if ratio else 0
    return topk if layer == "CSA" else seen


def shares(nodes: tuple[Node, ...]) -> Shares:
    """Counted on nodes in their order of issue."""
    found = overlaps(nodes)
    by_flop = overlaps(tuple(replace(node, weight=node.flop) for node in nodes)).values()
    vector = [found[lane] for lane in VECTOR_LANES if lane in found]
    beside_cube = sum(lane.beside.get("cube", 0) for lane in vector)
    total = sum(node.weight for node in nodes)
    steps = synchronise(nodes)
    return Shares(
        vector=beside_cube / sum(lane.bytes for lane in vector),
        cube=found["cube"].share(),
        flop=sum(lane.beside.get("any", 0) for lane in by_flop)
        / sum(lane.bytes for lane in by_flop),
        path=sum(nodes[place].weight for place in critical_path(nodes)) / total,
        launches=len(nodes),
        events=sum(len(s.waits) + s.records for s in steps.steps) + len(steps.joins) + 1,
    )


def overlap_sheet() -> Sheet:
    """FLASH and PRO, CSA: one wave, eight with one workspace, eight with two in flight; and the
    default of the other kinds of layer.

    groups: of a launch. vector, cube, flop, path: as `Shares`, in percent. calls: launches and
    events.
    """
    headings = ("layer", "waves", "schedule", "groups", "vector", "cube", "flop", "path", "calls")
    return Sheet(
        "what may run at a time, % of bytes; counted, not measured",
        headings,
        [*_rows()],
        words=("layer", "waves", "schedule"),
    )


def _rows() -> Iterator[list[str]]:
    for preset in PRESETS:
        for layer, tokens, in_flight, groups in RUNS:
            for schedule in SCHEDULES:
                found = shares(run_nodes(preset, layer, schedule, tokens, groups, in_flight))
                yield [
                    f"{preset} {layer}",
                    str(-(-tokens // WAVE_TOKENS)) + (f", {in_flight}" if tokens > 128 else ""),
                    schedule,
                    str(groups),
                    *(
                        f"{100 * share:.0f}"
                        for share in (found.vector, found.cube, found.flop, found.path)
                    ),
                    f"{found.launches}+{found.events}",
                ]
