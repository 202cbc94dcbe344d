"""attn_out[t, d] = bf16( (sum_g fp32(partial[g, t, d]) * scale[g, t]) * wo_b_scale[d] )

Groups are added in ascending order, whatever order their partials were made in; one rounding to
bf16. A token that attends to nothing gets exact zeros here, behind everything that a NaN in the
weights could make of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import triton
import triton.language as tl

from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.tiles import Budget, Core, Tiles, extent


@dataclass(frozen=True, kw_only=True)
class DequantSumTiles(Tiles):
    """block_t x block_d: 8 x 512 int32 is 16 KiB and moves 2 KiB at a time; with the fp32 copy,
    the accumulator and a doubled load it takes two thirds of the 192 KiB unified buffer."""

    block_t: int = extent(8, beside=("block_d",))
    core: ClassVar[Core] = "AIV"
    block_d: int = extent(512)

    @classmethod
    def cuda(cls) -> DequantSumTiles:
        """2 x 512 int32 is 4 KiB a group, 8 registers a thread; FLASH's 512 tasks are 4 a
        multiprocessor, and the groups' loads do not wait for each other."""
        return cls(block_t=2)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """Eight tiles of 4 bytes - doubled load, its fp32, accumulator, doubled half-size output,
        two for the choice of dead tokens - the doubled weight scales, and 512 B for what there is
        one of per token."""
        return Budget(ub=8 * self.block_t * self.block_d * 4 + 2 * self.block_d * 4 + 512)


@triton.jit(do_not_specialize=["N"])
def _dequant_sum_kernel(
    partial_ptr,  # [G, N, D] int32
    scale_ptr,  # [G, N] fp32
    live_slots_ptr,  # [N] int32
    wo_b_scale_ptr,  # [D] fp32
    attn_out_ptr,  # [N, D] bf16 or fp32
    N,
    G: tl.constexpr,
    D: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    # One task: a (BLOCK_T, BLOCK_D) tile of the output, over all groups.
    D_TILES: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    t = tl.arange(0, BLOCK_T)
    for task in range(tl.program_id(0), tl.cdiv(N, BLOCK_T) * D_TILES, tl.num_programs(0)):
        t0 = (task // D_TILES * BLOCK_T).to(tl.int64)
        d = task % D_TILES * BLOCK_D + tl.arange(0, BLOCK_D)
        in_tokens = t0 + t < N
        mask = in_tokens[:, None] & (d < D)[None, :]

        acc = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
        for g in range(G):
            row = t0 + tl.cast(g, tl.int64) * N
            tile_ptr = partial_ptr + row * D + t[:, None] * D
            partial = tl.load(tile_ptr + d[None, :], mask=mask, other=0)
            scale = tl.load(scale_ptr + row + t, mask=in_tokens, other=0.0)
            acc += partial.to(tl.float32) * scale[:, None]

        wo_b_scale = tl.load(wo_b_scale_ptr + d, mask=d < D, other=0.0)
        alive = tl.load(live_slots_ptr + t0 + t, mask=in_tokens, other=0) > 0
        out = tl.where(alive[:, None], acc * wo_b_scale[None, :], 0.0)
        tile_ptr = attn_out_ptr + t0 * D + t[:, None] * D
        tl.store(tile_ptr + d[None, :], out.to(attn_out_ptr.dtype.element_ty), mask=mask)


def _check(contract: Contract) -> None:
    contract.require(contract["G"] >= 1, "partial", "[G, N, D] with G >= 1", "G = 0")


def _launch(contract: Contract, target: Target, tiles: DequantSumTiles) -> Launch:
    N, G, D = (contract[letter] for letter in ("N", "G", "D"))
    return Launch(
        _dequant_sum_kernel,
        target.grid("vector", triton.cdiv(N, tiles.block_t) * triton.cdiv(D, tiles.block_d)),
        ("partial", "scale", "live_slots", "wo_b_scale", "attn_out", N),
        dict(
            G=G, D=D, BLOCK_T=tiles.block_t, BLOCK_D=tiles.block_d, **tiles.options(target)
        ),
    )  # fmt: skip


SEGMENT = Segment(
    "dequant_sum", DequantSumTiles, reads=("partial", "scale", "live_slots", "wo_b_scale"),
    writes=("attn_out",), check=_check, launch=_launch,
)  # fmt: skip


def dequant_sum(
    partial: torch.Tensor,  # [G, N, D] int32
    scale: torch.Tensor,  # [G, N] fp32
    live_slots: torch.Tensor,  # [N] int32
    wo_b_scale: torch.Tensor,  # [D] fp32
    *,
    attn_out: torch.Tensor | None = None,
    tiles: DequantSumTiles | None = None,
) -> torch.Tensor:
    """Sum the groups' partials under their scales (spec segment 9).

    Args:
        scale: activation scale per group and token, as group_quant writes it.
        live_slots: a token with none gets exact zeros, whatever its scale and wo_b_scale hold.
        wo_b_scale: weight scale per output channel.

    Returns attn_out [N, D] bf16, or as given: fp32 is not rounded. Raises ContractError.
    """
    return SEGMENT(
        tiles, partial=partial, scale=scale, live_slots=live_slots, wo_b_scale=wo_b_scale,
        attn_out=attn_out,
    )  # fmt: skip
