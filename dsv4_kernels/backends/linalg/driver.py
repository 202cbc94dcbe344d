"""The Triton driver: loads a compiled kernel and runs its grid on threads."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import Benchmarker, DriverBase
from triton.runtime.cache import get_cache_manager

from dsv4_kernels.backends.linalg import signature
from dsv4_kernels.backends.linalg.backend import CPU_TARGET


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
        self._launch = ctypes.CDLL(path).dsv4_launch
        self._launch.restype = None
        self._launch.argtypes = [ctypes.c_void_p] + [ctypes.c_int32] * 4
        # Positions of the launch's arguments that the compiled signature kept.
        kept = [i for i, name in enumerate(source.signature) if name not in source.constants]
        if len(kept) != len(metadata.argument_types):
            raise RuntimeError(
                f"kernel `{metadata.name}`: {len(metadata.argument_types)} compiled arguments "
                f"for {len(kept)} passed ones"
            )
        self._arguments = list(zip(kept, metadata.argument_types, strict=True))
        self._structure = signature.structure(metadata.argument_types)

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
        values: list[Any] = []
        for position, kind in self._arguments:
            value = arguments[position]
            values += [value.data_ptr(), value.numel()] if kind == signature.POINTER else [value]
        packed = self._structure(*values)
        if enter_hook is not None:
            enter_hook(launch_metadata)
        # One call that returns when all programs have ended; ctypes lets go of the GIL meanwhile.
        self._launch(ctypes.byref(packed), grid_x, grid_y, grid_z, torch.get_num_threads())
        if exit_hook is not None:
            exit_hook(launch_metadata)
