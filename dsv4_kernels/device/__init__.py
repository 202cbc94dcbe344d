"""The one place that knows about devices: a file for each family, npu, cuda and cpu.

``with device.on(tensor) as target:`` makes the tensor's device and its Triton driver current, and
`target` tells how many programs a persistent grid should have there.

A family is a module with best, driver, current, target, stream_api and describe.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NamedTuple

import torch

from dsv4_kernels.device import cpu, cuda, npu
from dsv4_kernels.device.target import MissingDependency, Target

__all__ = ["MissingDependency", "Target"]

_FAMILIES: dict[str, ModuleType] = {"npu": npu, "cuda": cuda, "cpu": cpu}  # the best first


class Route(NamedTuple):
    """Where launches on a kind of tensors go instead of to a device of that kind."""

    target: Target
    driver: Any


_routes: ContextVar[Mapping[str, Route]] = ContextVar("routes", default={})  # noqa: B039


@contextlib.contextmanager
def route(kind: str, target: Target, driver: Any) -> Iterator[None]:
    """Inside, launches on tensors of device type `kind` go to `driver`, as for `target`.

    So a compiler's gate has meta tensors' kernels compiled, and a model of a chip runs a CPU's.
    """
    token = _routes.set({**_routes.get(), kind: Route(target, driver)})
    try:
        yield
    finally:
        _routes.reset(token)


@contextlib.contextmanager
def on(tensor: torch.Tensor) -> Iterator[Target]:
    """Launch for `tensor`: its device and its Triton driver are current inside the block.

    Raises MissingDependency where the device's Triton is not installed. Threads that launch on one
    device do so one after the other.
    """
    device = tensor.device
    routed = _routes.get().get(device.type)
    if routed is not None:
        with exclusively(device), _active(routed.driver), _refusals(routed.driver):
            yield routed.target
        return
    family = _FAMILIES.get(device.type)
    if family is None:
        require_triton()
        raise MissingDependency(f"no kernel runs on {device}: tensors must be on npu, cuda or cpu")
    driver = family.driver(require_triton())
    with exclusively(device), _active(driver), family.current(device):
        yield family.target(device)


def _refusals(driver: Any) -> contextlib.AbstractContextManager[None]:
    """A driver that only compiles records what its compiler refuses."""
    recording = getattr(driver, "recording_refusals", None)
    return contextlib.nullcontext() if recording is None else recording()


class _Driver:
    """Triton has one active driver in a process: those who want the same one share it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders: list[int] = []  # threads inside, once for every time
        self._driver: Any = None
        self._before: Any = None

    @contextlib.contextmanager
    def __call__(self, driver: Any) -> Iterator[None]:
        active, me = require_triton().runtime.driver, threading.get_ident()
        with self._changed:
            while self._holders and self._driver is not driver:
                if me in self._holders:
                    raise RuntimeError("a launch on one device inside of a launch on another")
                self._changed.wait()
            if not self._holders:
                self._driver, self._before = driver, active.active
                active.set_active(driver)
            self._holders.append(me)
        try:
            yield
        finally:
            with self._changed:
                self._holders.remove(me)
                if not self._holders:
                    active.set_active(self._before)
                    self._changed.notify_all()


_active = _Driver()


@functools.cache
def _lock(device: torch.device) -> Any:
    return threading.RLock()


@contextlib.contextmanager
def exclusively(device: torch.device) -> Iterator[None]:
    """Inside, no other thread launches on `device`: runs do not mix their launches and events."""
    with _lock(device):
        yield


def current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Inside, `device` is current: what is made or recorded is made or recorded there."""
    family = _FAMILIES.get(device.type)
    return contextlib.nullcontext() if family is None else family.current(device)


def best() -> torch.device:
    """The best device present: npu, then cuda, then cpu."""
    found = (family.best() for family in _FAMILIES.values())
    return next(device for device in found if device is not None)


def stream_api(device: torch.device) -> Any:
    """`torch.npu` or `torch.cuda`, whose Stream, Event, stream() and graphs have one interface.

    None on the CPU, where work is done when a launch returns.
    """
    family = _FAMILIES.get(device.type)
    return None if family is None else family.stream_api()


@functools.cache
def lane_streams(device: torch.device, api: Any, lanes: tuple[str, ...]) -> dict[str, Any]:
    """A stream of `device` for every lane, made once: an NPU has 32 in all, handed out in turn."""
    return {lane: _lane_stream(device, api, lane) for lane in lanes}


@functools.cache
def _lane_stream(device: torch.device, api: Any, lane: str) -> Any:
    return api.Stream(device=device)


def is_capturing(api: Any) -> bool:
    """Whether what is issued to the current stream goes into a graph."""
    return api.is_current_stream_capturing()


def keep_for(tensor: torch.Tensor, stream: Any) -> None:
    """The allocator gives the tensor's memory to nobody before `stream` is done with it."""
    if tensor.device.type in ("npu", "cuda"):
        tensor.record_stream(stream)


def graph(api: Any) -> Any:
    """A new `NPUGraph` or `CUDAGraph`."""
    return api.NPUGraph() if hasattr(api, "NPUGraph") else api.CUDAGraph()


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done all work queued so far."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


def describe(device: torch.device) -> str:
    """One line on what a number measured on `device` means."""
    return _FAMILIES[device.type].describe(device)


def cuda_target(name: str) -> Target:
    """What a launch needs to know of any NVIDIA GPU."""
    return cuda.named(name)


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
