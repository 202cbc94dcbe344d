"""The Triton backend: triton-ascend's own front half, then machine code of this host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from triton.backends.compiler import GPUTarget

from dsv4_kernels.backends.front_half import FrontHalfBackend, Stage
from dsv4_kernels.backends.linalg import c_compiler, host, lowering, signature


class CpuBackend(FrontHalfBackend):
    """After linalg: the LLVM dialect, then a shared object."""

    name = "ascend-front-half-on-cpu"
    binary_ext = "so"
    sources = tuple(sorted(p for p in Path(__file__).parent.iterdir() if p.is_file()))

    def later_stages(self, options: Any) -> tuple[Stage, ...]:
        c_compiler.command()  # said before anything is compiled: Triton wraps what a stage raises

        def llvm_dialect(linalg: str, metadata: dict[str, Any]) -> str:
            types = metadata["argument_types"] = signature.argument_types(linalg)
            module = lowering.linalg_to_llvm_dialect(linalg)
            return f"{module.rstrip()[:-1]}{signature.program(metadata['name'], types)}}}\n"

        def so(module: str, metadata: dict[str, Any]) -> bytes:
            return lowering.llvm_dialect_to_shared_object(module)

        return llvm_dialect, so


CPU_TARGET = GPUTarget(CpuBackend.name, host.processor().name, 0)
