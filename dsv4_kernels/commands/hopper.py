"""``python -m dsv4_kernels hopper``: the gate's verdicts as a table or JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from dsv4_kernels.commands import terminal
from dsv4_kernels.commands.options import add_gate, add_verbose
from dsv4_kernels.device import cuda_target
from dsv4_kernels.gates.batches import Batch, batches_of
from dsv4_kernels.gates.hopper.compiler import require_upstream
from dsv4_kernels.gates.hopper.gate import SHARED_LIMIT, HopperRow, hold_batch, hold_chunk
from dsv4_kernels.gates.options import chosen_tiles, in_parallel, require_known
from dsv4_kernels.segments import segments_on
from dsv4_kernels.segments.tiles import KIB


def add_options(parser: argparse.ArgumentParser) -> None:
    """What to compile."""
    add_gate(parser, family="cuda", example="proj_a.num_stages=5")
    add_verbose(parser, "stages, and wgmma by shape, in a wider table")


def hopper(
    *,
    presets: Sequence[str],
    segments: Sequence[str],
    tiles: Sequence[str],
    as_json: bool,
    batch: bool,
    verbose: bool,
) -> bool:
    """Compile, hold and print; True if no segment breaks what it claims."""
    require_known("segment", segments, segments_on("cuda"))
    chosen = chosen_tiles(tiles, cuda_target("sm_90"))
    require_upstream()
    console = terminal.console(terminal.WIDTH, stderr=as_json)
    with console.status("compiling for sm_90"):
        wanted = batches_of(presets) if batch else presets
        judged = in_parallel(_rows_of, [(what, segments, chosen) for what in wanted])
        rows = [row for rows in judged for row in rows]
    if as_json:
        print(json.dumps({"segments": [dataclasses.asdict(row) for row in rows]}, indent=1))
    else:
        for preset in dict.fromkeys(row.preset for row in rows):
            here = [row for row in rows if row.preset == preset]
            console.print(_table(here, preset, verbose))
    for row in rows:
        for breach in row.breaches:
            console.print(f"[red]breach[/red] {row.label} {row.preset}: {breach}")
    return not any(row.breaches for row in rows)


Job = tuple["str | Batch", Sequence[str], dict[str, Any]]


def _rows_of(job: Job) -> list[HopperRow]:
    what, segments, tiles = job
    if isinstance(what, Batch):
        return hold_batch(what, segments, tiles)
    return [row for row in hold_chunk(what, tiles) if row.segment in segments]


def _table(rows: Sequence[HopperRow], preset: str, verbose: bool) -> Table:
    table = terminal.table(
        f"{preset}, compiled for Hopper, sm_90a, by upstream Triton: nothing ran",
        "segment",
        caption="tasks: programs of the grid; regs: of a thread; "
        f"spills: bytes stored/loaded; shared: KiB a program of {SHARED_LIMIT // KIB}; held: "
        "programs a multiprocessor holds; wgmma: instructions in the PTX",
    )
    for heading in ("tasks", "warps", "regs", "spills", "shared", "held"):
        table.add_column(heading, justify="right")
    table.add_column("wgmma", justify="right")
    table.add_column("")
    if verbose:
        table.add_column("stages", justify="right")
        table.add_column("by shape", overflow="fold")
    for row in rows:
        state = "[red]breach[/red]" if row.breaches else "[green]ok[/green]"
        if row.assembly is None:
            table.add_row(row.label, *[""] * 7, state)
            continue
        table.add_row(
            row.label,
            str(row.grid),
            str(row.num_warps),
            str(row.assembly.registers),
            f"{row.assembly.spill_stores}/{row.assembly.spill_loads}",
            f"{row.shared / KIB:.1f}",
            str(row.resident),
            str(sum(row.wgmma.values()) or "-"),
            state,
            *(_more(row) if verbose else ()),
        )
    return table


def _more(row: HopperRow) -> tuple[str, str]:
    """What only the wider table has."""
    return str(row.num_stages), ", ".join(f"{n} {shape}" for shape, n in row.wgmma.items())
