"""What a launch moves and computes, counted by walking its final HIVM IR.

The scalar part of the IR is run for every program of the grid (`backends/hivm/scalar.py`); each
call of a library function is counted with the sizes that its operands really have. Data are not
computed: a value loaded from memory is what `loaded` says, one for a whole argument or one for each
of its elements. An operation or a function that is not known is an error, never a zero.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dsv4_kernels.backends.hivm.memory import OutOfBounds, Space, View, dense
from dsv4_kernels.backends.hivm.scalar import Function, functions
from dsv4_kernels.backends.hivm.vector import is_aligned

# What a scalar load of an argument gives, by the argument's name: always this number, or the
# array's element; 0 where an argument is not named.
Loaded = Mapping[str, "int | np.ndarray[Any, Any]"]

# Every slot is live and names the overlay's first row. A wave whose tokens share KV is 128 tokens
# of one request in tiles of 8.
LOADED: dict[str, int] = {
    "live_blocks_ptr": 2**31 - 1,  # all of them
    "rows_ptr": 130,  # of the overlay, after a ring of one page of 128 rows
    "live_slots_ptr": 1,
    "tile_count_ptr": 16,
    "tile_tokens_ptr": 8,
}


@dataclass
class Counts:
    """Totals over all programs of a launch. Bytes by path; `workspace` is the part of them that
    goes through the compiler's own scratch in global memory (the round trip of a MIX kernel)."""

    gm_to_l1: int = 0
    gm_to_ub: int = 0
    ub_to_gm: int = 0
    l0c_to_gm: int = 0
    workspace: int = 0
    dma: int = 0  # instructions between memories
    macs: int = 0
    vector: int = 0  # vector instructions, as library calls
    scalar_loads: int = 0  # single elements of global memory
    scalar_loops: int = 0  # loops in the code that touch a tile element by element
    unaligned_casts: int = 0  # casts from or to bf16 of buffers that are not on 32 bytes
    calls: dict[str, int] = field(default_factory=dict)

    @property
    def moved(self) -> int:
        """Bytes on all paths."""
        return self.gm_to_l1 + self.gm_to_ub + self.ub_to_gm + self.l0c_to_gm

    def __add__(self, other: Counts) -> Counts:
        """Both together."""
        mine, others = vars(self), vars(other)
        numbers = {name: mine[name] + others[name] for name in mine if name != "calls"}
        return Counts(**numbers, calls=dict(Counter(self.calls) + Counter(other.calls)))

    def add_call(self, name: str, operands: Sequence[Any]) -> None:
        """Count one call of a library function."""
        self.calls[name] = self.calls.get(name, 0) + 1
        path = _path(name)
        if path is not None:
            source, target = operands[:2]
            # A fixpipe may narrow an accumulator on its way out: what global memory sees counts.
            bits = target.bits if target.space.is_global else source.bits
            size = min(source.elements, target.elements) * bits // 8
            setattr(self, path, getattr(self, path) + size)
            self.workspace += size * (_WORKSPACE in (source.space, target.space))
            self.dma += 1
        elif name.startswith("mma_tile_"):
            self.macs += math.prod(operands[3:6])  # M, K, N after both operands and the init flag
        elif not name.startswith("set_l1_"):  # fills L1 with zeros: neither moves nor computes
            self.vector += 1
            if name.startswith("vcast_") and "bfloat16_t" in name:
                self.unaligned_casts += not all(is_aligned(view) for view in operands[:2])


# Library functions by the beginning of their names. nd2nz loads into L1 in the cube's fractal
# layout, fixpipe stores an accumulator.
_PATHS = {
    "nd2nz_": "gm_to_l1",
    "load_gm_to_ubuf_": "gm_to_ub",
    "store_ubuf_to_gm_": "ub_to_gm",
    "fixpipe_": "l0c_to_gm",
}


@functools.cache
def _path(name: str) -> str | None:
    """Of a library function that moves data between memories."""
    return next((path for prefix, path in _PATHS.items() if name.startswith(prefix)), None)


_VECTOR = re.compile(
    r"(v[a-z]+_|enablevc_reduce_|reduce_|broadcast_|arange_|copy_ubuf_to_ubuf_|gather_|(de)?interleave_)"
)
_KNOWN = (*_PATHS, "mma_tile_", "set_l1_")

_NOTHING = np.zeros(0, np.uint8)  # what a memory holds here
_WORKSPACE = Space("gm:workspace", _NOTHING)


def count(
    hivm: str,
    grid: int,
    arguments: Mapping[str, int | float | None],
    loaded: Loaded = LOADED,
) -> Counts:
    """Walk every program of a launch.

    Args:
        hivm: final IR of the kernel; both functions of a MIX kernel are walked, the vector one
            for both cores of a pair.
        grid: programs.
        arguments: the kernel's runtime arguments in the compiled order; None for a pointer.
        loaded: as `Loaded` says; an array has the argument's elements as they lie in memory.

    Raises ValueError for what is not known, OutOfBounds for a scalar load of an element that an
    array of `loaded` does not have.
    """
    counts = Counts()
    lock = dense(Space("gm:lock", _NOTHING), 0, (0,), "i8")
    hidden = [None, lock, dense(_WORKSPACE, 0, (0,), "i8")]  # None: address of the block flags
    own = [
        dense(Space(f"gm:{name}", _NOTHING), 0, (0,), "i8") if value is None else value
        for name, value in arguments.items()
    ]
    for function in functions(hivm):
        _require_known(function)
        for program in range(grid):
            for sub in range(2 if function.paired else 1):
                core = _CountingCore(counts, loaded, program, sub)
                for _ in function.run(core, *hidden, *own, grid, 1, 1):
                    pass  # nothing else moves
        counts.scalar_loops += function.element_loops
    return counts


def _require_known(function: Function) -> None:
    for name in sorted(function.calls):
        if not (_VECTOR.match(name) or name.startswith(_KNOWN)):
            raise ValueError(f"unknown library function `{name}` in {function.name}")


@functools.lru_cache(maxsize=4096)
def _buffer(space: str, offset: int, shape: tuple[int, ...], type: str) -> View:
    """A planned buffer: a loop asks for the same few again and again."""
    return dense(Space(space, _NOTHING), offset, shape, type)


class _CountingCore:
    """What the scalar code drives where nothing is computed: a flag never holds anything up."""

    def __init__(self, counts: Counts, loaded: Loaded, program: int, sub: int) -> None:
        self._counts, self._loaded = counts, loaded
        self.program, self.sub = program, sub

    def at(self, space: str, offset: int, shape: tuple[int, ...], type: str) -> View:
        return _buffer(space, offset, shape, type)

    def call(self, name: str, operands: tuple[Any, ...], line: int) -> Iterable[Any]:
        self._counts.add_call(name, operands)
        return ()

    def _synchronise(self, *flag: Any) -> Iterable[Any]:
        return ()

    set_flag = wait_flag = barrier = block_set = block_wait = _synchronise

    def load(self, view: View, index: tuple[int, ...], line: int) -> int:
        self._counts.scalar_loads += view.space.is_global
        name = view.space.name.removeprefix("gm:")
        values = self._loaded.get(name, 0)
        if isinstance(values, int):
            return values
        element = view.element(index).offset // view.bits
        if not 0 <= element < values.size:
            raise OutOfBounds(f"element {element} of the {values.size} of {name}")
        return values.item(element)

    def store(self, value: float, view: View, index: tuple[int, ...], line: int) -> None:
        pass
