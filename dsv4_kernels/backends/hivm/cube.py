"""Library functions of the cube core, as the instructions that they put on its pipes.

Read in AscendNPU-IR, commit 52f96a13, bishengir/lib/Template/lib: DMA/Cbuf/{nd2nz,set2d}.cpp,
Cube/LocalMmad.cpp, Fixpipe/Fixpipe.cpp. Layouts, with fractals of 16 rows and blocks of 32 bytes:

    GM   [rows, columns]
    L1   [column blocks, row fractals, 16, block]; B without _tb [N blocks, K fractals, 16, 16]
    L0C  [column fractals, row fractals, 16, 16]
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsv4_kernels.backends.hivm.instruction import (
    Barrier,
    Instruction,
    Library,
    Set,
    Site,
    Wait,
    Work,
)
from dsv4_kernels.backends.hivm.memory import View, dense

FRACTAL = 16  # rows of a fractal, and columns of one in L0C
BLOCK = 32  # bytes of a row of a fractal in L1
L0 = 64 * 1024  # bytes of L0A, and of L0B


def _nd2nz(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
    """GM to L1: column blocks one after another, each with its rows; the tail of the last block is
    zero (assumed: the source leaves it to the DMA)."""
    gm, l1 = operands
    (rows, columns), block = gm.shape, l1.shape[3]
    if not gm.elements:
        return []
    blocks = -(-columns // block)
    used = _reshaped(l1, (blocks, rows, block), (l1.strides[0], block, 1))

    def run() -> None:
        padded = np.pad(gm.array(), ((0, 0), (0, blocks * block - columns)))
        used.array()[...] = padded.reshape(rows, blocks, block).transpose(1, 0, 2)

    return [Work("MTE2", (gm,), (used,), run)]


def _set_l1(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
    value, l1 = operands
    return [Work("MTE2", (), (l1,), lambda: l1.put(value))]


# CANN's QuantMode_t::F322BF16: a cast on the way out, no scale.
_F32_TO_BF16 = 16


def _fixpipe(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
    """L0C to GM, row-major; a bf16 target rounds to nearest even.

    To the workspace of a MIX kernel it copies the whole tile, columns that no product was written
    to included: the vector core masks them.
    """
    l0c, gm, quant, relu, split, unit_flag = operands
    casts = quant == _F32_TO_BF16 and gm.bits == 16
    if (quant and not casts) or relu or split or unit_flag:
        raise ValueError(f"{name[0]}: no model of quantisation, ReLU, split or unit flags")
    rows, columns = gm.shape
    if not gm.elements:
        return []
    shape = (-(-columns // FRACTAL), rows, FRACTAL)
    source = _reshaped(l0c, shape, (l0c.strides[0], FRACTAL, 1))

    def run() -> None:
        gm.put(source.array().transpose(1, 0, 2).reshape(rows, -1)[:, :columns])

    workspace = gm.space.name == "gm:workspace"
    return [Work("FIX", (source,), (gm,), run, partly=workspace)]


@dataclass(frozen=True)
class _Product:
    """Operands of mma_tile, in their order. Events of -1: none."""

    a: View
    b: View
    init: int
    M: int
    K: int
    N: int
    c: View
    wait_a: int
    wait_b: int
    free_a: int
    free_b: int
    turn: int
    back0: int
    back1: int
    unit_flag: int


def _mma_tile(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
    """C (+)= A . B, with K in parts that go through L0A and L0B by halves in turn."""
    product = _Product(*operands)
    if product.unit_flag:
        raise ValueError(f"{name[0]}: no model of unit flags")
    if not (product.M and product.K and product.N):
        return _flags_only(product)
    return list(_Parts(site, product, transposed=name[3] is not None).instructions())


def _flags_only(p: _Product) -> list[Instruction]:
    """An empty product still takes and gives its flags."""
    waits = [Wait(("MTE2", "MTE1", e)) for e in (p.wait_a, p.wait_b) if e != -1]
    return [*waits, *(Set(("MTE1", "MTE2", e)) for e in (p.free_a, p.free_b) if e != -1)]


class _Parts:
    """One mma_tile, cut along K."""

    def __init__(self, site: Site, product: _Product, transposed: bool) -> None:
        self._site, self._p, self._transposed = site, product, transposed
        a, b, c = product.a, product.b, product.c
        self._size = a.bits // 8
        self._block = BLOCK // self._size
        self._rows = c.shape[1] * c.shape[2]  # all of the tile, M of them wanted
        self._columns = _ceil(product.N, FRACTAL)
        tile_n = b.shape[1] * b.shape[2] if transposed else b.shape[0] * b.shape[3]
        widest = max(a.shape[1] * a.shape[2], tile_n)
        self._length, self._doubled = _part_length(widest, self._size)
        self._half = L0 // (2 if self._doubled else 1)  # bytes
        self._count = -(-product.K // self._length)

    def instructions(self) -> Iterator[Instruction]:
        p, count = self._p, self._count
        own = [side for side, event in enumerate((p.back0, p.back1)) if event == -1]
        events = [0 if p.back0 == -1 else p.back0, 1 if p.back1 == -1 else p.back1]
        yield from (Set(("M", "MTE1", events[side])) for side in own)
        for part in range(count):
            first, last = part == 0, part == count - 1
            side = self._side(part)
            free = [("M", "MTE1", e) for e in ([events[side]] if self._doubled else (0, 1))]
            a = self._l0("ca", side, self._rows, part)
            b = self._l0("cb", side, self._columns, part)
            yield from map(Wait, free)
            if first and p.wait_a != -1:
                yield Wait(("MTE2", "MTE1", p.wait_a))
            yield self._load_a(part, a)
            if last and p.free_a != -1:
                yield Set(("MTE1", "MTE2", p.free_a))
            if first and p.wait_b != -1:
                yield Wait(("MTE2", "MTE1", p.wait_b))
            yield self._load_b(part, b)
            if last and p.free_b != -1:
                yield Set(("MTE1", "MTE2", p.free_b))
            yield from (Set(("MTE1", "M", "library")), Wait(("MTE1", "M", "library")))
            yield self._multiply(a, b, part, fresh=bool(p.init) and first)
            if self._rows // FRACTAL * p.N // FRACTAL < 10:  # LocalMmad.cpp: short products
                yield Barrier("M")
            yield from map(Set, free)
        yield from (Wait(("M", "MTE1", events[side])) for side in own)

    def _side(self, part: int) -> int:
        if not self._doubled:
            return 0
        before = self._p.turn * self._count if self._p.turn != -1 else 0
        return (before + part) % 2

    def _wanted(self, part: int) -> int:
        """Products to add for every output."""
        return min(self._length, self._p.K - part * self._length)

    def _held(self, part: int) -> int:
        """Columns in L0: whole blocks."""
        return _ceil(self._wanted(part), self._block)

    def _l0(self, memory: str, side: int, rows: int, part: int) -> View:
        space = self._site.memory(memory)
        return dense(space, side * self._half, (rows, self._held(part)), self._p.a.type)

    def _load_a(self, part: int, target: View) -> Work:
        return self._load_blocks(self._p.a, part, self._rows, target)

    def _load_b(self, part: int, target: View) -> Work:
        if self._transposed:
            return self._load_blocks(self._p.b, part, self._columns, target)
        b = self._p.b
        if self._size != 2:
            raise ValueError("no model of an 8-bit B that is not transposed")
        shape = (self._columns // FRACTAL, self._held(part), FRACTAL)
        source = _reshaped(b, shape, (b.strides[0], FRACTAL, 1), skip=part * self._length * FRACTAL)

        def run() -> None:
            target.array()[...] = source.array().transpose(0, 2, 1).reshape(target.shape)

        return Work("MTE1", (source,), (target,), run)

    def _load_blocks(self, l1: View, part: int, rows: int, target: View) -> Work:
        """From [K blocks, rows, block] to L0."""
        blocks = self._held(part) // self._block
        source = _reshaped(
            l1,
            (blocks, rows, self._block),
            (l1.strides[0], self._block, 1),
            skip=part * self._length // self._block * l1.strides[0],
        )

        def run() -> None:
            target.array()[...] = source.array().transpose(1, 0, 2).reshape(target.shape)

        return Work("MTE1", (source,), (target,), run)

    def _multiply(self, a: View, b: View, part: int, *, fresh: bool) -> Work:
        c = self._p.c
        shape = (self._columns // FRACTAL, self._rows, FRACTAL)
        target = _reshaped(c, shape, (c.strides[0], FRACTAL, 1))
        wanted = self._wanted(part)

        def run() -> None:
            sums = _exact_product(a.get()[:, :wanted], b.get()[:, :wanted])
            sums = sums.astype(target.array().dtype).reshape(self._rows, -1, FRACTAL)
            before = 0 if fresh else target.array()
            with np.errstate(all="ignore"):
                target.array()[...] = sums.transpose(1, 0, 2) + before

        return Work("M", (a, b) if fresh else (a, b, target), (target,), run)


def _exact_product(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """a . b^T of one part, before its one rounding: fp32 holds sums of int8 products exactly (a
    part is at most 1024 long, 2**24 / 2**14), fp64 those of bf16 nearly always.

    In blocks that OpenBLAS leaves to one thread: two wait for each other longer than they work,
    many times longer where the machine has other work.
    """
    kind = np.float32 if a.dtype == np.int8 else np.float64
    rows, columns, length = len(a), len(b), a.shape[1]
    wide = 64 if columns % 64 == 0 else FRACTAL
    left = a.astype(kind).reshape(-1, 1, FRACTAL, length)
    right = b.astype(kind).reshape(1, -1, wide, length).swapaxes(-1, -2)
    with np.errstate(all="ignore"):  # poison multiplies too
        return (left @ right).swapaxes(1, 2).reshape(rows, columns)


def _part_length(widest: int, size: int) -> tuple[int, bool]:
    """How much of K fits L0 at once, and whether two halves do."""
    block = max(BLOCK // size, FRACTAL)
    for doubled in (True, False):
        length = L0 // (2 if doubled else 1) // size // _ceil(widest, block) // block * block
        if length:
            return length, doubled
    raise ValueError(f"a tile of {widest} rows does not fit L0")


def _ceil(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _reshaped(view: View, shape: tuple[int, ...], strides: tuple[int, ...], skip: int = 0) -> View:
    """The view's memory, `skip` elements on, in another shape."""
    return View(view.space, view.offset + skip * view.bits, shape, strides, view.type)


_TYPE = r"(float|int32_t|int8_t|bfloat16_t)"
FUNCTIONS: tuple[tuple[str, Library], ...] = (
    (rf"nd2nz_{_TYPE}", _nd2nz),
    (rf"set_l1_2d_{_TYPE}", _set_l1),
    (rf"mma_tile_{_TYPE}_to_{_TYPE}(_tb)?", _mma_tile),
    (rf"fixpipe_nz2nd_{_TYPE}_to_{_TYPE}_4d_to_2d", _fixpipe),
)
