"""What a conversion reads: tensors by name, of which no more is taken than is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from dsv4_kernels.contract import Contract


class Matrix(Protocol):
    """A tensor, or one in a file: metadata at no cost, and slices of it."""

    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def __getitem__(self, index: Any, /) -> torch.Tensor: ...


@dataclass(frozen=True)
class Named:
    """A matrix, and what messages call it."""

    name: str
    matrix: Matrix

    @property
    def shape(self) -> list[int]:
        return list(self.matrix.shape)

    def empty(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised tensor on the matrix's device."""
        return torch.empty(shape, dtype=dtype, device=self.matrix.device)

    def __str__(self) -> str:
        return f"{self.shape} {dtype_name(self.matrix.dtype)}"

    def require(
        self, contract: Contract, shape: str, holds: bool, *dtypes: torch.dtype | None
    ) -> None:
        """Raise ContractError unless the shape `holds` and the dtype is one of `dtypes`."""
        known = [dtype for dtype in dtypes if dtype is not None]
        words = f"{shape} {' or '.join(map(dtype_name, known))}"
        contract.require(holds and self.matrix.dtype in known, self.name, words, self)


def dtype_name(dtype: torch.dtype) -> str:
    """Without "torch."."""
    return str(dtype).removeprefix("torch.")
