"""A Triton backend that starts with triton-ascend's own front half.

`@triton.jit` -> Triton IR -> linalg MLIR, by the code and the adapter that an NPU launch uses. What
comes after is a subclass's: `cpu` turns it into machine code of this host, `ascend` hands it to the
Ascend compiler.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from triton.backends.ascend import compiler as ascend
from triton.backends.compiler import AttrsDescriptor, BaseBackend, GPUTarget
from triton.compiler import code_generator

from dsv4_kernels.backends.missing import MissingDependency, with_extra

Stage = Callable[[Any, dict[str, Any]], Any]

# Triton reads a function's file for the line that it begins at whenever it compiles the function,
# in every kernel and for every type: a fifth of the way from Python to Triton IR.
code_generator.get_jit_fn_file_line = functools.cache(code_generator.get_jit_fn_file_line)


class FrontHalfBackend(BaseBackend):
    """Stages `ttir` and `ttadapter` (linalg), then those of the subclass."""

    name: str  # of the target
    sources: tuple[Path, ...] = ()  # files whose change makes cached results stale

    @classmethod
    def supports_target(cls, target: GPUTarget) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return target.backend == cls.name

    def ascend_part(self) -> str:
        """The part that the front half is told; it specialises nothing on it."""
        return "Ascend910B3"

    def later_stages(self, options: Any) -> tuple[Stage, ...]:
        raise NotImplementedError

    def add_stages(self, stages: dict[str, Stage], options: Any) -> None:
        def ttir(module: Any, metadata: dict[str, Any]) -> Any:
            return ascend.make_ttir(module, metadata, options)

        def ttadapter(module: Any, metadata: dict[str, Any]) -> str:
            linalg = linalg_of(str(module), options)
            metadata.update(name=_kernel_name(linalg), shared=0)
            return linalg

        for stage in (ttir, ttadapter, *self.later_stages(options)):
            stages[stage.__name__] = _named_in_errors(stage)

    def hash(self) -> str:
        """Changes whenever the same linalg could be compiled to something else."""
        digest = hashlib.sha256(str(self.target).encode())
        for source in (Path(__file__), *self.sources):
            digest.update(source.read_bytes())
        for tool in ("bishengir-opt", "bishengir-compile"):
            binary = bishengir(tool).stat()
            digest.update(f"{binary.st_size} {binary.st_mtime_ns}".encode())
        return digest.hexdigest()

    def parse_options(self, options: dict[str, Any]) -> Any:
        return self._ascend.parse_options(options)

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
        return ascend.AscendBackend(GPUTarget("npu", self.ascend_part(), 0))


@functools.lru_cache(maxsize=64)
def linalg_of(ttir: str, options: Any) -> str:
    """What the front half makes of Triton IR; of the last 64 kernels it is known already: a chunk
    is compiled for one part after the other, and what is executed is compiled for the CPU too."""
    dumped_as = hashlib.sha256(ttir.encode()).hexdigest()  # where Triton is told to dump
    metadata = vars(options) | {"hash": dumped_as}
    return ascend.ttir_to_linalg(ttir, metadata, options, named_ops=True)


@functools.cache
def bishengir(tool: str) -> Path:
    """Path of a program that ascendnpu-ir ships; MissingDependency where it is not installed."""
    spec = importlib.util.find_spec("ascendnpuir")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency(f"{tool} comes with ascendnpu-ir: {with_extra('cpu')}")
    return Path(spec.submodule_search_locations[0]) / "bin" / tool


def _kernel_name(module: Any) -> str:
    found = re.search(r"func(?: public)? @(\w+)", str(module))
    return found.group(1) if found else "<unnamed>"


def _named_in_errors(stage: Stage) -> Stage:
    """Make a failure of `stage` say which kernel, which stage and what the compiler said."""

    @functools.wraps(stage)
    def run(module: Any, metadata: dict[str, Any]) -> Any:
        try:
            return stage(module, metadata)
        except Exception as error:
            message = str(error)
            if isinstance(error, subprocess.CalledProcessError):
                stderr = error.stderr
                message = stderr.decode() if isinstance(stderr, bytes) else stderr
            kernel = metadata.get("name") or _kernel_name(module)
            raise RuntimeError(
                f"kernel `{kernel}`, stage `{stage.__name__}`: {message.strip()}"
            ) from error

    return run
