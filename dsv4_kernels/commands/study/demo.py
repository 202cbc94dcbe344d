"""One layer's chain on the best device present, every segment checked against the reference: of a
chunk, or of a server's batch."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from rich.table import Table

from dsv4_kernels import device as devices
from dsv4_kernels.buffers import Buffers
from dsv4_kernels.commands import terminal
from dsv4_kernels.commands.options import add_chunk, add_verbose
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.segments import EVERY_SEGMENT

try:
    from dsv4_kernels.commands.study.cases import Batch, Case, Chunk, Judged
    from reference import bounds
    from reference.chain_bounds import HANDED_ON, whole
    from reference.compare import compare
except ImportError as error:
    raise devices.MissingDependency(
        "the demo checks against reference/, which is not part of the installed package: run it "
        "from a checkout"
    ) from error


@dataclass
class Checked:
    """What the demo learns of one segment, over all waves."""

    inputs: str = ""
    outputs: str = ""
    seconds: float = 0.0
    verdicts: list[bounds.Verdict] = field(default_factory=list)

    @property
    def worst(self) -> bounds.Verdict:
        """The verdict nearest to its bound, or beyond it."""
        return max(self.verdicts, key=lambda verdict: (not verdict.holds, verdict.used))


def add_options(parser: argparse.ArgumentParser) -> None:
    """What to draw, and whether every segment's inputs are listed."""
    add_chunk(parser)
    batches = parser.add_mutually_exclusive_group()
    batches.add_argument(
        "--decode", action="store_true",
        help="a server's decode step instead of a chunk: T is the capacity of its graph, P the "
        "furthest position, and some requests are padding",
    )  # fmt: skip
    batches.add_argument(
        "--batch", action="store_true",
        help="a server's mixed step: decodes first, then chunks of prompts",
    )  # fmt: skip
    parser.add_argument(
        "--mtp", type=int, metavar="N",
        help="draft tokens of a request that decodes, with --decode or --batch; 1 if not given",
    )  # fmt: skip
    add_verbose(parser, "the inputs' sizes too, in a wider table")


def demo(
    *,
    preset: str,
    layer: str,
    tokens: int,
    start: int,
    seed: int,
    decode: bool = False,
    batch: bool = False,
    mtp: int | None = None,
    verbose: bool = False,
) -> bool:
    """Run, check and print; True if everything is within tolerance."""
    if mtp is not None and not (decode or batch):
        raise ValueError("--mtp says how requests decode: give --decode or --batch with it")
    console = terminal.console(terminal.WIDTH)
    device = devices.best()
    drawn = preset, layer, tokens, start, seed, device
    case: Case = Chunk(*drawn)
    if decode or batch:
        case = Batch(*drawn, mtp=1 if mtp is None else mtp, mixed=batch)
    console.print(f"[bold]{preset} {layer}[/bold], {case.what}")
    console.print(f"on {devices.describe(device)}")
    rows: dict[str, Checked] = defaultdict(Checked)
    handed_on: dict[str, list[torch.Tensor]] = defaultdict(list)
    with terminal.progress(console, words=32) as progress:
        steps = progress.add_task("compiling and running", total=None)

        def step(text: str) -> None:
            progress.update(steps, description=text)

        def first_run(nodes: Sequence[Node], waves: Sequence[Buffers]) -> None:
            progress.update(steps, total=2 * len(nodes))
            for node in nodes:
                step(f"compiling {node.name}")
                node.run(waves)
                devices.synchronize(device)
                progress.advance(steps)

        def timed_run(nodes: Sequence[Node], waves: Sequence[Buffers]) -> None:
            for node in nodes:
                step(f"timing {node.name}")
                buffers = waves[node.wave]
                devices.synchronize(device)
                begin = time.perf_counter()
                node.run(waves)
                devices.synchronize(device)
                rows[node.name].seconds += time.perf_counter() - begin
                step(f"checking {node.name}")
                _check(node, case.taken(buffers), buffers, rows[node.name])
                progress.advance(steps)
                for name in {*HANDED_ON} & {*node.writes}:
                    handed_on[name].append(buffers[name].to("cpu", copy=True))

        case.run(first_run)
        begin = time.perf_counter()
        out = case.run()
        devices.synchronize(device)
        chain_seconds = time.perf_counter() - begin
        checked = case.run(timed_run)
    if rows:
        console.print(_segment_table(rows, device, verbose))
    for name, row in rows.items():
        for verdict in row.verdicts:
            if not verdict.holds:
                console.print(f"[red]{name}[/red] {verdict}")
    console.print(
        f"chain, as launched in one go: {_milliseconds(chain_seconds)} ({_clock(device)})"
    )

    holds = all(verdict.holds for row in rows.values() for verdict in row.verdicts)
    holds &= torch.equal(out, checked)
    with console.status("running the chain's reference and the fp64 oracle"):
        judged = case.judged(out, whole(handed_on))
    console.print(_chain_table(judged, out))
    within = all(verdict.holds for verdict in judged.verdicts.values())
    console.print("[green]within tolerance[/green]" if holds and within else "[red]FAILED[/red]")
    return holds and within


def _check(node: Node, taken: Buffers, made: Buffers, row: Checked) -> None:
    """Judge what `node` wrote against its reference on the same inputs: no node of the fused form
    of attention, with all groups in one launch, changes any."""
    segment = EVERY_SEGMENT[node.name]
    written = segment.outputs_of(made)
    row.verdicts += compare(node.name, segment.inputs_of(taken), written)
    row.inputs = row.inputs or _shapes(node.reads, taken)
    row.outputs = row.outputs or _shapes(tuple(written), made)


def _chain_table(judged: Judged, out: torch.Tensor) -> Table:
    """What the chain hands on, each element within what the one before it makes of it; and how far
    its output is from the reference's and the oracle's, which no bound is set for."""
    title = "the chain, element by element"
    caption = _distances(out, judged.reference, judged.oracle)
    table = terminal.table(title, "hand-over", caption=caption)
    for heading in ("differ", "of bound"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("may differ by")
    for name, verdict in judged.verdicts.items():
        used = f"{verdict.used:.0%}" if verdict.holds else f"[red]{verdict.used:.0%}[/red]"
        table.add_row(name, f"{verdict.share:.4%}", used, verdict.because)
    return table


def _distances(out: torch.Tensor, want: torch.Tensor, exact: torch.Tensor) -> str:
    return "\n".join(
        f"attn_out from {name}: rel-L2 {bounds.relative_l2(out, other):.2e}, "
        f"1 - cosine {1 - bounds.cosine(out, other):.1e}"
        for name, other in (("the reference", want), ("the fp64 oracle", exact))
    )


def _segment_table(rows: dict[str, Checked], device: torch.device, verbose: bool) -> Table:
    words = ("segment", "in", "out") if verbose else ("segment", "out")
    title = "segments, each against its reference on the same inputs"
    table = terminal.table(title, *words, caption=f"times: {_clock(device)}")
    for heading in ("time", "deviation", "of bound"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in rows.items():
        worst = row.worst
        deviation = f"{worst.buffer} {worst.deviation:.2g}" if worst.deviation else "none"
        share = f"{worst.used:.0%}" if worst.holds else f"[red]{worst.used:.0%}[/red]"
        sizes = (row.inputs, row.outputs) if verbose else (row.outputs,)
        table.add_row(name, *sizes, _milliseconds(row.seconds), deviation, share)
    return table


def _shapes(names: Sequence[str], buffers: Buffers) -> str:
    """One tensor a line: name and sizes."""
    return "\n".join(f"{name} {'x'.join(map(str, buffers[name].shape))}" for name in names)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"


def _clock(device: torch.device) -> str:
    """What the times are: a launch and the wait for it, on the host's clock."""
    return "CPU execution, not an NPU's" if device.type == "cpu" else f"{device}, synchronised"
