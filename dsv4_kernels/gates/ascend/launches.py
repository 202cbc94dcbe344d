"""The launches of one chunk, compiled for an Ascend part."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dsv4_kernels.device import Target
from dsv4_kernels.dims import Dims
from dsv4_kernels.gates.ascend import compiler
from dsv4_kernels.gates.ascend.compiler import AscendKernel
from dsv4_kernels.gates.chunk import Compiled, record_chunk

# Cube cores of the A2 and A3 parts; each has two vector cores. The compiler's own figures, which
# the gate compares. The 950 parts are not here: their compiler (bishengir-compile-a5) does write a
# final IR, but with the scalar code in the LLVM dialect and the vector code outlined into functions
# of its own, which memory.py and counts.py cannot read.
PARTS = {
    **dict.fromkeys(("Ascend910B1", "Ascend910B2", "Ascend910B2C"), 24),
    **dict.fromkeys(("Ascend910B3", "Ascend910B4"), 20),
    **dict.fromkeys(("Ascend910_9362", "Ascend910_9372"), 20),
    **dict.fromkeys(("Ascend910_9381", "Ascend910_9382", "Ascend910_9391", "Ascend910_9392"), 24),
}


def part_target(part: str) -> Target:
    """What a launch would know of a device with this part."""
    return Target("npu", part, PARTS[part], 2 * PARTS[part])


def compile_chunk(
    part: str,
    dims: Dims,
    *,
    tokens: int = 128,
    columns: int | None = None,
    sharers: int = 1,
    tiles: Mapping[str, Any] | None = None,
    segments: Collection[str] | None = None,
) -> list[Compiled[AscendKernel]]:
    """`record_chunk` for an Ascend part."""
    return record_chunk(
        part_target(part), compiler.driver(part), dims, tokens=tokens, columns=columns,
        sharers=sharers, tiles=tiles, segments=segments,
    )  # fmt: skip
