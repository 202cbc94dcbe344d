"""From the linalg MLIR of triton-ascend's front half to a shared object for this machine.

Every step is somebody else's compiler: ``bishengir-opt`` runs upstream MLIR passes down to the LLVM
dialect, Triton's own LLVM optimises and assembles, `c_compiler.py` links. This file only orders
them.
"""

from __future__ import annotations

import re
import subprocess
import tempfile

from triton._C.libtriton import ir, llvm

from dsv4_kernels.backends.front_half import bishengir
from dsv4_kernels.backends.linalg import c_compiler, host
from dsv4_kernels.backends.linalg.gather import expand_gathers
from dsv4_kernels.backends.linalg.matmul import expand_matmuls

# linalg on tensors -> the LLVM dialect, with upstream passes only.
PASSES = (
    "--convert-elementwise-to-linalg",
    # What is done to each element becomes one loop instead of one an operation, which LLVM would
    # unroll one by one: a quarter of its time, and the same roundings in the same order.
    "--linalg-generalize-named-ops",
    "--linalg-fuse-elementwise-ops",
    "--one-shot-bufferize=allow-return-allocs-from-loops=true",
    "--buffer-deallocation-pipeline",
    "--convert-linalg-to-loops",
    "--lower-affine",
    "--memref-expand",
    "--expand-strided-metadata",
    "--lower-affine",
    "--convert-scf-to-cf",
    # bf16 as integer arithmetic (fp32 -> bf16 rounds to nearest even): vectorised, and no libcall
    # whose calling convention depends on the host.
    "--arith-expand=include-bf16=true",
    "--convert-math-to-llvm",
    "--convert-math-to-libm",
    "--finalize-memref-to-llvm",
    "--convert-func-to-llvm",
    "--reconcile-unrealized-casts",
)

# What comes out is verified where Triton parses it; after every pass it is a third of their time.
_OPTIONS = ("--verify-each=false",)


def linalg_to_llvm_dialect(linalg: str) -> str:
    """Text of the module in the LLVM dialect. CalledProcessError carries the compiler's message."""
    command = [str(bishengir("bishengir-opt")), "-", *_OPTIONS, *PASSES]
    lowered = subprocess.run(
        command,
        input=expand_gathers(expand_matmuls(linalg)),
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    return _not_unrolled(_internal(lowered))


_DEFINED = re.compile(r"^ *llvm\.func (?=@.*\{$)", re.MULTILINE)


def _internal(llvm_dialect: str) -> str:
    """The module with no function for others: LLVM makes them part of the program that calls them,
    and would compile each that has a symbol once more, for nobody."""
    return _DEFINED.sub(r"\g<0>internal ", llvm_dialect)


_BLOCK = re.compile(r" *\^(bb\d+)")
_BRANCH = re.compile(r" *llvm\.br \^(bb\d+)[^{]*$")
_NOT_UNROLLED = " {loop_annotation = #llvm.loop_annotation<unroll = <disable = true>>}"


def _not_unrolled(llvm_dialect: str) -> str:
    """The module with each loop marked at its branch back: vectors, yes, but no copies of its body.

    With them a kernel has four times the instructions and takes three times as long to compile; it
    runs no faster, for the loops wait for memory and the matmuls are not here but in matmul.c.
    """
    lines = llvm_dialect.splitlines()
    passed = set[str]()
    for place, line in enumerate(lines):
        if block := _BLOCK.match(line):
            passed.add(block[1])
        elif (branch := _BRANCH.match(line)) and branch[1] in passed:
            lines[place] += _NOT_UNROLLED
    return "\n".join(lines)


def llvm_dialect_to_shared_object(llvm_dialect: str) -> bytes:
    """Machine code of this host, linked with the C runtime."""
    target = host.processor()
    # LLVM picks its optimisations by the module's triple; without one it crashes.
    header = f'module attributes {{llvm.target_triple = "{target.triple}"}} {{'
    with tempfile.NamedTemporaryFile("w", prefix="dsv4-", suffix=".mlir") as file:
        file.write(llvm_dialect.replace("module {", header, 1))
        file.flush()
        context = ir.context()
        ir.load_dialects(context)
        parsed = ir.parse_mlir_module(file.name, context)
    llvm.init_targets()
    llvm_context = llvm.context()  # outlives the module built in it
    module = llvm.to_module(parsed, llvm_context)
    llvm.attach_datalayout(module, target.triple, target.name, "")
    # No FMA contraction: a*b+c keeps both roundings, as the vector unit of the NPU does; the
    # rounding trick of group_quant and equality with the reference depend on it.
    llvm.optimize_module(module, llvm.OPTIMIZE_O3, target.name, "", [], False)
    code = llvm.translate_to_asm(str(module), target.triple, target.name, "", [], False, True)
    return c_compiler.link(code)
