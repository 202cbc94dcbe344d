"""The Triton driver: loads a compiled kernel and runs its grid on threads."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import Benchmarker, DriverBase
from triton.runtime.cache import get_cache_manager

from dsv4_kernels.backends.linalg.backend import CPU_TARGET

_SCALARS: dict[str, Any] = {
    "i1": ctypes.c_bool,
    "i8": ctypes.c_int8,
    "i16": ctypes.c_int16,
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "f32": ctypes.c_float,
    "f64": ctypes.c_double,
}
# A rank-1 memref passed by value: allocated, aligned, offset, size, stride.
_MEMREF = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64]


class CpuDriver(DriverBase):
    """One device; work is done when a launch returns, so there are no streams to speak of."""

    def __init__(self) -> None:
        super().__init__()
        self.utils = _Utils()
        self.launcher_cls = CpuLauncher

    @classmethod
    def is_active(cls) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Never chosen by Triton on its own: `dsv4_kernels.device` makes it current by hand."""
        return False

    def get_current_target(self) -> GPUTarget:  # pyright: ignore[reportIncompatibleMethodOverride]
        return CPU_TARGET

    def get_current_device(self) -> str:
        return "cpu"  # keys Triton's table of compiled kernels, apart from any accelerator's

    def get_current_stream(self, device: str) -> None:
        return None

    def get_benchmarker(self) -> Benchmarker:
        raise NotImplementedError("the autotuner's benchmarks need a device clock; tiles are fixed")


class _Utils:
    """What Triton asks of a driver between compiling and launching."""

    @staticmethod
    def get_device_properties(device: str) -> dict[str, int]:
        return {"max_shared_mem": 0}

    @staticmethod
    def load_binary(name: str, binary: bytes, shared: int, device: str) -> tuple[Any, ...]:
        return True, None, 0, 0  # module, function, registers, spills: the launcher loads the file


class CpuLauncher:
    """Calls one compiled kernel for every program of a grid."""

    def __init__(self, source: Any, metadata: Any) -> None:
        path = get_cache_manager(metadata.hash).get_file(f"{source.name[:150]}.so")
        self._function = getattr(ctypes.CDLL(path), metadata.name)
        self._function.restype = None
        # Positions of the launch's arguments that the compiled signature kept.
        kept = [i for i, name in enumerate(source.signature) if name not in source.constants]
        if len(kept) != len(metadata.argument_types):
            raise RuntimeError(
                f"kernel `{metadata.name}`: {len(metadata.argument_types)} compiled arguments "
                f"for {len(kept)} passed ones"
            )
        self._arguments = list(zip(kept, metadata.argument_types, strict=True))
        types = [*_MEMREF, *_MEMREF]
        for _, kind in self._arguments:
            types += _MEMREF if kind == "pointer" else [_SCALARS[kind]]
        self._function.argtypes = types + [ctypes.c_int32] * 6

    def __call__(
        self,
        grid_x: int,
        grid_y: int,
        grid_z: int,
        stream: None,
        function: None,
        packed_metadata: Any,
        launch_metadata: Any,
        enter_hook: Callable[[Any], None] | None,
        exit_hook: Callable[[Any], None] | None,
        *arguments: Any,
    ) -> None:
        values = [*_memref(None), *_memref(None)]  # the hidden lock and workspace, unused here
        for position, kind in self._arguments:
            value = arguments[position]
            values += _memref(value) if kind == "pointer" else [value]
        values += [grid_x, grid_y, grid_z]

        def run(program: tuple[int, int, int]) -> None:
            self._function(*values, *program)  # ctypes lets go of the GIL during the call

        programs = [(x, y, z) for z in range(grid_z) for y in range(grid_y) for x in range(grid_x)]
        if enter_hook is not None:
            enter_hook(launch_metadata)
        list(_threads(torch.get_num_threads()).map(run, programs))
        if exit_hook is not None:
            exit_hook(launch_metadata)


def _memref(tensor: torch.Tensor | None) -> list[Any]:
    if tensor is None:
        return [None, None, 0, 0, 1]
    return [tensor.data_ptr(), tensor.data_ptr(), 0, tensor.numel(), 1]


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="dsv4-cpu")
