"""The CPU's matmul against plain loops: ``python -m bench.cpu_matmul`` prints the ratio.

Both lowerings run in one process, in turn, on the same inputs; their outputs must be the same
bytes. The loops are what MLIR and LLVM make of the rule in `backends/linalg/matmul.py` by
themselves, as that file had them before it called C. Times of a CPU say nothing about an NPU.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.table import Table
from triton.runtime.jit import JITFunction

from dsv4_kernels import prefill_sparse_attn, segments
from dsv4_kernels.backends.linalg import lowering, matmul
from dsv4_kernels.commands import terminal
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments.proj_a import proj_a
from dsv4_kernels.segments.proj_b import proj_b

SAMPLES = 7
Case = Callable[[], torch.Tensor]

_MATMUL = re.compile(
    r"(?P<result>%\w+) = linalg\.matmul(?: \{[^}]*\})? "
    r"ins\((?P<a>%\w+), (?P<b>%\w+) : tensor<(?P<M>\d+)x(?P<K>\d+)x(?P<operand>\w+)>, "
    r"tensor<\d+x(?P<N>\d+)x\w+>\) outs\((?P<acc>%\w+) : tensor<\d+x\d+x(?P<sum>\w+)>\) -> \S+"
)
# {operands: (type of a chunk's sum, its zero, body of the products, body of the sum)}
_BODIES = {
    "bf16": (
        "f64",
        "0.0",
        """\
  %wa32 = arith.extf %x : bf16 to f32
  %wb32 = arith.extf %y : bf16 to f32
  %wa = arith.extf %wa32 : f32 to f64
  %wb = arith.extf %wb32 : f32 to f64
  %product = arith.mulf %wa, %wb : f64
  %next = arith.addf %partial, %product : f64""",
        """\
  %rounded = arith.truncf %partial : f64 to f32
  %next = arith.addf %sum, %rounded : f32""",
    ),
    "i8": (
        "i32",
        "0",
        """\
  %wa = arith.extsi %x : i8 to i32
  %wb = arith.extsi %y : i8 to i32
  %product = arith.muli %wa, %wb : i32
  %next = arith.addi %partial, %product : i32""",
        "  %next = arith.addi %sum, %partial : i32",
    ),
}


def plain_loops(linalg: str) -> str:
    """The module with each matmul as two `linalg.generic`: chunks by i, k, j, then their sum."""
    return _MATMUL.sub(_loops, linalg)


def _loops(match: re.Match[str]) -> str:
    partial, zero, products, total = _BODIES[match["operand"]]
    M, N, K = (int(match[name]) for name in ("M", "N", "K"))
    chunk = min(matmul.CHUNK, K)
    chunks = K // chunk
    name, a, b, acc, kind = (match[group] for group in ("result", "a", "b", "acc", "sum"))
    a_type = f"tensor<{M}x{chunks}x{chunk}x{match['operand']}>"
    b_type = f"tensor<{chunks}x{chunk}x{N}x{match['operand']}>"
    p_type = f"tensor<{chunks}x{M}x{N}x{partial}>"
    sum_type = f"tensor<{M}x{N}x{kind}>"
    dot = f"%dot{name[1:]}"
    return f"""\
{dot}_a = tensor.expand_shape {a} [[0], [1, 2]] output_shape [{M}, {chunks}, {chunk}] \
: tensor<{M}x{K}x{match["operand"]}> into {a_type}
{dot}_b = tensor.expand_shape {b} [[0, 1], [2]] output_shape [{chunks}, {chunk}, {N}] \
: tensor<{K}x{N}x{match["operand"]}> into {b_type}
{dot}_zero = arith.constant {zero} : {partial}
{dot}_empty = tensor.empty() : {p_type}
{dot}_fill = linalg.fill ins({dot}_zero : {partial}) outs({dot}_empty : {p_type}) -> {p_type}
{dot}_chunks = linalg.generic {{indexing_maps = [
  affine_map<(q, i, k, j) -> (i, q, k)>, affine_map<(q, i, k, j) -> (q, k, j)>,
  affine_map<(q, i, k, j) -> (q, i, j)>],
  iterator_types = ["parallel", "parallel", "reduction", "parallel"]}}
  ins({dot}_a, {dot}_b : {a_type}, {b_type}) outs({dot}_fill : {p_type}) {{
^bb0(%x: {match["operand"]}, %y: {match["operand"]}, %partial: {partial}):
{products}
  linalg.yield %next : {partial}
}} -> {p_type}
{name} = linalg.generic {{indexing_maps = [
  affine_map<(q, i, j) -> (q, i, j)>, affine_map<(q, i, j) -> (i, j)>],
  iterator_types = ["reduction", "parallel", "parallel"]}}
  ins({dot}_chunks : {p_type}) outs({acc} : {sum_type}) {{
^bb0(%partial: {partial}, %sum: {kind}):
{total}
  linalg.yield %next : {kind}
}} -> {sum_type}"""


@dataclass
class Lowering:
    """A way to expand matmuls, with the kernels that it compiled."""

    expand: Callable[[str], str]
    folder: Path
    compiled: dict[Any, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Inside, every segment's kernel is compiled and launched by this lowering."""
        for kernel in _kernels():
            kernel.cache = self.compiled.setdefault(kernel, defaultdict(dict))
        with (
            mock.patch.dict(os.environ, TRITON_CACHE_DIR=str(self.folder)),
            mock.patch.object(lowering, "expand_matmuls", self.expand),
        ):
            yield


def _kernels() -> list[Any]:
    modules = [
        import_module(f"{segments.__name__}.{found.name}")
        for found in pkgutil.iter_modules(segments.__path__)
    ]
    values = [value for module in modules for value in vars(module).values()]
    return list(dict.fromkeys(value for value in values if isinstance(value, JITFunction)))


def cases() -> dict[str, Case]:
    """FLASH: the two projections, for a full wave and for 16 tokens of it, and the whole chain."""
    flash = PRESETS["FLASH"]
    G, R, D = flash.groups, flash.o_lora_rank, flash.hidden
    J = flash.heads * flash.head_dim // G
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Case] = {}
    for tokens in (128, 16):
        o_packed, wo_a = (torch.randn(G, n, J, generator=generator).bfloat16() for n in (tokens, R))
        codes, wo_b = (
            torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
            for shape in ((tokens, G, R), (D, G * R))
        )
        found[f"proj_a, {tokens} tokens"] = lambda a=o_packed, w=wo_a: proj_a(a, w)
        found[f"proj_b, {tokens} tokens"] = lambda c=codes, w=wo_b: proj_b(c, w)
    chunk = vars(make_inputs(flash, tokens=128))
    found["chain, 128 tokens"] = lambda: prefill_sparse_attn(**chunk)
    return found


def main() -> None:
    """Print the table. AssertionError where bytes differ."""
    table = Table(title=f"CPU matmul, {torch.get_num_threads()} threads, ms (median of {SAMPLES})")
    for heading in ("FLASH", "loops", "blocked", "ratio", "bytes"):
        table.add_column(heading, justify="left" if heading == "FLASH" else "right")
    with tempfile.TemporaryDirectory() as folder:
        both = [
            Lowering(plain_loops, Path(folder, "loops")),
            Lowering(matmul.expand_matmuls, Path(folder, "blocked")),
        ]
        for name, case in cases().items():
            outputs, samples = [], [[], []]
            for chosen in both:
                with chosen.current():
                    outputs.append(case())
            assert torch.equal(*(out.view(torch.uint8) for out in outputs)), f"{name}: other bytes"
            for _ in range(SAMPLES):
                for chosen, times in zip(both, samples, strict=True):
                    with chosen.current():
                        begin = time.perf_counter()
                        case()
                        times.append(1e3 * (time.perf_counter() - begin))
            loops, blocked = map(statistics.median, samples)
            ratio = f"{loops / blocked:.1f}x"
            table.add_row(name, f"{loops:.1f}", f"{blocked:.1f}", ratio, "equal")
    terminal.console(80).print(table)


if __name__ == "__main__":
    main()
