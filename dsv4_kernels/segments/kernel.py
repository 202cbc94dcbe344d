"""How every kernel is compiled: once for its dtypes and constants.

Triton would compile again for a size of 1 or of 16, and for an address that is no multiple of 16: a
stall of a second in the midst of serving, the first time that a wave or a slice of a batch begins
at an odd row. So numbers and addresses are never specialised on.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton

from dsv4_kernels.buffers import BUFFERS


def kernel(function: Callable[..., Any]) -> Any:
    """`triton.jit`, for what is launched: pointers are named after their buffers, X_ptr."""
    names = inspect.signature(function).parameters.values()
    runtime = [p.name for p in names if p.annotation != "tl.constexpr"]
    pointers = [name for name in runtime if name.endswith("_ptr")]
    return triton.jit(
        do_not_specialize=[name for name in runtime if name not in pointers],
        do_not_specialize_on_alignment=[name for name in pointers if not _wide(name)],
    )(function)


def _wide(pointer: str) -> bool:
    """Whether alignment makes a difference: to CUDA, whose loads of 16 bytes it allows, and for
    what has rows of 16 bytes, so that any slice of it is aligned as the whole is."""
    buffer = BUFFERS[pointer.removesuffix("_ptr")]
    rows = buffer.dtype in (torch.bfloat16, torch.int8) and buffer.lifetime != "output"
    return _UPSTREAM and (rows or buffer.lifetime == "wave")


_UPSTREAM = importlib.util.find_spec("triton.backends.nvidia") is not None
