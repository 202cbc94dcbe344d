"""What a launch moves and computes, counted by walking its final HIVM IR.

What counts depend on in the scalar part of the IR (slicing.py) is run for every program of the
grid; each call of a library function is counted with the sizes that its operands really have. Data
are not computed: a value loaded from memory is what `loaded` says, one for a whole argument or one
for each of its elements. An operation or a function that is not known is an error, never a zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from dsv4_kernels.backends.hivm.memory import (
    ELEMENT_BITS,
    OutOfBounds,
    Space,
    View,
    dense,
    is_global,
)
from dsv4_kernels.backends.hivm.scalar import Function, functions
from dsv4_kernels.backends.hivm.vector import is_aligned
from dsv4_kernels.gates.ascend import library
from dsv4_kernels.gates.ascend.slicing import SCALAR_LOAD, Operand, sliced

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

    def add_call(self, name: str, operands: Sequence[Any], times: int) -> None:
        """Count calls of a library function; operands: as `sliced` tallies them."""
        self.calls[name] = self.calls.get(name, 0) + times
        path = library.path(name)
        if path is not None:
            source, target = (Operand(*operand) for operand in operands)
            # A fixpipe may narrow an accumulator on its way out: what global memory sees counts.
            bits = ELEMENT_BITS[target.type if is_global(target.space) else source.type]
            size = min(source.elements, target.elements) * bits // 8 * times
            setattr(self, path, getattr(self, path) + size)
            self.workspace += size * (_WORKSPACE in (source.space, target.space))
            self.dma += times
        elif library.is_matmul(name):
            self.macs += math.prod(operands) * times
        elif library.is_vector(name):
            self.vector += times
            self.unaligned_casts += times * (library.is_cast_of_bf16(name) and not all(operands))


_NOTHING = np.zeros(0, np.uint8)  # what a memory holds here
_WORKSPACE = "gm:workspace"
_HIDDEN = ("", "gm:lock", _WORKSPACE)  # the first has the address of the block flags


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
    own = ("" if value is not None else f"gm:{name}" for name, value in arguments.items())
    spaces = (*_HIDDEN, *own, "", "", "")
    values = (None, None, None, *arguments.values(), grid, 1, 1)
    given = [
        dense(Space(space, _NOTHING), 0, (0,), "i8") if space else value
        for space, value in zip(spaces, values, strict=True)
    ]
    of_space = {f"gm:{name}": value for name, value in loaded.items()}
    arrays = frozenset(space for space, value in of_space.items() if not isinstance(value, int))
    counts = Counts()
    for function in functions(hivm):
        _require_known(function)
        run = sliced(function, spaces, arrays)
        tally: Counter[tuple[Any, ...]] = Counter()
        for program in range(grid):
            for sub in range(2 if function.paired else 1):
                core = _Core(program, sub)
                run(core, tally, of_space, _element, is_aligned, *given)
        for (name, *operands), times in tally.items():
            if name == SCALAR_LOAD:
                counts.scalar_loads += times * is_global(operands[0])
            else:
                counts.add_call(name, operands, times)
        counts.scalar_loops += function.element_loops
    return counts


def _require_known(function: Function) -> None:
    for name in sorted(function.calls):
        if not library.is_known(name):
            raise ValueError(f"unknown library function `{name}` in {function.name}")


class _Core(NamedTuple):
    """What a slice asks of the core that it is on."""

    program: int
    sub: int

    def at(self, space: str, offset: int, shape: tuple[int, ...], type: str) -> View:
        return dense(Space(space, _NOTHING), offset, shape, type)


def _element(view: View, index: tuple[int, ...], values: np.ndarray[Any, Any]) -> int:
    """What a scalar load of an array's view gives."""
    element = view.start(index) // view.bits
    if not 0 <= element < values.size:
        name = view.space.name.removeprefix("gm:")
        raise OutOfBounds(f"element {element} of the {values.size} of {name}")
    return values.item(element)
