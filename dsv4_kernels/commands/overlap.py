"""What may run at a time, as a table: ``python -m dsv4_kernels graph --overlap``.

Counted from the happens-before relation of the launches and from the bytes that a segment cannot
avoid; nothing is measured, and whether cores do run at a time is for a device to show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dsv4_kernels.chains.prefill import SCHEDULES, WAVE_TOKENS, wave_nodes
from dsv4_kernels.commands.terminal import Sheet
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.launcher.lanes import synchronise
from dsv4_kernels.launcher.order import in_order_of_issue
from dsv4_kernels.launcher.overlap import critical_path, overlaps

VECTOR_LANES = ("vector", "gather")  # both keep the vector cores busy


@dataclass(frozen=True)
class Shares:
    """Of a run: the share of the vector lanes' bytes that may run beside the cube lane, of the cube
    lane's bytes beside any other lane, and of all bytes that lie on the heaviest path; launches and
    calls of events."""

    vector: float
    cube: float
    path: float
    launches: int
    events: int


def run_nodes(
    preset: str, schedule: str, tokens: int, groups_per_launch: int, in_flight: int
) -> tuple[Node, ...]:
    """The launches of a CSA chunk in their order of issue, waves of 128 tokens."""
    wave = wave_nodes(
        PRESETS[preset],
        min(tokens, WAVE_TOKENS),
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


def shares(nodes: tuple[Node, ...]) -> Shares:
    """Counted on nodes in their order of issue."""
    found = overlaps(nodes)
    vector = [found[lane] for lane in VECTOR_LANES if lane in found]
    beside_cube = sum(lane.beside.get("cube", 0) for lane in vector)
    total = sum(node.weight for node in nodes)
    steps = synchronise(nodes)
    return Shares(
        vector=beside_cube / sum(lane.bytes for lane in vector),
        cube=found["cube"].share(),
        path=sum(nodes[place].weight for place in critical_path(nodes)) / total,
        launches=len(nodes),
        events=sum(len(s.waits) + s.records for s in steps.steps) + len(steps.joins) + 1,
    )


def overlap_sheet() -> Sheet:
    """FLASH and PRO; one wave, eight with one workspace, eight with two in flight.

    groups: of a launch. vector, cube, path: as `Shares`, in percent. calls: launches + events.
    """
    headings = ("preset", "waves", "schedule", "groups", "vector", "cube", "path", "calls")
    return Sheet(
        "what may run at a time, % of bytes; counted, not measured",
        headings,
        [*_rows()],
        words=("preset", "waves", "schedule"),
    )


def _rows() -> Iterator[list[str]]:
    for preset in PRESETS:
        for tokens, in_flight in ((128, 1), (1024, 1), (1024, 2)):
            for schedule in SCHEDULES:
                for groups in (4, 8):
                    nodes = run_nodes(preset, schedule, tokens, groups, in_flight)
                    found = shares(nodes)
                    yield [
                        preset,
                        str(-(-tokens // WAVE_TOKENS)) + (f", {in_flight}" if tokens > 128 else ""),
                        schedule,
                        str(groups),
                        *(f"{100 * share:.0f}" for share in (found.vector, found.cube, found.path)),
                        f"{found.launches} + {found.events}",
                    ]
