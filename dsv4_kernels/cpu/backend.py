"""The Triton backend: triton-ascend's own front half, then machine code of this host."""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from triton.backends.ascend import compiler as ascend
from triton.backends.compiler import AttrsDescriptor, BaseBackend, GPUTarget

from dsv4_kernels.cpu import lowering

# The front half specialises nothing on the core count, so one A2 part stands for the family.
ASCEND_TARGET = GPUTarget("npu", "Ascend910B3", 0)
CPU_TARGET = GPUTarget("ascend-front-half-on-cpu", lowering.host_processor()[1], 0)


class CpuBackend(BaseBackend):
    """Stages: Triton IR -> linalg (both by triton-ascend) -> LLVM dialect -> shared object."""

    binary_ext = "so"

    @staticmethod
    def supports_target(target: GPUTarget) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return target.backend == CPU_TARGET.backend

    def hash(self) -> str:
        """Changes whenever the code below the linalg level could come out differently."""
        digest = hashlib.sha256(str((self.target, lowering.host_processor())).encode())
        for source in sorted(Path(__file__).parent.iterdir()):
            if source.is_file():
                digest.update(source.read_bytes())
        compiler = lowering.bishengir_opt().stat()
        digest.update(f"{compiler.st_size} {compiler.st_mtime_ns}".encode())
        return digest.hexdigest()

    def parse_options(self, options: dict[str, Any]) -> Any:
        return self._ascend.parse_options(options)

    def add_stages(self, stages: dict[str, Callable[..., Any]], options: Any) -> None:
        def ttir(module: Any, metadata: dict[str, Any]) -> Any:
            return ascend.make_ttir(module, metadata, options)

        def ttadapter(module: Any, metadata: dict[str, Any]) -> str:
            return ascend.ttir_to_linalg(module, metadata, options, named_ops=True)

        def llvm_dialect(linalg: str, metadata: dict[str, Any]) -> str:
            kernel = _kernel_name(linalg)
            metadata.update(name=kernel, shared=0, argument_types=_argument_types(linalg))
            return lowering.linalg_to_llvm_dialect(linalg)

        def so(module: str, metadata: dict[str, Any]) -> bytes:
            return lowering.llvm_dialect_to_shared_object(module)

        for stage in (ttir, ttadapter, llvm_dialect, so):
            stages[stage.__name__] = _named_in_errors(stage)

    def load_dialects(self, context: Any) -> None:
        self._ascend.load_dialects(context)

    def get_codegen_implementation(self) -> dict[str, Any]:
        return self._ascend.get_codegen_implementation()

    def get_module_map(self) -> dict[str, ModuleType]:
        return self._ascend.get_module_map()

    def get_attrs_descriptor(self, params: Any, args: Any) -> AttrsDescriptor:
        return self._ascend.get_attrs_descriptor(params, args)

    def pack_metadata(self, metadata: Any) -> Any:
        return metadata

    @functools.cached_property
    def _ascend(self) -> ascend.AscendBackend:
        return ascend.AscendBackend(ASCEND_TARGET)


def _kernel_name(module: Any) -> str:
    found = re.search(r"func(?: public)? @(\w+)", str(module))
    return found.group(1) if found else "<unnamed>"


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


def _named_in_errors(stage: Callable[..., Any]) -> Callable[..., Any]:
    """Make a failure of `stage` say which kernel, which stage and what the compiler said."""

    @functools.wraps(stage)
    def run(module: Any, metadata: dict[str, Any]) -> Any:
        try:
            return stage(module, metadata)
        except Exception as error:
            message = str(error)
            if isinstance(error, subprocess.CalledProcessError):
                stderr = error.stderr or ""
                message = stderr.decode() if isinstance(stderr, bytes) else stderr
            kernel = metadata.get("name") or _kernel_name(module)
            raise RuntimeError(
                f"kernel `{kernel}`, stage `{stage.__name__}`: {message.strip()}"
            ) from error

    return run
