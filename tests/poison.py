"""Memory that shows what was not written, and what was written where it should not be."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from unittest import mock

import torch

# Elements on either side of a poisoned tensor: more than any tile's tail can overrun in a row.
BAND = 4096

SENTINELS = {
    torch.bfloat16: torch.nan,
    torch.float32: torch.nan,
    torch.int8: -128,  # never a code
    torch.int32: -(2**31),  # never a count or a partial sum
}


class Poison:
    """Allocates tensors of sentinels between guard bands of sentinels."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._bands: list[torch.Tensor] = []

    def tensor(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """A contiguous [*shape] of sentinels."""
        size = math.prod(shape)
        memory = torch.full((size + 2 * BAND,), SENTINELS[dtype], dtype=dtype, device=self._device)
        self._bands += [memory[:BAND], memory[BAND + size :]]
        return memory[BAND : BAND + size].view(shape)

    def copy(self, source: torch.Tensor) -> torch.Tensor:
        """A copy of `source` between guard bands."""
        return self.tensor(*source.shape, dtype=source.dtype).copy_(source)

    @contextlib.contextmanager
    def allocations(self) -> Iterator[None]:
        """Inside, every torch.empty - so every output and workspace - is poisoned and guarded."""

        plain = torch.empty

        def empty(
            size: list[int], *, dtype: torch.dtype, device: torch.device | str
        ) -> torch.Tensor:
            if device == "meta":  # a shape, no memory
                return plain(size, dtype=dtype, device=device)
            assert torch.device(device).type == self._device.type
            return self.tensor(*size, dtype=dtype)

        with mock.patch("torch.empty", empty):
            yield

    def check_bands(self) -> None:
        """Nothing was written beside any of the tensors handed out."""
        for band in self._bands:
            assert is_sentinel(band).all(), "written outside of the output"


def is_sentinel(tensor: torch.Tensor) -> torch.Tensor:
    """Where a tensor still holds what it was poisoned with."""
    sentinel = SENTINELS[tensor.dtype]
    return tensor.isnan() if sentinel != sentinel else tensor == sentinel
