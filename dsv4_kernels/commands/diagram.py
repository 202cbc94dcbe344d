"""``python -m dsv4_kernels graph``: a schedule as a Mermaid diagram, and so the README's.

A box per launch, coloured by the cores that it keeps busy; an arrow per pair of launches that hand
on data, with the buffers' names. What is ordered without handing on data (a workspace written
again) is ordered all the same, and not drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from dsv4_kernels.chains.prefill import SCHEDULES, WAVE_TOKENS, wave_nodes
from dsv4_kernels.commands import terminal
from dsv4_kernels.commands.options import (
    add_groups_per_launch,
    add_markdown,
    add_presets,
    positive,
)
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.launcher.graph import Node, edges

# Fill and text of a lane's boxes: three hues that stay apart in grey and for the colour-blind
# (the first three of Okabe and Ito's palette that carry dark text).
COLOURS = {"cube": "#e69f00", "vector": "#56b4e9", "gather": "#56b4e9", "mix": "#9fd8c4"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which schedule, of how many groups; or the table of overlaps."""
    parser.add_argument("--schedule", default=next(iter(SCHEDULES)), help=" or ".join(SCHEDULES))
    parser.add_argument(
        "--groups", type=positive, default=PRESETS["FLASH"].groups, metavar="G", help="as FLASH's"
    )
    add_groups_per_launch(parser)
    parser.add_argument(
        "--overlap",
        action="store_true",
        help="what may run at a time, as the Ascend compiler's code has it; a minute",
    )
    add_presets(parser)
    add_markdown(parser)


def graph(
    *,
    schedule: str,
    groups: int,
    groups_per_launch: int,
    overlap: bool,
    presets: Sequence[str],
    as_markdown: bool,
) -> bool:
    """Print the diagram, or what may overlap of the presets'; True. ValueError for an unknown
    schedule."""
    if overlap:
        from dsv4_kernels.commands.overlap import overlap_sheet  # which needs triton-ascend

        sheet = overlap_sheet(presets)
        if as_markdown:
            print(sheet.markdown())
        else:
            terminal.console(80).print(sheet.rich())
        return True
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}: known are {', '.join(SCHEDULES)}")
    flash = PRESETS["FLASH"]
    dims = replace(flash, groups=groups, heads=groups * flash.heads_per_group)
    nodes = wave_nodes(dims, WAVE_TOKENS, schedule=schedule, groups_per_launch=groups_per_launch)
    print(mermaid(nodes))
    return True


def mermaid(nodes: Sequence[Node]) -> str:
    """The diagram of `nodes`, in their order of issue."""
    lines = ["flowchart LR"]
    for place, node in enumerate(nodes):
        lines.append(f'    {_box(place)}["{node.label}<br/>{node.lane}"]:::{node.lane}')
    for (before, after), buffers in _handed_on(nodes).items():
        lines.append(f'    {_box(before)} -- "{", ".join(buffers)}" --> {_box(after)}')
    lines += [f"    classDef {lane} fill:{c},stroke:#333,color:#111" for lane, c in COLOURS.items()]
    return "\n".join(lines)


def _box(place: int) -> str:
    return f"n{place}"


def _handed_on(nodes: Sequence[Node]) -> dict[tuple[int, int], list[str]]:
    """{(writer, reader): buffers} of the last launches to write what another reads."""
    flow: dict[tuple[int, int], list[str]] = {}
    for before, after, buffer, kind in edges(nodes):
        if kind == "RAW":
            flow.setdefault((before, after), []).append(buffer)
    return flow
