"""The one place that knows about devices: npu, cuda and cpu.

``with device.on(tensor) as target:`` makes the tensor's device and its Triton driver current, and
`target` tells how many programs a persistent grid should have there.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import shutil
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch

Cores = Literal["cube", "vector"]

# A GPU deals the programs of a grid to its multiprocessors as they fall free, as many to each as
# its registers and shared memory hold: a program per task, up to what a grid can have.
_CUDA_PROGRAMS = 2**31 - 1

_LAUNCHING = threading.RLock()

# By device type: what launches are for and the driver that they go to, instead of the device's own.
_ROUTES: ContextVar[Mapping[str, tuple[Target, Any]]] = ContextVar("routes", default={})  # noqa: B039


class MissingDependency(ImportError):
    """Something that is not installed is needed; the message says what and how to get it."""


@dataclass(frozen=True)
class Target:
    """What a launch needs to know of its device."""

    kind: str  # "npu" | "cuda" | "cpu"
    name: str
    cube_programs: int  # most programs of a kernel with a dot: cube cores, or threads of a CPU
    vector_programs: int  # most programs of a vector-only kernel

    def grid(self, cores: Cores, tasks: int) -> tuple[int]:
        """Grid of a persistent kernel over `tasks`: never more programs than cores, at least 1."""
        most = self.cube_programs if cores == "cube" else self.vector_programs
        return (max(1, min(tasks, most)),)


@contextlib.contextmanager
def on(tensor: torch.Tensor) -> Iterator[Target]:
    """Launch for `tensor`: its device and its Triton driver are current inside the block.

    Raises MissingDependency where the device's Triton is not installed. Threads launch one after
    the other: Triton has one active driver per process, and a launch on the CPU takes all cores.
    """
    driver = require_triton().runtime.driver
    device = tensor.device
    with _LAUNCHING:
        before = driver.active
        try:
            if device.type in _ROUTES.get():
                target, routed = _ROUTES.get()[device.type]
                driver.set_active(routed)
                with routed.recording_refusals():
                    yield target
            elif device.type == "cpu":
                driver.set_active(_cpu_driver())
                yield _cpu_target()
            elif device.type in ("npu", "cuda"):
                driver.set_active(driver.default)
                with getattr(torch, device.type).device(device):
                    yield _target(device)
            else:
                raise MissingDependency(
                    f"no kernel runs on {device}: tensors must be on npu, cuda or cpu"
                )
        finally:
            driver.set_active(before)


@contextlib.contextmanager
def exclusively() -> Iterator[None]:
    """Inside, no other thread launches: runs do not mix their launches and events."""
    with _LAUNCHING:
        yield


@contextlib.contextmanager
def route(device_type: str, target: Target, driver: Any) -> Iterator[None]:
    """Inside, this thread's launches on tensors of a device type go to `driver`, for `target`.

    driver: a Triton driver that also has `recording_refusals()`, a context around each launch.
    """
    token = _ROUTES.set({**_ROUTES.get(), device_type: (target, driver)})
    try:
        yield
    finally:
        _ROUTES.reset(token)


def best() -> torch.device:
    """The best device present: npu, then cuda, then cpu."""
    if _npu_present():
        return torch.device("npu", torch.npu.current_device())  # type: ignore[attr-defined]
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def stream_api(device: torch.device) -> Any:
    """`torch.npu` or `torch.cuda`, whose Stream, Event, stream() and graphs have one interface.

    None on the CPU, where work is done when a launch returns.
    """
    if device.type not in ("npu", "cuda"):
        return None
    if device.type == "npu" and os.environ.get("TRITON_ENABLE_TASKQUEUE", "1") in ("0", "false"):
        warnings.warn(
            "TRITON_ENABLE_TASKQUEUE=0 makes every launch synchronous: lanes will not overlap",
            stacklevel=3,
        )
    return getattr(torch, device.type)


@functools.cache
def lane_streams(device: torch.device, api: Any, lanes: tuple[str, ...]) -> dict[str, Any]:
    """A stream of `device` for every lane, made once: an NPU has 32 in all, handed out in turn."""
    return {lane: api.Stream(device=device) for lane in lanes}


def graph(api: Any) -> Any:
    """A new `NPUGraph` or `CUDAGraph`."""
    return api.NPUGraph() if hasattr(api, "NPUGraph") else api.CUDAGraph()


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done all work queued so far."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


def describe(device: torch.device) -> str:
    """One line on what a number measured on `device` means."""
    if device.type == "cpu":
        return (
            f"CPU, {torch.get_num_threads()} threads: the Ascend front half's code compiled for "
            "this host; its times say nothing about an NPU"
        )
    return f"{_target(device).name} ({device})"


@functools.cache
def _target(device: torch.device) -> Target:
    if device.type == "npu":
        import triton

        utils = triton.runtime.driver.active.utils  # type: ignore[attr-defined]
        cores = utils.get_device_properties(device.index or 0)
        name = torch.npu.get_device_name(device)  # type: ignore[attr-defined]
        return Target("npu", name, cores["num_aicore"], cores["num_vectorcore"])
    return cuda_target(torch.cuda.get_device_name(device))


def cuda_target(name: str) -> Target:
    """What a launch needs to know of any NVIDIA GPU."""
    return Target("cuda", name, _CUDA_PROGRAMS, _CUDA_PROGRAMS)


def _cpu_target() -> Target:
    threads = torch.get_num_threads()
    return Target("cpu", "CPU", threads, threads)


@functools.cache
def _npu_present() -> bool:
    if importlib.util.find_spec("torch_npu") is None:
        return False
    try:
        importlib.import_module("torch_npu")
    except (ImportError, OSError):  # installed, but CANN's libraries are not
        return False
    return torch.npu.is_available()  # type: ignore[attr-defined]


@functools.cache
def require_triton() -> Any:
    """The installed Triton, whichever it is; MissingDependency where there is none."""
    try:
        import triton
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise  # an installation that is broken, not missing
        raise MissingDependency(
            "no Triton is installed: pip install 'dsv4-kernels[npu]' on Ascend, "
            "'dsv4-kernels[cuda]' on NVIDIA, 'dsv4-kernels[cpu]' on any CPU"
        ) from error
    return triton


@functools.cache
def _cpu_driver() -> Any:
    needs = {"triton.backends.ascend": "triton-ascend", "ascendnpuir": "ascendnpu-ir"}
    missing = [name for module, name in needs.items() if importlib.util.find_spec(module) is None]
    missing += ["gcc"] if shutil.which("gcc") is None else []
    if missing:
        raise MissingDependency(
            f"CPU tensors need {' and '.join(missing)} (the kernels run there as the code of the "
            "Ascend compiler's front half): pip install 'dsv4-kernels[cpu]' in an environment "
            "without upstream triton, and the system's C compiler"
        )
    from dsv4_kernels import cpu

    return cpu.driver()
