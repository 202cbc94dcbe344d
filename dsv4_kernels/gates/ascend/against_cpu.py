"""Every segment's launch executed as final IR on a model of the cores, against the CPU path.

Both get the same inputs: what the CPU path made of the segments before. Widths are the preset's,
tokens few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dsv4_kernels import device
from dsv4_kernels.backends.hivm.report import Report, Stopped
from dsv4_kernels.buffers import Buffers
from dsv4_kernels.chains.prefill import PrefillSparseAttn
from dsv4_kernels.dims import Dims
from dsv4_kernels.gates.ascend import compiler
from dsv4_kernels.gates.ascend.compiler import AscendKernel
from dsv4_kernels.gates.ascend.execute import execute
from dsv4_kernels.gates.ascend.launches import part_target
from dsv4_kernels.gates.chunk import Code, code_of, forms_on, labels
from dsv4_kernels.inputs.prefill import PrefillInputs, make_inputs
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.segments import SEGMENTS

# A chunk with a dead row, after positions enough for a wrapped window and for every slot that an
# indexer picks.
LIVE, CAPACITY, START = 3, 4, 6000

# A byte that outputs hold before: NaN where they are floats.
POISON = 0xFF


@dataclass(frozen=True)
class Executed:
    """The launches of one kernel, executed.

    differences: of each output that is not the CPU path's to the byte, the largest difference, as a
    part of its largest value. findings: what the model found, and how often. races: how many of
    them are. instructions: performed, of all pipes and cores. code: of the first variant, as
    `AscendKernel.code`. variants: codes that compiling the kernel gave; each was executed, and all
    of this is the worst of them. seconds: of this host.
    """

    differences: Mapping[str, float]
    findings: Mapping[str, int]
    races: int
    code: str
    instructions: int
    variants: int
    seconds: float

    def __add__(self, other: Executed) -> Executed:
        """Of another launch of the kernel too."""
        differences = {**self.differences}
        for name, difference in other.differences.items():
            differences[name] = max(differences.get(name, 0.0), difference)
        return Executed(
            differences=differences,
            findings=dict(Counter(self.findings) + Counter(other.findings)),
            races=self.races + other.races,
            code=self.code,
            instructions=self.instructions + other.instructions,
            variants=max(self.variants, other.variants),
            seconds=self.seconds + other.seconds,
        )

    def breaches(self, segment: str) -> Iterator[str]:
        """What must not be, in words."""
        for finding, times in self.findings.items():
            yield f"executed: {times} x {finding}"
        for name, difference in self.differences.items():
            allowed = SEGMENTS[segment].rounded.get(name, 0.0)
            if not difference <= allowed:
                yield f"executed: {name} differs by {difference:.1e} of its largest value, " + (
                    f"{allowed:.0e} allowed" if allowed else "none allowed"
                )


def execute_chunk(
    part: str,
    dims: Dims,
    *,
    segments: Collection[str],
    tiles: Mapping[str, Any] | None = None,
    compilations: int = 1,
) -> Iterator[tuple[str, Executed]]:
    """Execute the kernels of all forms, each with all its launches, as one CSA chunk asks for them:
    (label, as `Compiled` has it, and what was found).

    A kernel that the compiler refuses is left out. Raises ValueError where the IR has what the
    model does not know.

    Args:
        part: of `PARTS`.
        dims: sizes of the model.
        segments: those to execute; the others run on the CPU path only.
        tiles: tiles to use instead of a segment's own on the part, on the CPU path too.
        compilations: how often to compile each kernel; every different code is executed.
    """
    target, driver = part_target(part), compiler.driver(part)
    # Those of a whole wave, which the gate holds, although here are few tokens.
    chosen = {name: segment.tiles.on(target) for name, segment in SEGMENTS.items()}
    chosen |= dict(tiles or {})
    inputs = make_inputs(dims, tokens=LIVE, capacity=CAPACITY, start=START)
    chains = []
    for form in forms_on("npu"):
        on_cpu = _bound(inputs, dims, form, chosen)
        with device.route("cpu", target, driver):
            chains.append((on_cpu, _bound(inputs, dims, form, chosen)))
    codes: dict[Code, Node] = {}
    for _, (recorded, on_model) in chains:
        for node in recorded:
            if (code := code_of(node, on_model)) is not None:
                codes.setdefault(code, node)
    named = labels(codes)
    found: dict[Code, Executed] = {}
    for (nodes, on_cpu), (recorded, on_model) in chains:
        done = {*found}
        for name in {name for node in nodes for name in node.writes}:
            on_cpu[name].view(torch.uint8).fill_(POISON)
        for node, twin in zip(nodes, recorded, strict=True):
            outputs = {name: on_model[name] for name in (*node.writes, *node.updates)}
            for name, output in outputs.items():
                output.copy_(on_cpu[name])
            with device.on(on_cpu["q"]):
                node.run([on_cpu])
            code = code_of(twin, on_model)
            if code is not None and node.name in segments and code not in done:
                with device.route("cpu", target, driver):
                    launch = _recorded(driver, twin, on_model)
                if not launch.refusal:
                    want = {name: on_cpu[name] for name in outputs}
                    executed = _executed(launch, part, outputs, want, compilations)
                    found[code] = found[code] + executed if code in found else executed
            for name, output in outputs.items():
                output.copy_(on_cpu[name])
        yield from ((named[code], found[code]) for code in found if code not in done)


def _bound(
    inputs: PrefillInputs, dims: Dims, form: tuple[str, str], tiles: Mapping[str, Any]
) -> tuple[Sequence[Node], dict[str, Any]]:
    """The nodes of a plan, and the buffers of its only wave."""
    bound: list[tuple[Sequence[Node], dict[str, Any]]] = []

    def executor(nodes: Sequence[Node], waves: Sequence[Buffers]) -> None:
        bound.append((nodes, dict(waves[0])))

    plan = PrefillSparseAttn(
        *inputs.args(),
        window=inputs.window,
        schedule=form[0],
        attention=form[1],
        executor=executor,
        tiles=tiles,
    )
    plan.run(*inputs.args())
    return bound[0]


def _recorded(
    driver: compiler.CompileOnlyDriver, node: Node, buffers: dict[str, Any]
) -> AscendKernel:
    driver.launches.clear()
    with device.on(buffers["q"]):
        node.run([buffers])
    (launch,) = driver.launches
    return launch


def _executed(
    launch: AscendKernel,
    part: str,
    outputs: Mapping[str, torch.Tensor],
    want: Mapping[str, torch.Tensor],
    compilations: int,
) -> Executed:
    """Execute every variant of a launch. outputs: what it writes, as it finds them."""
    again = [compiler.recompiled(launch, part) for _ in range(compilations - 1)]
    variants = {variant.hivm: variant for variant in (launch, *again)}
    before = {name: output.clone() for name, output in outputs.items()}
    differences: dict[str, float] = {}
    reports: list[Report] = []
    for variant in variants.values():
        for name, output in outputs.items():
            output.copy_(before[name])
        try:
            reports.append(execute(variant, part))
        except Stopped as stopped:
            reports.append(stopped.report)
        for name, output in outputs.items():
            if not same_bytes(output, want[name]):
                worst = max(differences.get(name, 0.0), difference(output, want[name]))
                differences[name] = worst
    findings: Counter[str] = Counter()
    for report in reports:
        findings.update({str(finding): times for finding, times in report.findings.items()})
    return Executed(
        differences=differences,
        findings=dict(findings),
        races=sum(report.kinds()["race"] for report in reports),
        code=launch.code,
        instructions=max(report.instructions for report in reports),
        variants=len(variants),
        seconds=sum(report.seconds for report in reports),
    )


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """NaN included."""
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def difference(got: torch.Tensor, want: torch.Tensor) -> float:
    """The largest difference, as a part of the largest value; infinite where one is NaN alone."""
    got, want = got.double(), want.double()
    apart = torch.where(got.isnan() & want.isnan() | (got == want), 0.0, (got - want).abs())
    largest = want.abs().nan_to_num(0.0).max().item()
    return apart.nan_to_num(torch.inf).max().item() / max(largest, 1e-300)
