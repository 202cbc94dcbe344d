"""Byte memories at planned addresses, and views of them.

A view is what a memref is: a memory, an offset, sizes and strides. Buffers that the compiler put at
one address are the same bytes here. Packed booleans (i1) lie 8 in a byte, the first in its lowest
bit.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from operator import mul
from typing import Any, NamedTuple

import numpy as np

ELEMENT_BITS = {"i1": 1, "i8": 8, "bf16": 16, "f16": 16, "i16": 16, "i32": 32, "f32": 32, "i64": 64}

# How the elements of a type lie in memory. bf16 is kept as its bits: numpy has no such type.
_STORED = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(np.uint16),
    "i64": np.dtype(np.int64),
    "i32": np.dtype(np.int32),
    "i16": np.dtype(np.int16),
    "i8": np.dtype(np.int8),
}


class OutOfBounds(IndexError):
    """A view reaches outside of its memory."""


class Space:
    """One memory: `ub` or `cbuf` of a core, a tensor in global memory (`gm:` and its name)."""

    def __init__(self, name: str, data: np.ndarray[Any, Any]) -> None:
        self.name = name
        self.data = data  # uint8

    @property
    def is_global(self) -> bool:
        return is_global(self.name)


def is_global(space: str) -> bool:
    """Whether the memory of this name is one that all cores see."""
    return space.startswith("gm:")


class View(NamedTuple):
    """offset: bits from the start of `space`. strides: in elements."""

    space: Space
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    type: str

    @property
    def bits(self) -> int:
        return ELEMENT_BITS[self.type]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def extent(self) -> tuple[int, int]:
        """[first, last) byte that it spans; (0, 0) for an empty one."""
        span = _span(self.shape, self.strides)
        if span == 0:
            return 0, 0
        return self.offset // 8, -(-(self.offset + span * self.bits) // 8)

    def require_inside(self) -> tuple[int, int]:
        """Its extent. OutOfBounds for a view that leaves its memory."""
        first, last = self.extent()
        if first < 0 or last > len(self.space.data):
            raise OutOfBounds(f"bytes {first}..{last} of {len(self.space.data)}")
        return first, last

    def overlaps(self, other: View) -> bool:
        """Whether the spans of both share a byte."""
        if self.space is not other.space:
            return False
        (a, b), (c, d) = self.extent(), other.extent()
        return a < d and c < b

    # -- other views of the same memory

    def part(
        self,
        offsets: Sequence[int],
        sizes: Sequence[int],
        steps: Sequence[int],
        dropped: Sequence[int] = (),
    ) -> View:
        """memref.subview, without its `dropped` axes."""
        start = self.offset + sum(map(mul, offsets, self.strides)) * self.bits
        strides = tuple(map(mul, self.strides, steps))
        if dropped:
            kept = [axis for axis in range(len(sizes)) if axis not in dropped]
            sizes, strides = [sizes[axis] for axis in kept], tuple(strides[axis] for axis in kept)
        return View(self.space, start, tuple(sizes), strides, self.type)

    def element(self, index: Sequence[int]) -> View:
        """One element, of shape ()."""
        return View(self.space, self.start(index), (), (), self.type)

    def start(self, index: Sequence[int]) -> int:
        """Bits from the start of the memory to an element's."""
        return self.offset + sum(map(mul, index, self.strides)) * self.bits

    def collapse(self, groups: tuple[tuple[int, ...], ...]) -> View:
        """memref.collapse_shape. ValueError where a group's axes are not one run of memory."""
        shape, strides = _collapsed(self.shape, self.strides, groups)
        return View(self.space, self.offset, shape, strides, self.type)

    def expand(self, groups: Sequence[Sequence[int]], shape: Sequence[int]) -> View:
        """memref.expand_shape."""
        strides = [0] * len(shape)
        for stride, group in zip(self.strides, groups, strict=True):
            for axis in reversed(group):
                strides[axis] = stride
                stride *= shape[axis]
        return View(self.space, self.offset, tuple(shape), tuple(strides), self.type)

    def at(self, offset: int, sizes: Sequence[int], strides: Sequence[int], type: str) -> View:
        """memref.reinterpret_cast; the offset counts elements from this view's own start. A
        kernel's argument gets the type of its elements here."""
        start = self.offset + offset * ELEMENT_BITS[type]
        return View(self.space, start, tuple(sizes), tuple(strides), type)

    def shifted(self, offset: int, shape: Sequence[int], type: str) -> View:
        """memref.view: dense elements of another type, `offset` bytes on."""
        return dense(self.space, self.offset // 8 + offset, shape, type)

    def bitcast(self, type: str) -> View:
        """The same bits as elements of another type of the same width."""
        if ELEMENT_BITS[type] != self.bits:
            raise ValueError(f"cannot read {self.type} as {type}: another width")
        return self._replace(type=type)

    # -- contents

    def array(self) -> np.ndarray[Any, Any]:
        """The elements as they lie in memory, writable; not for i1."""
        self.require_inside()
        stored = _STORED[self.type]
        strides = tuple(stride * stored.itemsize for stride in self.strides)
        return np.ndarray(self.shape, stored, self.space.data, self.offset // 8, strides)

    def get(self) -> np.ndarray[Any, Any]:
        """A copy of the values: bf16 as fp32, i1 as bool."""
        if self.elements == 0:
            return np.zeros(self.shape, bool if self.type == "i1" else np.float32)
        if self.type == "i1":
            packed = np.unpackbits(self._packed(), axis=-1, bitorder="little")
            return packed[..., : self.shape[-1]].astype(bool)
        if self.type == "bf16":
            return from_bf16(self.array())
        return self.array().copy()

    def put(self, values: Any) -> None:
        """Write values, broadcast to the shape; bf16 rounds to nearest even, integers wrap."""
        if self.elements == 0:
            return
        if self.type == "i1":
            flags = np.broadcast_to(values, self.shape).astype(bool)
            self._packed()[...] = np.packbits(flags, axis=-1, bitorder="little")
        elif self.type == "bf16":
            self.array()[...] = to_bf16(np.asarray(values, np.float32))
        else:
            self.array()[...] = np.asarray(values).astype(_STORED[self.type])

    def on(self, shadow: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """What `shadow`, with an entry per byte of the memory, has for the view's bytes."""
        first, last = self.require_inside()
        runs = _runs(self.shape, self.strides, self.type)
        if len(runs) == 1:
            return shadow[first:last]
        size = shadow.itemsize
        shape = tuple(n for n, _ in runs)
        return np.ndarray(
            shape, shadow.dtype, shadow, first * size, tuple(step * size for _, step in runs)
        )

    def _packed(self) -> np.ndarray[Any, Any]:
        """The bytes of packed booleans, a row of them per row; ValueError where a row does not
        start on a byte."""
        *outer, last = self.strides or (1,)
        if last != 1 or self.offset % 8 or any(stride % 8 for stride in outer):
            raise ValueError(f"packed booleans that do not start on a byte: {self[1:]}")
        self.require_inside()
        *rows, columns = self.shape or (1,)
        strides = (*(stride // 8 for stride in outer), 1)
        shape = (*rows, -(-columns // 8))
        return np.ndarray(shape, np.uint8, self.space.data, self.offset // 8, strides)


def dense(space: Space, offset: int, shape: Sequence[int], type: str) -> View:
    """A row-major view, `offset` bytes from the start of its memory."""
    shape = tuple(shape)
    return View(space, offset * 8, shape, _row_major(shape), type)


# Loops make views of few shapes over and over.
_few_shapes = functools.lru_cache(maxsize=4096)


@_few_shapes
def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first to the last, both counted; 0 where there are none."""
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))


@_few_shapes
def _runs(
    shape: tuple[int, ...], strides: tuple[int, ...], type: str
) -> tuple[tuple[int, int], ...]:
    """(how many, bytes apart), the last of them a run of neighbouring bytes; axes that repeat
    the same elements are left out."""
    axes = [(n, stride) for n, stride in zip(shape, strides, strict=True) if n > 1 and stride != 0]
    if type == "i1":
        n = axes.pop()[0] if axes and axes[-1][1] == 1 else 1
        runs = [(n, stride // 8) for n, stride in axes] + [(-(-n // 8), 1)]
    else:
        size = ELEMENT_BITS[type] // 8
        runs = [(n, stride * size) for n, stride in axes] + [(size, 1)]
    while len(runs) > 1 and runs[-2][1] == runs[-1][0]:
        runs[-2:] = [(runs[-2][0] * runs[-1][0], 1)]
    return tuple(runs)


@_few_shapes
def _collapsed(
    shape: tuple[int, ...], strides: tuple[int, ...], groups: tuple[tuple[int, ...], ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides of `View.collapse`."""
    sizes, steps = [], []
    for group in groups:
        real = [axis for axis in group if shape[axis] != 1]
        for outer, inner in itertools.pairwise(real):
            if strides[outer] != strides[inner] * shape[inner]:
                raise ValueError(f"cannot collapse {groups} of {shape}, strides {strides}")
        sizes.append(math.prod(shape[axis] for axis in group))
        steps.append(strides[real[-1] if real else group[-1]])
    return tuple(sizes), tuple(steps)


@functools.cache
def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, stride = [], 1
    for n in reversed(shape):
        strides.append(stride)
        stride *= n
    return tuple(reversed(strides))


def from_bf16(bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """bf16, as its bits, to fp32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """fp32 to the bits of bf16, to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).reshape(np.shape(values))
