"""Any CPU, through the code that the Ascend compiler's own front half makes of a kernel."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from contextlib import AbstractContextManager
from typing import Any

import torch

from dsv4_kernels.backends.missing import MissingDependency, with_extra
from dsv4_kernels.device.target import Target

NOTHING = contextlib.nullcontext()


def best() -> torch.device:
    """There is always one."""
    return torch.device("cpu")


@functools.cache
def driver(triton: Any) -> Any:
    """The driver of `backends/linalg`. MissingDependency where what it needs is not installed."""
    needs = {"triton.backends.ascend": "triton-ascend", "ascendnpuir": "ascendnpu-ir"}
    missing = [name for module, name in needs.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingDependency(
            f"CPU tensors need {' and '.join(missing)} (the kernels run there as the code of the "
            f"Ascend compiler's front half): {with_extra('cpu')}, into an environment without "
            "upstream triton"
        )
    from dsv4_kernels.backends import linalg

    return linalg.driver()


def current(device: torch.device) -> AbstractContextManager[Any]:
    """There is only one."""
    return NOTHING


def target(device: torch.device) -> Target:
    """A program per thread."""
    threads = torch.get_num_threads()
    return Target("cpu", "CPU", threads, threads)


def stream_api() -> Any:
    """None: work is done when a launch returns."""
    return None


def describe(device: torch.device) -> str:
    """What a number measured here means."""
    return (
        f"CPU, {torch.get_num_threads()} threads: the Ascend front half's code compiled for "
        "this host; its times say nothing about an NPU"
    )
