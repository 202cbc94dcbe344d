"""A launch, compiled by upstream Triton for sm_90 down to machine code, without a GPU.

Triton's own compiler needs none: its CUDA backend only wants a driver that names the target. ptxas
comes with Triton.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from triton.backends.compiler import GPUTarget
from triton.errors import TritonError
from triton.runtime.cache import get_cache_manager

from dsv4_kernels.device import MissingDependency, require_triton
from dsv4_kernels.gates.chunk import RecordingDriver

# Compute capability 9.0, for which Triton tells ptxas sm_90a: wgmma is one of the features that
# only this architecture has.
CAPABILITY = 90
WARP_SIZE = 32


@dataclass(frozen=True)
class Launch:
    """A kernel launch as it was asked for, and what the compiler made of it.

    grid: programs. shared: bytes of shared memory of a program. refusal: why there is no `ptx`, if
    there is none.
    """

    kernel: str = ""
    grid: int = 0
    num_warps: int = 0
    num_stages: int = 0
    shared: int = 0
    ptx: str = ""
    refusal: str = ""


class CompileOnlyDriver(RecordingDriver[Launch]):
    """Compiles what is launched by upstream Triton, and records it."""

    # A pass of the compiler that fails is a RuntimeError.
    refusals = (TritonError, RuntimeError)

    def get_current_target(self) -> GPUTarget:  # pyright: ignore[reportIncompatibleMethodOverride]
        return GPUTarget("cuda", CAPABILITY, WARP_SIZE)

    def get_active_torch_device(self) -> NoReturn:
        raise NotImplementedError("nothing runs here")

    def map_python_to_cpp_type(self, ty: str) -> NoReturn:
        raise NotImplementedError("nothing is launched, so no launcher is written")

    def get_device_properties(self, device: str) -> dict[str, int]:
        return {"max_shared_mem": 2**31 - 1}  # the gate compares, and has the kernel to show

    def load_binary(self, name: str, binary: bytes, shared: int, device: str) -> tuple[Any, ...]:
        return True, None, 0, 0, 1024  # module, function, registers, spills, threads of a program

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        def launch(x: int, y: int, z: int, *rest: Any) -> None:
            ptx = get_cache_manager(metadata.hash).get_file(f"{source.name}.ptx")
            if ptx is None:
                raise FileNotFoundError(f"no PTX of `{metadata.name}` in Triton's cache")
            self.launches.append(
                Launch(
                    kernel=metadata.name,
                    grid=x * y * z,
                    num_warps=metadata.num_warps,
                    num_stages=metadata.num_stages,
                    shared=metadata.shared,
                    ptx=Path(ptx).read_text(),
                )
            )

        return launch

    def refused(self, why: str) -> Launch:
        return Launch(refusal=why)


@functools.cache
def driver() -> CompileOnlyDriver:
    """One per process: Triton keeps launchers, and they their driver."""
    require_upstream()
    made = CompileOnlyDriver(f"sm_{CAPABILITY}")
    # `device.on` asks which driver was active before; without a GPU Triton has none to name.
    require_triton().runtime.driver.set_active(made)
    return made


def require_upstream() -> Path:
    """The folder of Triton's CUDA backend; MissingDependency where this is another Triton."""
    spec = importlib.util.find_spec("triton.backends.nvidia")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency(
            "compiling for Hopper needs upstream triton, which this environment has not: "
            "`make hopper-gate` sets up one that has"
        )
    return Path(spec.submodule_search_locations[0])
