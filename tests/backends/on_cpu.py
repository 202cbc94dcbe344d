"""What the tests of the CPU backend share."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dsv4_kernels import device as devices

only = pytest.mark.skipif(
    devices.best().type != "cpu", reason="the CPU backend is for machines without an accelerator"
)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **sizes: Any) -> None:
    """`kernel[grid](*arguments, **sizes)` on the CPU, whatever tensors there are."""
    with devices.on(torch.empty(0)):
        kernel[grid](*arguments, **sizes)


def compilation_error() -> type[Exception]:
    """What triton-ascend wraps an error of a stage in; upstream Triton has no such class."""
    from triton.compiler.errors import MLIRCompilationError

    return MLIRCompilationError
