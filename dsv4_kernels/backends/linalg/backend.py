"""The Triton backend: triton-ascend's own front half, then machine code of this host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from triton.backends.compiler import GPUTarget

from dsv4_kernels.backends.front_half import FrontHalfBackend, Stage
from dsv4_kernels.backends.linalg import lowering


class CpuBackend(FrontHalfBackend):
    """After linalg: the LLVM dialect, then a shared object."""

    name = "ascend-front-half-on-cpu"
    binary_ext = "so"
    sources = tuple(sorted(p for p in Path(__file__).parent.iterdir() if p.is_file()))

    def later_stages(self, options: Any) -> tuple[Stage, ...]:
        def llvm_dialect(linalg: str, metadata: dict[str, Any]) -> str:
            metadata["argument_types"] = _argument_types(linalg)
            return lowering.linalg_to_llvm_dialect(linalg)

        def so(module: str, metadata: dict[str, Any]) -> bytes:
            return lowering.llvm_dialect_to_shared_object(module)

        return llvm_dialect, so


CPU_TARGET = GPUTarget(CpuBackend.name, lowering.host_processor()[1], 0)


def _argument_types(linalg: str) -> list[str]:
    """Types of the kernel's own arguments as compiled.

    Triton drops arguments it turned into constants (an integer that was 1), so the compiled
    signature is the only true list. Around it stand two hidden buffers (lock, workspace) and six
    integers (grid and program id).
    """
    arguments = re.search(r"func\.func @\w+\((.*?)\) attributes", linalg, re.DOTALL)
    if arguments is None:
        raise ValueError(f"no kernel signature in:\n{linalg[:500]}")
    types = re.findall(r"%arg\d+: (memref<[^>]*>|\w+)", arguments.group(1))
    return ["pointer" if t.startswith("memref") else t for t in types[2:-6]]
