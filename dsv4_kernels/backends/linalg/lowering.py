"""From the linalg MLIR of triton-ascend's front half to a shared object for this machine.

Every step is somebody else's compiler: ``bishengir-opt`` runs upstream MLIR passes down to the LLVM
dialect, Triton's own LLVM optimises and assembles, ``gcc`` links. This file only orders them.
"""

from __future__ import annotations

import functools
import platform
import subprocess
import tempfile
from pathlib import Path

from triton._C.libtriton import ir, llvm

from dsv4_kernels.backends.front_half import bishengir
from dsv4_kernels.backends.linalg.matmul import expand_matmuls

RUNTIME = Path(__file__).parent / "runtime.c"

# linalg on tensors -> the LLVM dialect, with upstream passes only.
PASSES = (
    "--convert-elementwise-to-linalg",
    "--eliminate-empty-tensors",
    "--empty-tensor-to-alloc-tensor",
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
    "--convert-arith-to-llvm",
    "--convert-cf-to-llvm",
    "--convert-func-to-llvm",
    "--reconcile-unrealized-casts",
)

# Micro-architecture levels of the x86-64 psABI, highest first, by the flags that tell them apart.
_X86_LEVELS = (
    ("x86-64-v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    ("x86-64-v3", {"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}),
    ("x86-64-v2", {"popcnt", "sse4_1", "sse4_2", "ssse3"}),
)


@functools.cache
def host_processor() -> tuple[str, str]:
    """LLVM's triple and processor name of this machine."""
    machine = platform.machine()
    if machine != "x86_64":
        return f"{machine}-unknown-linux-gnu", "generic"
    cpuinfo = Path("/proc/cpuinfo").read_text()
    flags = set(cpuinfo.partition("\nflags")[2].partition("\n")[0].split())
    level = next((name for name, needs in _X86_LEVELS if needs <= flags), "x86-64")
    return "x86_64-unknown-linux-gnu", level


def linalg_to_llvm_dialect(linalg: str) -> str:
    """Text of the module in the LLVM dialect. CalledProcessError carries the compiler's message."""
    command = [str(bishengir("bishengir-opt")), "-", *PASSES]
    return subprocess.run(
        command, input=expand_matmuls(linalg), capture_output=True, check=True, text=True
    ).stdout


def llvm_dialect_to_shared_object(llvm_dialect: str) -> bytes:
    """Machine code of this host, linked with `runtime.c` into a shared object."""
    triple, processor = host_processor()
    with tempfile.TemporaryDirectory(prefix="dsv4-") as name:
        folder = Path(name)
        # LLVM picks its optimisations by the module's triple; without one it crashes.
        header = f'module attributes {{llvm.target_triple = "{triple}"}} {{'
        (folder / "kernel.mlir").write_text(llvm_dialect.replace("module {", header, 1))
        context = ir.context()
        ir.load_dialects(context)
        parsed = ir.parse_mlir_module(str(folder / "kernel.mlir"), context)
        llvm.init_targets()
        llvm_context = llvm.context()  # outlives the module built in it
        module = llvm.to_module(parsed, llvm_context)
        llvm.attach_datalayout(module, triple, processor, "")
        # No FMA contraction: a*b+c keeps both roundings, as the vector unit of the NPU does; the
        # rounding trick of group_quant and equality with the reference depend on it.
        llvm.optimize_module(module, llvm.OPTIMIZE_O3, processor, "", [], False)
        code = llvm.translate_to_asm(str(module), triple, processor, "", [], False, True)
        (folder / "kernel.o").write_bytes(code)
        command = ["gcc", "-O2", "-shared", "-fPIC", "-o", "kernel.so", "kernel.o", str(RUNTIME)]
        command.append("-lm")
        subprocess.run(command, cwd=folder, capture_output=True, check=True, text=True)
        return (folder / "kernel.so").read_bytes()
