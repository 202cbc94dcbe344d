"""INT8 activations, one scale per (token, group): no barrier between groups.

    amax[g, t] = max(1e-4, max_r |o_r[t, g, r]|),  q = 127 / amax
    codes[t, g, r] = RNE(o_r[t, g, r] * q),  scale[g, t] = 1 / q

Two passes over a row, because a whole row's cast to int8 does not fit the unified buffer; the
second pass reads L2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import triton
import triton.language as tl

from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.tiles import KIB, Budget, Core, Tiles, extent

AMAX_FLOOR = 1e-4  # DeepSeek-V4's act_quant: keeps 127 / amax finite for a row of zeros
INT8_MAX = 127.0
# 1.5 * 2**23: adding and taking away rounds |x| < 2**22 to an integer, ties to even, in two vector
# adds; the cast to int8 truncates, and `rint` becomes a scalar loop on Ascend.
ROUND_MAGIC = 12582912.0


@dataclass(frozen=True, kw_only=True)
class GroupQuantTiles(Tiles):
    """block_t x block_r: 8 x 256 fp32 is 8 KiB and moves 1 KiB at a time; the int8 cast reserves
    large aligned buffers, with which 8 x 512 overflows the unified buffer."""

    block_t: int = extent(8, beside=("block_r",))
    core: ClassVar[Core] = "AIV"
    block_r: int = extent(256)

    @classmethod
    def cuda(cls) -> GroupQuantTiles:
        """Whole rows of FLASH and PRO, R = 1024, so that the second pass finds in L1 what the first
        read. 2 x 1024 fp32 is 8 KiB, 16 registers a thread; the 256 tasks of four groups are 2
        a multiprocessor."""
        return cls(block_t=2, block_r=1024)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """Six fp32 tiles, and 14 bytes an element for the cast to int8: it pads rows to 32 and goes
        by way of fp16 and int32."""
        tile, padded = self.block_t * self.block_r, max(self.block_t, 32) * self.block_r
        return Budget(ub=6 * 4 * tile + 14 * padded + KIB)


@kernel
def _group_quant_kernel(
    o_r_ptr,  # [N, G, R] fp32
    codes_ptr,  # [N, G, R] int8
    scale_ptr,  # [G, N] fp32
    N,
    first_group,
    group_count,
    G: tl.constexpr,
    R: tl.constexpr,
    FLOOR: tl.constexpr,
    MAX_CODE: tl.constexpr,
    MAGIC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    # One task: BLOCK_T tokens of one group.
    t = tl.arange(0, BLOCK_T)
    r = tl.arange(0, BLOCK_R)
    for task in range(tl.program_id(0), tl.cdiv(N, BLOCK_T) * group_count, tl.num_programs(0)):
        g = first_group + task % group_count
        t0 = task // group_count * BLOCK_T
        in_tokens = t0 + t < N
        tile = (t0.to(tl.int64) * G + g) * R + t[:, None] * (G * R)

        amax = tl.full((BLOCK_T,), FLOOR, tl.float32)
        not_finite = tl.zeros((BLOCK_T,), tl.float32)  # 0, or NaN once a NaN or Inf was met
        for r0 in range(0, R, BLOCK_R):
            mask = in_tokens[:, None] & (r0 + r < R)[None, :]
            x = tl.load(o_r_ptr + tile + (r0 + r)[None, :], mask=mask, other=0.0)
            tile_amax = tl.max(tl.abs(x), axis=1)
            amax = tl.where(tile_amax > amax, tile_amax, amax)  # not_finite looks after NaN
            not_finite += tl.sum(x * 0.0, axis=1)
        # div_rn: a plain division on CUDA is off by up to two ulp, enough to move a code at a tie.
        q = tl.div_rn(MAX_CODE, amax + not_finite)
        tl.store(scale_ptr + g.to(tl.int64) * N + t0 + t, tl.div_rn(1.0, q), mask=in_tokens)

        for r0 in range(0, R, BLOCK_R):
            mask = in_tokens[:, None] & (r0 + r < R)[None, :]
            x = tl.load(o_r_ptr + tile + (r0 + r)[None, :], mask=mask, other=0.0)
            rounded = (x * q[:, None] + MAGIC) - MAGIC
            tl.store(codes_ptr + tile + (r0 + r)[None, :], rounded.to(tl.int8), mask=mask)


def _check(contract: Contract) -> None:
    contract.require(contract["R"] >= 1, "o_r", "[N, G, R] with R >= 1", "R = 0")


def _launch(contract: Contract, target: Target, tiles: GroupQuantTiles) -> Launch:
    N, groups = contract["N"], contract.groups
    return Launch(
        _group_quant_kernel,
        target.grid("vector", triton.cdiv(N, tiles.block_t) * len(groups)),
        ("o_r", "codes", "scale", N, groups.start, len(groups)),
        quant_constants(contract["G"], contract["R"], tiles) | tiles.options(target),
    )


def quant_constants(G: int, R: int, tiles: GroupQuantTiles) -> dict[str, Any]:
    """The kernel's compile-time arguments for rows of G groups that are R wide."""
    return dict(
        G=G, R=R, FLOOR=AMAX_FLOOR, MAX_CODE=INT8_MAX, MAGIC=ROUND_MAGIC,
        BLOCK_T=tiles.block_t, BLOCK_R=tiles.block_r,
    )  # fmt: skip


SEGMENT = Segment(
    "group_quant", GroupQuantTiles, reads=("o_r",), writes=("codes", "scale"), by_groups=True,
    check=_check, launch=_launch,
)  # fmt: skip


def group_quant(
    o_r: torch.Tensor,  # [N, G, R] fp32
    *,
    group_range: range | None = None,
    codes: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    tiles: GroupQuantTiles | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric INT8 quantisation per token and group (spec segment 7).

    Args:
        group_range: the groups to quantise, all if None; what other groups have in `codes` and
            `scale` stays.

    Returns (codes [N, G, R] int8 in [-127, 127], scale [G, N] fp32). Where a (token, group) holds a
    NaN or Inf its scale is NaN, so that INT8 does not hide it, and its codes are unspecified.
    Raises ContractError.
    """
    return SEGMENT(tiles, o_r=o_r, group_range=group_range, codes=codes, scale=scale)
