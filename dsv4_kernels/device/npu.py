"""Ascend NPUs, through torch_npu and triton-ascend's own driver."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from contextlib import AbstractContextManager
from typing import Any

import torch

from dsv4_kernels.device.target import CoreMemory, Target

# Of the A2 and A3 parts, which all are named so; the gate compares with the compiler's own figures.
MEMORY = {"Ascend910": CoreMemory(ub=192 * 1024, l1=512 * 1024, l0c=128 * 1024)}


def best() -> torch.device | None:
    """The current NPU; None where there is none, or no torch_npu that loads."""
    if not _present():
        return None
    return torch.device("npu", torch.npu.current_device())  # type: ignore[attr-defined]


def driver(triton: Any) -> Any:
    """Triton's driver for it."""
    return triton.runtime.driver.default


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, `device` is current."""
    return torch.npu.device(device)  # type: ignore[attr-defined]


@functools.cache
def target(device: torch.device) -> Target:
    """Its cores, as Triton's driver counts them."""
    import triton

    utils = triton.runtime.driver.active.utils  # type: ignore[attr-defined]
    cores = utils.get_device_properties(device.index or 0)
    name = torch.npu.get_device_name(device)  # type: ignore[attr-defined]
    memory = next((known for prefix, known in MEMORY.items() if name.startswith(prefix)), None)
    return Target("npu", name, cores["num_aicore"], cores["num_vectorcore"], memory)


def stream_api() -> Any:
    """`torch.npu`."""
    # As triton-ascend reads it (3.2.0, backends/ascend/driver.py).
    queue = os.getenv("TRITON_ENABLE_TASKQUEUE", "true")
    if queue.lower() not in ("true", "1"):
        warnings.warn(
            f"TRITON_ENABLE_TASKQUEUE={queue} makes every launch synchronous: lanes will not "
            "overlap",
            stacklevel=4,
        )
    return torch.npu  # type: ignore[attr-defined]


def describe(device: torch.device) -> str:
    """What it is."""
    return f"{target(device).name} ({device})"


@functools.cache
def _present() -> bool:
    try:
        importlib.import_module("torch_npu")
    except (ImportError, OSError):  # not installed, or CANN's libraries are not
        return False
    return torch.npu.is_available()  # type: ignore[attr-defined]
