"""Turns the rope columns of the attention output back by each token's position.

    even' = even*cos + odd*sin
    odd'  = odd*cos - even*sin        (interleaved pairs)

fp32 in, one rounding to bf16 out, into the last P columns of each head of o_packed. Pairs are
taken apart by reshape and split: on Ascend that is a native de-interleave, where loads of stride
two are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import triton
import triton.language as tl

from dsv4_kernels import device
from dsv4_kernels.contract import Contract
from dsv4_kernels.segments.tiles import Budget, Core, Tiles


@dataclass(frozen=True, kw_only=True)
class InverseRopeTiles(Tiles):
    """block_h: heads per task, all of one group: the 8 of FLASH and PRO share one cos/sin load."""

    core: ClassVar[Core] = "AIV"
    block_h: int = 8

    @classmethod
    def cuda(cls) -> InverseRopeTiles:
        """A warp takes the 8 heads: 8 x 64 fp32 is 16 registers a lane, and FLASH's 1024 tasks are
        8 warps a multiprocessor."""
        return cls(num_warps=1)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """13 fp32 tiles: doubled load and output, the halves, their products and sums."""
        return Budget(ub=13 * self.block_h * sizes["P"] * 4)


@triton.jit(do_not_specialize=["N"])
def _inverse_rope_kernel(
    o_rope_ptr,  # [N, H, P] fp32
    live_slots_ptr,  # [N] int32
    freqs_cos_ptr,  # [N, P] bf16
    freqs_sin_ptr,  # [N, P] bf16
    o_packed_ptr,  # [G, N, J] bf16
    N,
    H: tl.constexpr,
    G: tl.constexpr,
    C: tl.constexpr,
    P: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    # One task: (token, group, BLOCK_H heads of the group).
    HG: tl.constexpr = H // G
    HEAD_TILES: tl.constexpr = (HG + BLOCK_H - 1) // BLOCK_H
    p = tl.arange(0, P)
    pair = tl.arange(0, P // 2)
    for task in range(tl.program_id(0), N * G * HEAD_TILES, tl.num_programs(0)):
        token_group = task // HEAD_TILES
        t = (token_group // G).to(tl.int64)
        g = token_group % G
        h_local = task % HEAD_TILES * BLOCK_H + tl.arange(0, BLOCK_H)
        in_group = (h_local < HG)[:, None]

        rows_ptr = o_rope_ptr + (t * H + g * HG) * P + h_local[:, None] * P
        x = tl.load(rows_ptr + p[None, :], mask=in_group, other=0.0)
        cos = tl.load(freqs_cos_ptr + t * P + pair).to(tl.float32)[None, :]
        sin = tl.load(freqs_sin_ptr + t * P + pair).to(tl.float32)[None, :]
        even, odd = tl.split(tl.reshape(x, (BLOCK_H, P // 2, 2)))
        y = tl.interleave(even * cos + odd * sin, odd * cos - even * sin)
        alive = tl.load(live_slots_ptr + t) > 0
        y = tl.where(alive, y, 0.0)

        packed_rows_ptr = o_packed_ptr + (g.to(tl.int64) * N + t) * HG * C + h_local[:, None] * C
        tl.store(packed_rows_ptr + (C - P + p)[None, :], y.to(tl.bfloat16), mask=in_group)


def inverse_rope(
    o_rope: torch.Tensor,  # [N, H, P] fp32
    live_slots: torch.Tensor,  # [N] int32
    freqs_cos: torch.Tensor,  # [N, P] bf16
    freqs_sin: torch.Tensor,  # [N, P] bf16
    o_packed: torch.Tensor,  # [G, N, J] bf16
    *,
    tiles: InverseRopeTiles | None = None,
) -> torch.Tensor:
    """De-rotate o_rope into the rope columns of o_packed, in place (spec segment 5).

    Args:
        o_rope, o_packed: as merge_norm writes them; o_packed's other columns are not touched.
        live_slots: a token with none gets exact zeros, whatever its cos and sin hold.
        freqs_cos, freqs_sin: the tokens' rows of the RoPE tables; the first P/2 columns are used.

    Returns o_packed. Raises ContractError.
    """
    contract = Contract("inverse_rope")
    contract.tensor("o_rope", o_rope, "N H P", torch.float32)
    contract.tensor("live_slots", live_slots, "N", torch.int32)
    contract.tensor("freqs_cos", freqs_cos, "N P", torch.bfloat16)
    contract.tensor("freqs_sin", freqs_sin, "N P", torch.bfloat16)
    contract.tensor("o_packed", o_packed, "G N J", torch.bfloat16)
    N, H, P, G, J = (contract[letter] for letter in ("N", "H", "P", "G", "J"))
    contract.power_of_two("P", "o_rope", low=2)
    if o_packed.numel() == 0:
        return o_packed
    whole = H % G == 0 and H > 0 and J % (H // G) == 0 and J // (H // G) >= P
    contract.require(
        whole, "o_packed", f"[G, N, (H/G)*C] for H={H} and C >= P={P}", f"G = {G}, J = {J}"
    )
    with device.on(o_packed) as target:
        tiles = tiles or InverseRopeTiles.on(target)
        grid = target.grid("vector", N * G * triton.cdiv(H // G, tiles.block_h))
        _inverse_rope_kernel[grid](
            o_rope, live_slots, freqs_cos, freqs_sin, o_packed, N,
            H=H, G=G, C=J // (H // G), P=P, BLOCK_H=tiles.block_h,
            **tiles.options(target),
        )  # fmt: skip
    return o_packed
