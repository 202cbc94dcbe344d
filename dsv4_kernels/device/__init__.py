"""The one place that knows about devices: a file for each family, npu, cuda and cpu.

``with device.on(tensor) as target:`` makes the tensor's device and its Triton driver current, and
`target` tells how many programs a persistent grid should have there.

A family is a module with best, driver, current, target, stream_api and describe.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NamedTuple

import torch

from dsv4_kernels.backends.missing import MissingDependency, with_extra
from dsv4_kernels.device import cpu, cuda, npu
from dsv4_kernels.device.target import Target

__all__ = ["MissingDependency", "Target", "with_extra"]

_CPU = torch.device("cpu")
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
    with launching(device):
        if routed is None:
            yield _FAMILIES[device.type].target(device)
        else:
            with _refusals(routed.driver):
                yield routed.target


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

    def enter(self, driver: Any) -> None:
        """Wait until nobody holds another driver, and make this one active."""
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

    def leave(self) -> None:
        """The last to leave gives back the driver that was active before."""
        with self._changed:
            self._holders.remove(threading.get_ident())
            if not self._holders:
                require_triton().runtime.driver.set_active(self._before)
                self._changed.notify_all()

    def lose_other_threads(self) -> None:
        """In a forked process, where only the thread that forked goes on."""
        self._changed = threading.Condition()
        me, had = threading.get_ident(), bool(self._holders)
        self._holders = [thread for thread in self._holders if thread == me]
        if had and not self._holders:
            require_triton().runtime.driver.set_active(self._before)


_DRIVER = _Driver()


class launching:  # noqa: N801
    """Inside, `device` and its Triton driver are current, and no other thread launches on it.

    A class, since a generator would cost every run of a plan more than a launch argument does. May
    be entered again and again. Raises MissingDependency as `on`.
    """

    __slots__ = ("_device", "_entered")

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._entered: list[tuple[Any, contextlib.AbstractContextManager[Any]]] = []

    def __enter__(self) -> None:
        routed = _routes.get().get(self._device.type)
        driver = _driver(self._device) if routed is None else routed.driver
        lock = _lock(self._device)  # looked up here: a forked process has others
        device = cpu.NOTHING if routed else current(self._device)
        lock.acquire()
        try:
            _DRIVER.enter(driver)
            try:
                device.__enter__()
            except BaseException:
                _DRIVER.leave()
                raise
        except BaseException:
            lock.release()
            raise
        self._entered.append((lock, device))

    def __exit__(self, *error: object) -> None:
        lock, device = self._entered.pop()
        device.__exit__(None, None, None)
        _DRIVER.leave()
        lock.release()


def _driver(device: torch.device) -> Any:
    family = _FAMILIES.get(device.type)
    triton = require_triton()
    if family is None:
        raise MissingDependency(f"no kernel runs on {device}: tensors must be on npu, cuda or cpu")
    return family.driver(triton)


@functools.cache
def _lock(device: torch.device) -> Any:
    return threading.RLock()


def exclusively(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Inside, no other thread launches on `device`: runs do not mix their launches and events."""
    return _lock(device)


def _before_fork() -> None:
    """A fork waits for the CPU launches of other threads and for what they compile: the child has
    neither those threads nor a compiler in a state to go on."""
    _lock(_CPU).acquire()


def _after_fork() -> None:
    _lock(_CPU).release()


def _after_fork_in_child() -> None:
    _lock.cache_clear()  # those that threads hold which are not here, and its own
    _DRIVER.lose_other_threads()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
)


def current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Inside, `device` is current: what is made or recorded is made or recorded there."""
    family = _FAMILIES.get(device.type)
    return contextlib.nullcontext() if family is None else family.current(device)


def family(device: torch.device) -> str:
    """npu, cuda or cpu: whose launches those on tensors of `device` are. "meta" where a tensor
    without memory goes nowhere."""
    routed = _routes.get().get(device.type)
    return device.type if routed is None else routed.target.kind


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
            f"no Triton is installed: {with_extra('cpu')}, or with [npu] on Ascend, [cuda] on "
            "NVIDIA"
        ) from error
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        raise MissingDependency(
            "TRITON_INTERPRET=1 takes Triton's compiler away, which these kernels need: unset it"
        )
    return triton
