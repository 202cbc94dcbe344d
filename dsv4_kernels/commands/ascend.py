"""``python -m dsv4_kernels ascend``: the gate's verdicts as tables or JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dsv4_kernels.commands import terminal
from dsv4_kernels.commands.options import add_gate, add_verbose, positive
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates.ascend import compiler
from dsv4_kernels.gates.ascend.against_cpu import CAPACITY, LIVE, execute_chunk
from dsv4_kernels.gates.ascend.compiler import AscendKernel
from dsv4_kernels.gates.ascend.gate import AscendRow, a_k_tile_facts, hold
from dsv4_kernels.gates.ascend.launches import PARTS, compile_chunk, part_target
from dsv4_kernels.gates.ascend.layer_table import breaches, markdown
from dsv4_kernels.gates.ascend.layers import count_layers
from dsv4_kernels.gates.batches import Batch, batches_of
from dsv4_kernels.gates.chunk import Compiled
from dsv4_kernels.gates.options import chosen_tiles, in_parallel, require_known
from dsv4_kernels.segments import segments_on


def add_options(parser: argparse.ArgumentParser) -> None:
    """What to compile, for which parts."""
    add_gate(parser, family="npu", example="group_quant.block_r=512")
    parser.add_argument(
        "--part",
        dest="parts",
        nargs="+",
        default=["Ascend910B3", "Ascend910_9392"],
        metavar="P",
        help=f"of {', '.join(PARTS)}",
    )
    parser.add_argument(
        "--execute",
        action="store_true",
        help="execute the final IR on a model of the cores too, and compare with the CPU path",
    )
    parser.add_argument(
        "--compilations",
        type=positive,
        default=1,
        metavar="N",
        help="with --execute: compile each kernel N times and execute every different code",
    )
    parser.add_argument(
        "--layers",
        action="store_true",
        help="instead: what attention moves by kind of layer and form, as Markdown",
    )
    parser.add_argument("--save", metavar="DIR", help="keep Triton IR, linalg and HIVM there")
    add_verbose(parser, "which buffers take turns, in a wider table")


def ascend(
    *,
    presets: Sequence[str],
    parts: Sequence[str],
    segments: Sequence[str],
    tiles: Sequence[str],
    as_json: bool,
    save: str | None,
    execute: bool,
    compilations: int,
    layers: bool,
    batch: bool,
    verbose: bool,
) -> bool:
    """Compile, hold, execute and print; True if no segment breaks what it claims."""
    require_known("part", parts, PARTS)
    require_known("segment", segments, segments_on("npu"))
    if batch and (execute or layers or save is not None):
        raise ValueError("`--batch` goes without `--execute`, `--layers` and `--save`")
    if layers:
        # One part is enough: what is moved does not depend on the cores.
        counted = {preset: [*count_layers(parts[0], PRESETS[preset])] for preset in presets}
        print(markdown(counted))
        broken = [*breaches(counted)]
        for breach in broken:
            print(f"breach {breach}")
        return not broken
    chosen = chosen_tiles(tiles, part_target(parts[0]))  # one family of devices, one set of tiles
    console = terminal.console(terminal.WIDTH, stderr=as_json)
    if compilations > 1 and not execute:
        raise ValueError("`--compilations` needs `--execute`")
    if batch:
        return _batches(presets, parts, segments, chosen, as_json, console)
    if save is not None:
        Path(save).mkdir(parents=True, exist_ok=True)  # before anything is compiled in vain
    jobs = [(preset, part, segments, chosen, save) for preset in presets for part in parts]
    rows: list[AscendRow] = []
    with terminal.progress(console, words=36, transient=True) as progress:
        task = progress.add_task("compiling", total=len(jobs))
        for (preset, part, *_), judged in zip(jobs, in_parallel(_rows_of, jobs), strict=True):
            rows += judged
            progress.update(task, description=f"compiled {preset} for {part}", advance=1)
        if execute:
            rows = _executed(rows, chosen, compilations, progress)
    if as_json:
        printed = {
            "segments": [dataclasses.asdict(row) for row in rows],
            "a_k_tile": a_k_tile_facts(parts[0], presets[0]),
        }
        print(json.dumps(printed, indent=1))
    else:
        for preset in presets:
            for part in parts:
                here = [row for row in rows if (row.preset, row.part) == (preset, part)]
                console.print(_plan_table(here, f"{preset}, {part}", verbose))
                if execute:
                    console.print(_executed_table(here, f"{preset}, {part}"))
            # One part is enough: what is moved and computed does not depend on the cores.
            of_a_part = [row for row in rows if (row.preset, row.part) == (preset, parts[0])]
            console.print(_bytes_table(of_a_part, preset))
            console.print(_instructions_table(of_a_part, preset))
        console.print(_a_k_tile_table(parts[0], presets[0]))
    return _held(rows, console)


def _held(rows: Sequence[AscendRow], console: Console) -> bool:
    """Print what is broken; True if nothing is."""
    broken = [row for row in rows if row.breaches]
    for row in broken:
        for breach in row.breaches:
            console.print(f"[red]breach[/red] {row.label} {row.preset} {row.part}: {breach}")
    return not broken


BatchJob = tuple[Batch, str, Sequence[str], dict[str, Any]]


def _batches(
    presets: Sequence[str],
    parts: Sequence[str],
    segments: Sequence[str],
    tiles: dict[str, Any],
    as_json: bool,
    console: Console,
) -> bool:
    """A row a batch, and the breaches; True if there is none."""
    jobs = [(batch, part, segments, tiles) for part in parts for batch in batches_of(presets)]
    held: dict[tuple[Batch, str], list[AscendRow]] = {}
    with terminal.progress(console, words=48, transient=True) as progress:
        task = progress.add_task("compiling", total=len(jobs))
        for (batch, part, *_), rows in zip(jobs, in_parallel(_batch_rows, jobs), strict=True):
            held[batch, part] = rows
            progress.update(task, description=f"compiled {batch.name}", advance=1)
    rows = [row for of_batch in held.values() for row in of_batch]
    if as_json:
        print(json.dumps({"segments": [dataclasses.asdict(row) for row in rows]}, indent=1))
    else:
        for part in parts:
            here = {batch: held[batch, part] for batch in batches_of(presets)}
            console.print(_batch_table(here, part))
    return _held(rows, console)


def _batch_rows(job: BatchJob) -> list[AscendRow]:
    batch, part, segments, tiles = job
    compiled = batch.record(part_target(part), compiler.driver(part), tiles, segments)
    return [hold(kernel, batch.name, part) for kernel in compiled]


def _batch_table(held: dict[Batch, list[AscendRow]], part: str) -> Table:
    table = terminal.table(
        f"kernels of sparse_attn, compiled for {part}",
        "batch",
        caption="proj_a, proj_b: bytes moved, as a multiple of their minimum, of each input and "
        "output once",
    )
    for heading in ("kernels", "retry", "proj_a", "proj_b"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for batch, rows in held.items():
        broken = any(row.breaches for row in rows)
        table.add_row(
            batch.name,
            str(len(rows)),
            str(sum(len(row.retries) for row in rows)),
            *(_of_minimum(rows, segment) for segment in ("proj_a", "proj_b")),
            "[red]breach[/red]" if broken else "[green]ok[/green]",
        )
    return table


def _of_minimum(rows: Sequence[AscendRow], segment: str) -> str:
    """The most that a kernel of the segment moves, by its minimum."""
    shares = [
        row.counts.moved / row.minimum_bytes
        for row in rows
        if row.segment == segment and row.counts is not None
    ]
    return f"{max(shares):.2f}x" if shares else "-"


Job = tuple[str, str, Sequence[str], dict[str, Any], str | None]


def _rows_of(job: Job) -> list[AscendRow]:
    preset, part, segments, tiles, save = job
    wanted = compile_chunk(part, PRESETS[preset], tiles=tiles, segments=segments)
    if save is not None:
        for compiled in wanted:
            _save(compiled, Path(save) / preset / part)
    return [hold(compiled, preset, part) for compiled in wanted]


def _executed(
    rows: Sequence[AscendRow], tiles: dict[str, Any], compilations: int, progress: Progress
) -> list[AscendRow]:
    """The rows with what executing them found."""
    wanted = {(row.preset, row.part, row.label): row for row in rows}
    task = progress.add_task("executing", total=len(wanted))
    for preset, part in dict.fromkeys((row.preset, row.part) for row in rows):
        segments = [row.segment for row in rows if (row.preset, row.part) == (preset, part)]
        chunk = execute_chunk(
            part, PRESETS[preset], segments=segments, tiles=tiles, compilations=compilations
        )
        for label, executed in chunk:
            key = preset, part, label
            wanted[key] = wanted[key].with_execution(executed)
            progress.update(task, description=f"executed {label} {preset} {part}", advance=1)
    return [*wanted.values()]


def _save(compiled: Compiled[AscendKernel], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stage, text in {**compiled.launch.stages, "hivm": compiled.launch.hivm}.items():
        (folder / f"{compiled.label}.{stage}.mlir").write_text(text)


def _plan_table(rows: Sequence[AscendRow], where: str, verbose: bool) -> Table:
    limits = next((row.plan.limits for row in rows if row.plan is not None), {})
    room = ", ".join(f"{memory} {size // 1024}" for memory, size in limits.items())
    title = f"compiled for {where}: cores, and KiB per core" + (f" of {room}" if room else "")
    table = terminal.table(title, "segment", "core")
    for memory in ("UB", "L1", "L0C"):
        table.add_column(memory, justify="right")
    for heading in ("scratch", "retry"):
        table.add_column(heading, justify="right")
    table.add_column("")
    if verbose:
        table.add_column("double-buffered", overflow="fold")
    for row in rows:
        plan = row.plan
        state = "[red]breach[/red]" if row.breaches else "[green]ok[/green]"
        if plan is None:
            table.add_row(row.label, *[""] * 6, state)
            continue
        used = [f"{plan.used[m] / 1024:.1f}" if plan.used[m] else "-" for m in ("UB", "L1", "L0C")]
        doubled = ", ".join(plan.doubled) if plan.core != "AIV" else f"{len(plan.doubled)} in UB"
        table.add_row(
            row.label,
            plan.core,
            *used,
            f"{plan.workspace // 1024}" if plan.workspace else "-",
            str(len(row.retries)),
            state,
            *([doubled] if verbose else []),
        )
    return table


def _bytes_table(rows: Sequence[AscendRow], preset: str) -> Table:
    table = terminal.table(
        f"{preset}, counted in the compiled code for one chunk of 128 tokens: MiB",
        "segment",
        caption="minimum: each input once, each output once; no time is derived",
    )
    for heading in ("GM->L1", "GM->UB", "UB->GM", "L0C->GM", "all", "minimum"):
        table.add_column(heading, justify="right")
    for row in rows:
        if (c := row.counts) is not None:
            moved = (c.gm_to_l1, c.gm_to_ub, c.ub_to_gm, c.l0c_to_gm)
            sizes = (*moved, sum(moved), row.minimum_bytes)
            table.add_row(row.label, *[_mib(size) for size in sizes])
    return table


def _instructions_table(rows: Sequence[AscendRow], preset: str) -> Table:
    table = terminal.table(f"{preset}, the same chunk: instructions", "segment")
    for heading in ("launches", "DMA", "G MAC", "vector", "scalar loads", "scalar loops"):
        table.add_column(heading, justify="right")
    for row in rows:
        if (c := row.counts) is not None:
            table.add_row(
                row.label,
                str(row.launches),
                f"{c.dma:,}",
                f"{c.macs / 1e9:.2f}" if c.macs else "-",
                f"{c.vector:,}",
                f"{c.scalar_loads:,}",
                str(c.scalar_loops),
            )
    return table


def _executed_table(rows: Sequence[AscendRow], where: str) -> Table:
    table = terminal.table(
        f"{where}: the final IR on a model of the cores, not on an NPU",
        "segment",
        caption=f"{LIVE} live tokens of {CAPACITY}; equal: to the CPU path, to the byte, or by how "
        "much of the largest value; other: further findings; s: of this host",
    )
    table.add_column("equal", overflow="fold")
    for heading in ("races", "other", "instructions", "codes", "s"):
        table.add_column(heading, justify="right")
    for row in rows:
        found = row.executed
        if found is None:
            table.add_row(row.label, "not executed")
            continue
        apart = ", ".join(f"{name} {by:.0e}" for name, by in found.differences.items())
        table.add_row(
            row.label,
            apart or "yes",
            str(found.races),
            str(sum(found.findings.values()) - found.races),
            f"{found.instructions:,}",
            str(found.variants),
            f"{found.seconds:.1f}",
        )
    return table


def _mib(size: int) -> str:
    return f"{size / 2**20:.3g}" if size else "-"


def _a_k_tile_table(part: str, preset: str) -> Table:
    facts = a_k_tile_facts(part, preset)
    key, *others = facts[0]
    table = terminal.table(f"A_K_TILE of proj_a, {preset}, {part}: the compiled code", key)
    for fact in facts:
        table.add_column(str(fact[key]), justify="right")
    for name in others:
        values = (fact[name] for fact in facts)
        table.add_row(name, *(f"{v:.4g}" if isinstance(v, float) else str(v) for v in values))
    return table
