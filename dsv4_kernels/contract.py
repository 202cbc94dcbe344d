"""Argument checks: one error type, one grammar of message, before any launch.

Only metadata is read (dtype, shape, strides, device): reading a value would synchronise with the
device. Wrong values - an index out of range, say - are dealt with inside the kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch

Dims = tuple[tuple[str | int, ...], ...]  # of a shape: entries, each a product of factors


class ContractError(ValueError):
    """An argument broke its contract: ``<op>: `<argument>` must be <contract>, got <actual>``."""


class Contract:
    """The checks of one call, binding the glossary's letters to sizes as they are met.

    >>> contract = Contract("proj_a")
    >>> contract.tensor("o_packed", o_packed, "G N J", torch.bfloat16)
    >>> contract.tensor("wo_a", wo_a, "G R J", torch.bfloat16)
    >>> o_r = contract.output("o_r", o_r, "N G R", torch.float32)

    A shape is letters, products of letters ("G*R") and literal sizes. The first tensor to name a
    letter binds it, later ones must agree; all tensors must be contiguous and on one device.
    """

    def __init__(self, op: str, **sizes: int) -> None:
        self.op = op
        self.sizes = dict(sizes)
        self._device: tuple[str, torch.device] | None = None

    def __getitem__(self, letter: str) -> int:
        return self.sizes[letter]

    def on(self, device: torch.device, argument: str) -> None:
        """Tensors checked from here on must be on `device`, where `argument` is."""
        self._device = (argument, device)

    def require(self, holds: bool, argument: str, contract: str, actual: Any) -> None:
        """Raise ContractError unless `holds`."""
        if not holds:
            raise ContractError(f"{self.op}: `{argument}` must be {contract}, got {actual}")

    def integer(self, argument: str, value: Any, low: int, high: int | None = None) -> int:
        """A Python int in [low, high]."""
        bounds = f">= {low}" if high is None else f"in {low}..{high}"
        fits = isinstance(value, int) and not isinstance(value, bool) and value >= low
        fits = fits and (high is None or value <= high)
        self.require(fits, argument, f"an integer {bounds}", repr(value))
        return value

    def tensor(self, argument: str, value: Any, shape: str, dtype: torch.dtype) -> torch.Tensor:
        """A contiguous tensor of `shape` and `dtype` on the device of the tensors before it."""
        dims, before = _factors(shape), dict(self.sizes)
        if not isinstance(value, torch.Tensor):
            self.require(False, argument, _words(dims, before, dtype), type(value).__name__)
        fits = value.dtype == dtype and value.dim() == len(dims)
        if not (fits and all(map(self._binds, dims, value.shape))):
            actual = f"{list(value.shape)} {_name(value.dtype)}"
            self.require(False, argument, _words(dims, before, dtype), actual)
        if not value.is_contiguous():
            strides = f"strides {list(value.stride())}"
            self.require(False, argument, f"{_words(dims, before, dtype)}, contiguous", strides)
        if self._device is None:
            self._device = (argument, value.device)
        first, device = self._device
        if value.device != device:
            self.require(False, argument, f"on {device} like `{first}`", str(value.device))
        return value

    def output(
        self, argument: str, value: torch.Tensor | None, shape: str, dtype: torch.dtype
    ) -> torch.Tensor:
        """`value` checked, or a fresh uninitialised tensor where the caller gave none."""
        if value is not None:
            return self.tensor(argument, value, shape, dtype)
        assert self._device is not None, "an output comes after the first input"
        sizes = [_size(dim, self.sizes) for dim in _factors(shape)]
        return torch.empty(sizes, dtype=dtype, device=self._device[1])  # type: ignore[arg-type]

    def power_of_two(self, letter: str, argument: str, low: int = 1) -> None:
        """The size bound to `letter` is a power of two >= `low`: a tile spans all of it."""
        size = self.sizes[letter]
        holds = size >= low and size & (size - 1) == 0
        self.require(holds, argument, f"{letter} a power of two >= {low}", f"{letter} = {size}")

    def group_range(self, groups: range | None) -> tuple[int, int]:
        """(first group, how many) of a range inside 0..G; all of G for None."""
        G = self.sizes["G"]
        if groups is None:
            return 0, G
        fits = isinstance(groups, range) and groups.step == 1
        fits = fits and 0 <= groups.start <= groups.stop <= G
        self.require(fits, "group_range", f"a range of groups inside 0..{G}", repr(groups))
        return groups.start, len(groups)

    def _binds(self, dim: tuple[str | int, ...], size: int) -> bool:
        """Whether `size` is what `dim` says; a letter that has no size yet gets it."""
        if len(dim) == 1 and dim[0] not in self.sizes and isinstance(dim[0], str):
            self.sizes[dim[0]] = size
            return True
        return _size(dim, self.sizes) == size


def _size(dim: tuple[str | int, ...], sizes: Mapping[str, int]) -> int | None:
    """Product of the factors of one entry of a shape; None where a letter has no size yet."""
    size = 1
    for factor in dim:
        known = factor if isinstance(factor, int) else sizes.get(factor)
        if known is None:
            return None
        size *= known
    return size


def _words(dims: Dims, sizes: Mapping[str, int], dtype: torch.dtype) -> str:
    words = []
    for dim in dims:
        name, size = "*".join(map(str, dim)), _size(dim, sizes)
        words.append(name if size is None or name == str(size) else f"{name}={size}")
    return f"[{', '.join(words)}] {_name(dtype)}"


@functools.cache
def _factors(shape: str) -> Dims:
    """The entries of a shape, each as its factors: "D G*R" is (("D",), ("G", "R"))."""
    entries = [entry.split("*") for entry in shape.split()]
    return tuple(tuple(int(f) if f.isdigit() else f for f in entry) for entry in entries)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
