"""attn_out[t, d] = bf16( (sum_g fp32(partial[g, t, d]) * scale[g, t]) * wo_b_scale[d] )

Groups are added in ascending order, whatever order their partials were made in; one rounding to
bf16. A token that attends to nothing gets exact zeros here, behind everything that a NaN in the
weights could make of it.

A chain may add some groups at a time: a launch then takes up the fp32 sums where the one before
left them, in memory, and the last one finishes. The order of additions is the same, and so are the
bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import triton
import triton.language as tl

from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.cost import Cost, moved, size
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.tiles import Budget, Core, Tiles, extent


@dataclass(frozen=True, kw_only=True)
class DequantSumTiles(Tiles):
    """block_t x block_d: 8 x 512 int32 is 16 KiB and moves 2 KiB at a time; with the fp32 copy,
    the accumulator and a doubled load it takes two thirds of the 192 KiB unified buffer."""

    core: ClassVar[Core] = "AIV"
    block_t: int = extent(8, beside=("block_d",))
    block_d: int = extent(512)

    @classmethod
    def cuda(cls) -> DequantSumTiles:
        """2 x 512 int32 is 4 KiB a group, 8 registers a thread; FLASH's 512 tasks are 4 a
        multiprocessor, and the groups' loads do not wait for each other."""
        return cls(block_t=2)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """Eight tiles of 4 bytes - doubled load, its fp32, accumulator, doubled half-size output,
        two for the choice of dead tokens - the doubled weight scales, and 512 B for what there is
        one of per token. Sums that others take up need five, the zeros that they begin with
        included, and neither choice nor output."""
        tile = self.block_t * self.block_d * 4
        if sizes.get("LAST", True):
            return Budget(ub=8 * tile + 2 * self.block_d * 4 + 512)
        return Budget(ub=(5 if sizes["FIRST"] else 4) * tile + 512)


@kernel
def _dequant_sum_kernel(
    partial_ptr,  # [G, N, D] int32
    scale_ptr,  # [G, N] fp32
    sums_ptr,  # [N, D] fp32: of the groups before, and then of these too; None for all groups
    live_slots_ptr,  # [N] int32; this and the next two are None where other groups are to come
    wo_b_scale_ptr,  # [D] fp32
    attn_out_ptr,  # [N, D] bf16 or fp32
    N,
    first_group,
    group_count,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    # One task: a (BLOCK_T, BLOCK_D) tile of the output, over the groups.
    D_TILES: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    t = tl.arange(0, BLOCK_T)
    for task in range(tl.program_id(0), tl.cdiv(N, BLOCK_T) * D_TILES, tl.num_programs(0)):
        t0 = (task // D_TILES * BLOCK_T).to(tl.int64)
        d = task % D_TILES * BLOCK_D + tl.arange(0, BLOCK_D)
        in_tokens = t0 + t < N
        mask = in_tokens[:, None] & (d < D)[None, :]

        if FIRST:
            acc = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
        else:
            sums_tile_ptr = sums_ptr + t0 * D + t[:, None] * D
            acc = tl.load(sums_tile_ptr + d[None, :], mask=mask, other=0.0)
        for g in range(first_group, first_group + group_count):
            row = t0 + tl.cast(g, tl.int64) * N
            tile_ptr = partial_ptr + row * D + t[:, None] * D
            partial = tl.load(tile_ptr + d[None, :], mask=mask, other=0)
            scale = tl.load(scale_ptr + row + t, mask=in_tokens, other=0.0)
            acc += partial.to(tl.float32) * scale[:, None]

        if not LAST:
            sums_tile_ptr = sums_ptr + t0 * D + t[:, None] * D
            tl.store(sums_tile_ptr + d[None, :], acc, mask=mask)
        else:
            wo_b_scale = tl.load(wo_b_scale_ptr + d, mask=d < D, other=0.0)
            alive = tl.load(live_slots_ptr + t0 + t, mask=in_tokens, other=0) > 0
            out = tl.where(alive[:, None], acc * wo_b_scale[None, :], 0.0)
            tile_ptr = attn_out_ptr + t0 * D + t[:, None] * D
            tl.store(tile_ptr + d[None, :], out.to(attn_out_ptr.dtype.element_ty), mask=mask)


_ADDED = ("partial", "scale")
_FINISHED = ("live_slots", "wo_b_scale", "attn_out")


def _check(contract: Contract) -> None:
    contract.require(contract["G"] >= 1, "partial", "[G, N, D] with G >= 1", "G = 0")


def _launch(contract: Contract, target: Target, tiles: DequantSumTiles) -> Launch:
    N, D = contract["N"], contract["D"]
    groups = contract.groups or range(contract["G"])  # a segment of all groups binds none
    first, last = groups.start == 0, groups.stop == contract["G"]
    return Launch(
        _dequant_sum_kernel,
        target.grid("vector", triton.cdiv(N, tiles.block_t) * triton.cdiv(D, tiles.block_d)),
        (
            *_ADDED, None if first and last else "sums", *(_FINISHED if last else (None,) * 3),
            N, groups.start, len(groups),
        ),
        dict(
            D=D, FIRST=first, LAST=last, BLOCK_T=tiles.block_t, BLOCK_D=tiles.block_d,
            **tiles.options(target),
        ),
    )  # fmt: skip


def _in_and_out(tensors: Mapping[str, torch.Tensor], live_keys: int | None = None) -> Cost:
    """Every tensor once, and the sums twice."""
    return Cost(moved(tensors).bytes + size(tensors["sums"]))


SEGMENT = Segment(
    "dequant_sum", DequantSumTiles, reads=(*_ADDED, *_FINISHED[:2]), writes=_FINISHED[2:],
    check=_check, launch=_launch,
)  # fmt: skip

# The same for some of the groups: the first of them, those that are neither, the last.
_FIRST, _BETWEEN, _LAST = (
    dataclasses.replace(SEGMENT, by_groups=True, reads=_ADDED + reads, **rest)
    for reads, rest in (
        ((), dict(writes=("sums",))),
        ((), dict(updates=("sums",), writes=(), cost=_in_and_out)),
        (("sums", *_FINISHED[:2]), {}),
    )
)


def of_groups(segment: Segment, groups: range, G: int) -> Segment:
    """`segment` (dequant_sum) for `groups` of G: launches of ascending ranges, one behind the
    other, hand on `sums` and write attn_out at last."""
    if len(groups) == G:
        return segment
    part = _FIRST if groups.start == 0 else _LAST if groups.stop == G else _BETWEEN
    return part.with_tiles(segment.chosen)


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
