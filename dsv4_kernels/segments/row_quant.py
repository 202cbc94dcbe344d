"""INT8 activations, one scale per token over all of its groups: the barrier of row_barrier.

    amax[t] = max(1e-4, max_{g,r} |o_r[t, g, r]|),  q = 127 / amax
    codes[t, g, r] = RNE(o_r[t, g, r] * q),  row_scale[t] = 1 / q

It is group_quant of one group that is G*R wide, and its kernel. No token is done before the last
group's proj_a is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.group_quant import (
    GroupQuantTiles,
    _group_quant_kernel,
    quant_constants,
)
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.tiles import extent


@dataclass(frozen=True, kw_only=True)
class RowQuantTiles(GroupQuantTiles):
    """block_t: with one group there are N / block_t tasks for 40 or 48 vector cores: 4 tokens
    a task (32 tasks of a 128-token wave) keep twice as many busy as group_quant's 8."""

    block_t: int = extent(4, beside=("block_r",))

    @classmethod
    def cuda(cls) -> RowQuantTiles:
        """A token a task gives 128 of 132 multiprocessors one each, so each wants much under way:
        8192 fp32 are 32 KiB, FLASH's whole row, 16 registers a thread over 16 warps."""
        return cls(block_t=1, block_r=8192, num_warps=16)


def _check(contract: Contract) -> None:
    width = contract["G"] * contract["R"]
    contract.require(width >= 1, "o_r", "[N, G, R] with G*R >= 1", "G*R = 0")


def _launch(contract: Contract, target: Target, tiles: RowQuantTiles) -> Launch:
    N = contract["N"]
    return Launch(
        _group_quant_kernel,
        target.grid("vector", triton.cdiv(N, tiles.block_t)),
        ("o_r", "codes", "row_scale", N, 0, 1),
        quant_constants(1, contract["G"] * contract["R"], tiles) | tiles.options(target),
    )


SEGMENT = Segment(
    "row_quant", RowQuantTiles, reads=("o_r",), writes=("codes", "row_scale"),
    check=_check, launch=_launch,
)  # fmt: skip


def row_quant(
    o_r: torch.Tensor,  # [N, G, R] fp32
    *,
    codes: torch.Tensor | None = None,
    row_scale: torch.Tensor | None = None,
    tiles: RowQuantTiles | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric INT8 quantisation per token (spec section 6, row_barrier).

    Returns (codes [N, G, R] int8 in [-127, 127], row_scale [N] fp32). A token that holds a NaN or
    Inf has a NaN scale, and its codes are unspecified. Raises ContractError.
    """
    return SEGMENT(tiles, o_r=o_r, codes=codes, row_scale=row_scale)
