"""Argument checks: one error type, one grammar of message, before any launch.

Only metadata is read (dtype, shape, strides, device): reading a value would synchronise with the
device. Wrong values - an index out of range, say - are dealt with inside the kernels.
"""

from __future__ import annotations

import functools
import math
import operator
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from dsv4_kernels.buffers import BUFFERS, span

Entries = tuple[tuple[str | int, ...], ...]  # of a shape, each a product of factors


class ContractError(ValueError):
    """An argument broke its contract: ``<op>: `<argument>` must be <contract>, got <actual>``."""


class Contract:
    """The checks of one call, binding the glossary's letters to sizes as they are met.

    >>> contract = Contract("proj_a")
    >>> contract.buffer("o_packed", o_packed)  # shape and dtype by the table of buffers
    >>> contract.buffer("wo_a", wo_a)
    >>> o_r = contract.output("o_r", o_r)

    A shape is letters, products of letters ("G*R") and literal sizes. The first tensor to name a
    letter binds it, later ones must agree; all tensors must be contiguous and on one device.

    rows: the letter that counts a call's tokens, N of a wave or T of a chunk.
    """

    def __init__(self, op: str, rows: str = "N", **sizes: int) -> None:
        self.op = op
        self.rows = rows
        self.sizes: dict[str, Any] = dict(sizes)  # of letters, and numbers by name
        self.groups = range(0)  # what `group_range` found
        self.called: Mapping[str, str] = {}  # buffers that the caller knows by another name
        self._device: tuple[str, torch.device] | None = None

    def __getitem__(self, letter: str) -> Any:
        return self.sizes[letter]

    def on(self, device: torch.device, argument: str) -> None:
        """Tensors checked from here on must be on `device`, where `argument` is."""
        self._device = (argument, device)

    def require(self, holds: bool, argument: str, contract: str, actual: Any) -> None:
        """Raise ContractError unless `holds`."""
        if not holds:
            raise ContractError(f"{self.op}: `{argument}` must be {contract}, got {actual}")

    def one_of(self, argument: str, value: Any, known: Collection[str]) -> None:
        """One of the names that are known."""
        holds = isinstance(value, str) and value in known
        self.require(holds, argument, f"one of {', '.join(known)}", repr(value))

    def integer(self, argument: str, value: Any, low: int, high: int | None = None) -> int:
        """`value` as a Python int, if it is an integer of any kind in [low, high]."""
        bounds = f">= {low}" if high is None else f"in {low}..{high}"
        number = as_int(value)
        fits = number is not None and number >= low and (high is None or number <= high)
        self.require(fits, argument, f"an integer {bounds}", repr(value))
        assert number is not None
        return number

    def buffer(self, name: str, value: Any, argument: str | None = None) -> torch.Tensor:
        """A tensor with the shape and dtype of the buffer of this name; of one whose rows may lie
        apart, {name}_stride is bound to the elements from one to the next."""
        buffer = BUFFERS[name]
        dtype = buffer.dtype
        assert isinstance(dtype, torch.dtype), f"{name} is a number"
        if buffer.wider is not None and getattr(value, "dtype", None) == buffer.wider:
            dtype = buffer.wider
        argument, apart = argument or name, buffer.apart > 0
        tensor = self.tensor(argument, value, self._own(buffer.shape), dtype, apart=apart)
        if apart:
            self.sizes[f"{name}_stride"] = self.row_stride(argument, tensor, buffer.apart)
        return tensor

    def require_packed(self, name: str, row: int) -> None:
        """Nothing lies between the rows, of so many elements, of a buffer that `buffer` bound."""
        stride = self.sizes[f"{name}_stride"]
        self.require(stride == row, name, f"contiguous, rows of {row}", f"rows {stride} apart")

    def row_stride(self, argument: str, tensor: torch.Tensor, block: int) -> int:
        """Elements from a row of the tensor to the next, whole blocks of so many if it is not
        contiguous."""
        many = len(tensor) > 1 and tensor.numel()
        stride = tensor.stride(0) if many else math.prod(tensor.shape[1:])
        if not tensor.is_contiguous():
            rows = f"rows whole {block}-element blocks apart"
            self.require(stride % block == 0, argument, rows, f"{stride} elements")
        return stride

    def by_name(
        self,
        names: Sequence[str],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        known: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The arguments `names`, given in their order or by name; what is not given is `known`."""
        given = dict(zip(names, args, strict=False))
        twice = sorted(given.keys() & kwargs.keys())
        unknown = sorted(kwargs.keys() - {*names})
        arguments = {**known, **given, **kwargs}
        missing = [name for name in names if name not in arguments]
        if len(args) > len(names) or twice or unknown or missing:
            what = f"{len(args)} by place"
            for word, wrong in (("twice", twice), ("unknown", unknown), ("missing", missing)):
                what += f", {word}: {', '.join(wrong)}" if wrong else ""
            self.require(False, "args", f"{len(names)} arguments, {names[0]} to {names[-1]}", what)
        return {name: arguments[name] for name in names}

    def plain(self, argument: str, value: Any) -> None:
        """For what is made a view of before its check: no torch error stands in the way."""
        if isinstance(value, torch.Tensor) and (odd := _odd_memory(value)):
            self.require(False, argument, "a tensor in plain memory", odd)

    def tensor(
        self, argument: str, value: Any, shape: str, dtype: torch.dtype, *, apart: bool = False
    ) -> torch.Tensor:
        """A contiguous tensor of `shape` and `dtype` on the device of the tensors before it.

        apart: what lies along the first axis may have other memory between it, as pages of a pool
        and rows of a wider table do.
        """
        dims, before = _factors(shape), dict(self.sizes)
        if not isinstance(value, torch.Tensor):
            self.require(False, argument, _words(dims, before, dtype), type(value).__name__)
        fits = value.dtype == dtype and value.dim() == len(dims)
        if not (fits and all(map(self._binds, dims, value.shape))):
            actual = f"{list(value.shape)} {_name(value.dtype)}"
            self.require(False, argument, _words(dims, before, dtype), actual)
        if odd := _odd_memory(value):
            self.require(False, argument, f"{_words(dims, before, dtype)} in plain memory", odd)
        if not (_contiguous_parts(value) if apart else value.is_contiguous()):
            strides, how = f"strides {list(value.stride())}", "contiguous"
            how += " along all but the first axis" if apart else ""
            self.require(False, argument, f"{_words(dims, before, dtype)}, {how}", strides)
        if self._device is None:
            self._device = (argument, value.device)
        first, device = self._device
        if value.device != device:
            self.require(False, argument, f"on {device} like `{first}`", str(value.device))
        return value

    def output(self, name: str, value: torch.Tensor | None) -> torch.Tensor:
        """`value` checked as `buffer` does, or a fresh uninitialised tensor where there is none."""
        if value is not None:
            return self.buffer(name, value)
        assert self._device is not None, "an output comes after the first input"
        buffer = BUFFERS[name]
        sizes = [_size(dim, self.sizes) for dim in _factors(self._own(buffer.shape))]
        return torch.empty(sizes, dtype=buffer.dtype, device=self._device[1])  # type: ignore[arg-type]

    def may_be_written(self, argument: str, out: torch.Tensor) -> None:
        """Not a leaf that requires grad, which torch itself would not write in place."""
        leaf = out.requires_grad and out.is_leaf
        self.require(
            not leaf, argument, "a tensor that may be written", "a leaf that requires grad"
        )

    def apart(
        self, argument: str, out: torch.Tensor, inputs: Mapping[str, Any], nbytes: Mapping[str, int]
    ) -> None:
        """No byte of `out` is an input's: a wave would read what another has overwritten.

        nbytes: of the tensors among the inputs, by their names.
        """
        if out.device.type == "meta":
            return
        begin = out.data_ptr()
        end = begin + out.nbytes
        for name, size in nbytes.items():
            first = inputs[name].data_ptr()
            if first < end and begin < first + size:
                known = self.called.get(name, name)
                self.require(False, argument, f"memory apart from `{known}`", "an overlap")

    def power_of_two(self, letter: str, argument: str, low: int = 1) -> None:
        """The size bound to `letter` is a power of two >= `low`: a tile spans all of it."""
        size = self.sizes[letter]
        holds = size >= low and size & (size - 1) == 0
        self.require(holds, argument, f"{letter} a power of two >= {low}", f"{letter} = {size}")

    def group_range(self, groups: range | None) -> None:
        """Binds `groups`: a range inside 0..G, all of it for None."""
        G = self.sizes["G"]
        self.groups = range(G) if groups is None else groups
        fits = isinstance(self.groups, range) and self.groups.step == 1
        fits = fits and 0 <= self.groups.start <= self.groups.stop <= G
        self.require(fits, "group_range", f"a range of groups inside 0..{G}", repr(groups))

    def _own(self, shape: str) -> str:
        """The shape of a buffer as this call counts tokens."""
        return shape if self.rows == "N" else _with_rows(shape, self.rows)

    def _binds(self, dim: tuple[str | int, ...], size: int) -> bool:
        """Whether `size` is what `dim` says; a letter that has no size yet gets it."""
        if len(dim) == 1 and dim[0] not in self.sizes and isinstance(dim[0], str):
            self.sizes[dim[0]] = size
            return True
        return _size(dim, self.sizes) == size


def _contiguous_parts(tensor: torch.Tensor) -> bool:
    """Whether every tensor[i] is contiguous, and none reaches into the next."""
    if tensor.numel() == 0:
        return True
    part = tensor[0]
    return part.is_contiguous() and (len(tensor) == 1 or tensor.stride(0) >= part.numel())


def _odd_memory(tensor: torch.Tensor) -> str | None:
    """Why a pointer to the tensor's memory would not give its elements; None where it would.

    From metadata only. A kernel reads what lies at the pointer: it knows of no layout but strides,
    of no pending negation, and of no wrapper that keeps its elements elsewhere.
    """
    if tensor.layout != torch.strided:
        return f"{str(tensor.layout).removeprefix('torch.')} layout"
    if tensor.is_neg():
        return "a pending negation: resolve_neg() carries it out"
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return None  # a shape without elements
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch says of fake tensors
            pointer, held = tensor.data_ptr(), tensor.untyped_storage().nbytes()
    except RuntimeError:  # NotImplementedError among them: a tensor of a torch.func transform
        return "none"
    needed = (tensor.storage_offset() + span(tensor)) * tensor.element_size()
    return None if pointer and held >= needed else "none"


def as_int(value: Any) -> int | None:
    """The value as an int; None where it is no integer, as a bool is not."""
    if isinstance(value, bool | torch.Tensor):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


@functools.cache
def _with_rows(shape: str, rows: str) -> str:
    return " ".join(rows if entry == "N" else entry for entry in shape.split())


def _size(dim: tuple[str | int, ...], sizes: Mapping[str, int]) -> int | None:
    """Product of the factors of one entry of a shape; None where a letter has no size yet."""
    size = 1
    for factor in dim:
        known = factor if isinstance(factor, int) else sizes.get(factor)
        if known is None:
            return None
        size *= known
    return size


def _words(dims: Entries, sizes: Mapping[str, int], dtype: torch.dtype) -> str:
    words = []
    for dim in dims:
        name, size = "*".join(map(str, dim)), _size(dim, sizes)
        words.append(name if size is None or name == str(size) else f"{name}={size}")
    return f"[{', '.join(words)}] {_name(dtype)}"


@functools.cache
def _factors(shape: str) -> Entries:
    """The entries of a shape, each as its factors: "D G*R" is (("D",), ("G", "R"))."""
    entries = [entry.split("*") for entry in shape.split()]
    return tuple(tuple(int(f) if f.isdigit() else f for f in entry) for entry in entries)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
