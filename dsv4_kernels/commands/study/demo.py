"""One layer's chain on the best device present, every segment checked against the reference."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.table import Table

from dsv4_kernels import device as devices
from dsv4_kernels.buffers import Buffers
from dsv4_kernels.chains.prefill import WAVE_TOKENS, prefill_sparse_attn, wave_nodes
from dsv4_kernels.commands import terminal
from dsv4_kernels.commands.options import add_chunk, add_verbose
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs.prefill import PrefillInputs, make_inputs
from dsv4_kernels.launcher.executors import Executor
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.segments import SEGMENTS

try:
    import reference
    from reference import bounds
    from reference.chain_bounds import HANDED_ON, judge_chain, whole
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
    """Which chunk to draw, and whether every segment's inputs are listed."""
    add_chunk(parser)
    add_verbose(parser, "the inputs' sizes too, in a wider table")


def demo(
    *, preset: str, layer: str, tokens: int, start: int, seed: int, verbose: bool = False
) -> bool:
    """Run, check and print; True if everything is within tolerance."""
    console = terminal.console(terminal.WIDTH)
    device = devices.best()
    console.print(f"[bold]{preset} {layer}[/bold], {tokens} tokens from position {start}")
    console.print(f"on {devices.describe(device)}")
    inputs = make_inputs(
        PRESETS[preset], layer=layer, tokens=tokens, start=start, seed=seed, device=device
    )
    names = [node.name for node in wave_nodes(PRESETS[preset], 1, groups_per_launch=10**9)]
    rows = {name: Checked() for name in names}
    handed_on: dict[str, list[torch.Tensor]] = defaultdict(list)
    waves = -(-tokens // WAVE_TOKENS)
    with terminal.progress(console, words=32) as progress:
        steps = progress.add_task("compiling and running", total=2 * waves * len(names))

        def step(text: str) -> None:
            progress.update(steps, description=text)

        def first_run(nodes: Sequence[Node], waves: Sequence[Buffers]) -> None:
            for node in nodes:
                step(f"compiling {node.name}")
                node.run(waves)
                devices.synchronize(device)
                progress.advance(steps)

        def timed_run(nodes: Sequence[Node], waves: Sequence[Buffers]) -> None:
            for node in nodes:
                step(f"timing {node.name}")
                buffers = waves[node.wave]
                before = dict(buffers)
                if node.updates:  # the reference needs what the kernel is about to change
                    before |= {name: buffers[name].clone() for name in node.updates}
                devices.synchronize(device)
                begin = time.perf_counter()
                node.run(waves)
                devices.synchronize(device)
                rows[node.name].seconds += time.perf_counter() - begin
                step(f"checking {node.name}")
                _check(node, before, buffers, rows[node.name])
                progress.advance(steps)
                for name in {*HANDED_ON} & {*node.writes}:  # o_packed is whole behind its update
                    handed_on[name].append(buffers[name].to("cpu", copy=True))
                for name in {*HANDED_ON} & {*node.updates}:
                    handed_on[name][-1] = buffers[name].to("cpu", copy=True)

        _chain(inputs, first_run)
        begin = time.perf_counter()
        out = _chain(inputs)
        devices.synchronize(device)
        chain_seconds = time.perf_counter() - begin
        checked = _chain(inputs, timed_run)
    if tokens:
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
        summary, within = _judge_chain(inputs, out, whole(handed_on))
    console.print(summary)
    console.print("[green]within tolerance[/green]" if holds and within else "[red]FAILED[/red]")
    return holds and within


def _chain(inputs: PrefillInputs, executor: Executor | None = None) -> torch.Tensor:
    """The chain; under an executor of the demo's, with one launch for all groups of a segment."""
    options: dict[str, Any] = {}
    if executor is not None:
        options.update(executor=executor, groups_per_launch=inputs.wo_a.shape[0])
    return prefill_sparse_attn(*inputs.args(), window=inputs.window, **options)


def _check(node: Node, before: Buffers, after: Buffers, row: Checked) -> None:
    """Judge what `node` wrote against its reference on the same inputs."""
    segment = SEGMENTS[node.name]
    written = segment.outputs_of(after)
    row.verdicts += compare(node.name, segment.inputs_of(before), written)
    row.inputs = row.inputs or _shapes(node.reads, before)
    row.outputs = row.outputs or _shapes(tuple(written), after)


def _judge_chain(
    inputs: PrefillInputs, out: torch.Tensor, handed_on: Buffers
) -> tuple[Table, bool]:
    """What the chain hands on, each element within what the one before it makes of it; and how far
    its output is from the reference's and the oracle's, which no bound is set for."""
    on_cpu = inputs.to("cpu")
    want = reference.prefill_sparse_attn(*on_cpu.args(), window=on_cpu.window)
    exact = reference.oracle(*on_cpu.args(), window=on_cpu.window)
    title, caption = "the chain, element by element", _distances(out, want, exact)
    table = terminal.table(title, "hand-over", caption=caption)
    for heading in ("differ", "of bound"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("may differ by")
    verdicts: dict[str, bounds.Verdict] = {}
    if handed_on:
        got = handed_on | {"attn_out": out.cpu()}
        verdicts = judge_chain(on_cpu.args(), got, window=on_cpu.window, schedule="decoupled")
    for name, verdict in verdicts.items():
        used = f"{verdict.used:.0%}" if verdict.holds else f"[red]{verdict.used:.0%}[/red]"
        table.add_row(name, f"{verdict.share:.4%}", used, verdict.because)
    return table, all(verdict.holds for verdict in verdicts.values())


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
