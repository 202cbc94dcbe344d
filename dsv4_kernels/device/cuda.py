"""NVIDIA GPUs, through upstream Triton."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from dsv4_kernels.device.target import Target

# A GPU deals the programs of a grid to its multiprocessors as they fall free, as many to each as
# its registers and shared memory hold: a program per task, up to what a grid can have.
_PROGRAMS = 2**31 - 1


def best() -> torch.device | None:
    """The current GPU; None where there is none."""
    if not torch.cuda.is_available():
        return None
    return torch.device("cuda", torch.cuda.current_device())


def driver(triton: Any) -> Any:
    """Triton's driver for it."""
    return triton.runtime.driver.default


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, `device` is current."""
    return torch.cuda.device(device)


def target(device: torch.device) -> Target:
    """Any GPU by its name."""
    return named(torch.cuda.get_device_name(device))


def named(name: str) -> Target:
    """What a launch needs to know of any NVIDIA GPU."""
    return Target("cuda", name, _PROGRAMS, _PROGRAMS)


def stream_api() -> Any:
    """`torch.cuda`."""
    return torch.cuda


def describe(device: torch.device) -> str:
    """What it is."""
    return f"{target(device).name} ({device})"
