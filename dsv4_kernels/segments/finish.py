"""Turns the rope columns of attention in lanes back by each token's position.

    even' = even*cos + odd*sin
    odd'  = odd*cos - even*sin        (interleaved pairs)

The last lane: inverse_rope of heads that lie token by token. fp32 in, one rounding to bf16 out,
into the last P columns of each head of o_heads. A token with no live slot gets zeros in all of
them, whatever P.V made of KV that it shares.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import triton
import triton.language as tl

from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.cost import moved_of_heads
from dsv4_kernels.segments.inverse_rope import MIN_ROPE_DIM, pairs_of, turned_back
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.tiles import Budget, Core, Tiles, extent


@dataclass(frozen=True, kw_only=True)
class FinishTiles(Tiles):
    """block_h: heads per task; 16 share a load of cos and sin, and zeros of 16 x 512 bf16 are the
    16 KiB that a dead token costs."""

    core: ClassVar[Core] = "AIV"
    block_h: int = extent(16, beside=("C",))

    @classmethod
    def cuda(cls) -> FinishTiles:
        """A warp takes 8 heads: 8 x 64 fp32 is 16 registers a lane, and FLASH's 1024 tasks are
        8 warps a multiprocessor."""
        return cls(block_h=8, num_warps=1)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """12 fp32 tiles, as inverse_rope has 13, and the zeros."""
        return Budget(ub=self.block_h * (12 * sizes["P"] * 4 + sizes["C"] * 2))


@kernel
def _finish_kernel(
    o_rope_ptr,  # [N, H, P] fp32
    live_slots_ptr,  # [N] int32
    freqs_cos_ptr,  # [N, P] bf16 or fp32
    freqs_sin_ptr,  # [N, P] bf16 or fp32
    o_heads_ptr,  # [N, G, J] bf16
    N,
    H: tl.constexpr,
    C: tl.constexpr,
    P: tl.constexpr,
    BLOCK_H: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    HEAD_TILES: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    c = tl.arange(0, C)
    p = tl.arange(0, P)
    for task in range(tl.program_id(0), N * HEAD_TILES, tl.num_programs(0)):
        t = (task // HEAD_TILES).to(tl.int64)
        h = task % HEAD_TILES * BLOCK_H + tl.arange(0, BLOCK_H)
        in_heads = (h < H)[:, None]
        rows_ptr = o_heads_ptr + t * H * C + h[:, None] * C
        if tl.load(live_slots_ptr + t) > 0:
            x_ptr = o_rope_ptr + t * H * P + h[:, None] * P
            x = tl.load(x_ptr + p[None, :], mask=in_heads, other=0.0)
            even, odd = pairs_of(x, P, BLOCK_H)
            y = turned_back(even, odd, freqs_cos_ptr + t * P, freqs_sin_ptr + t * P, P, INTERLEAVED)
            tl.store(rows_ptr + (C - P + p)[None, :], y.to(tl.bfloat16), mask=in_heads)
        else:
            tl.store(rows_ptr + c[None, :], tl.zeros((BLOCK_H, C), tl.bfloat16), mask=in_heads)


def _check(contract: Contract) -> None:
    H, P, G, J = (contract[letter] for letter in ("H", "P", "G", "J"))
    contract.power_of_two("P", "o_rope", low=MIN_ROPE_DIM)
    for name in ("freqs_cos", "freqs_sin"):
        contract.require_packed(name, P)
    C = G * J // H if H and G * J % H == 0 else 0
    contract.require(
        contract["N"] * G * J == 0 or (G > 0 and H % G == 0 and C >= P and C & (C - 1) == 0),
        "o_heads",
        f"[N, G, (H/G)*C] for H={H} and a power of two C >= P={P}",
        f"G = {G}, J = {J}",
    )
    contract.sizes["C"] = C


def _launch(
    contract: Contract, target: Target, tiles: FinishTiles, interleaved: bool = False
) -> Launch:
    N, H, C, P = (contract[letter] for letter in ("N", "H", "C", "P"))
    return Launch(
        _finish_kernel,
        target.grid("vector", N * triton.cdiv(H, tiles.block_h)),
        ("o_rope", "live_slots", "freqs_cos", "freqs_sin", "o_heads", N),
        dict(
            H=H, C=C, P=P, BLOCK_H=tiles.block_h, INTERLEAVED=interleaved, **tiles.options(target)
        ),
    )


SEGMENT = Segment(
    "finish", FinishTiles, reads=("o_rope", "live_slots", "freqs_cos", "freqs_sin"),
    updates=("o_heads",), check=_check, launch=_launch, cost=moved_of_heads("rope", "o_heads"),
)  # fmt: skip

# Of tables that servers hold, as inverse_rope's.
INTERLEAVED = replace(SEGMENT, launch=functools.partial(_launch, interleaved=True))


def finish(
    o_rope: torch.Tensor,  # [N, H, P] fp32
    live_slots: torch.Tensor,  # [N] int32
    freqs_cos: torch.Tensor,  # [N, P] bf16
    freqs_sin: torch.Tensor,  # [N, P] bf16
    o_heads: torch.Tensor,  # [N, G, J] bf16
    *,
    tiles: FinishTiles | None = None,
) -> torch.Tensor:
    """De-rotate o_rope into the rope columns of o_heads, in place (spec segment 5).

    Args:
        o_rope, o_heads: as `pv` writes them; o_heads' other columns are not touched.
        live_slots: a token with none gets exact zeros in all columns, whatever they hold.
        freqs_cos, freqs_sin: the tokens' rows of the RoPE tables; the first P/2 columns are used.

    Returns o_heads. Raises ContractError.
    """
    return SEGMENT(
        tiles, o_rope=o_rope, live_slots=live_slots, freqs_cos=freqs_cos, freqs_sin=freqs_sin,
        o_heads=o_heads,
    )  # fmt: skip
