"""attn_out[t, d] = bf16( fp32( sum_k codes[t, k] * wo_b[d, k] ) * row_scale[t] * wo_b_scale[d] )

row_barrier's second projection: with one scale per token the INT32 sum can run over all k = G*R at
once and is dequantised where it ends. That makes the kernel MIX: every accumulator crosses from
the cube to the vector cores through global memory. A token that attends to nothing gets exact
zeros, as in dequant_sum.
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
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.proj_b import MAX_RANK, int8_cost, int8_dot
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.tiles import FRACTAL, KIB, Budget, Core, Tiles, extent


@dataclass(frozen=True, kw_only=True)
class ProjBDequantTiles(Tiles):
    """block_t x block_d: without groups there are D / block_d tasks a wave; 64 columns deal FLASH's
    4096 to 24 cube cores in three rounds (192 columns a core), where 128 take two (256).
    b_k_tile: 512 int8 are 512 B, one L2 line, as in proj_b."""

    core: ClassVar[Core] = "MIX"
    block_t: int = extent(128, low=FRACTAL, beside=("block_d", "b_k_tile"))
    block_d: int = extent(64, low=FRACTAL, beside=("b_k_tile",))
    b_k_tile: int = extent(512, low=2 * FRACTAL)

    @classmethod
    def cuda(cls) -> ProjBDequantTiles:
        """Tiles of 64 x 64 make 128 tasks of FLASH for 132 multiprocessors, and have L2 serve less
        than 128 x 32 would. Both token tiles read the same weights at a time, the second from L2.

        A stage is (64 + 64) x 256 int8 = 32 KiB; four are 128 of 227 KiB, three under way. 4 warps:
        64 x 64 int32 is 32 accumulator registers a thread."""
        return cls(block_t=64, b_k_tile=256, num_stages=4)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """The cube's part as proj_b's; each vector core of the pair dequantises half the tile in
        place, and takes 7 bytes an element more to choose dead tokens, next to the scales."""
        tile = self.block_t // 2 * self.block_d
        return Budget(
            ub=11 * tile + 2 * KIB,
            l1=2 * (self.block_t + self.block_d) * self.b_k_tile,
            l0c=4 * self.block_t * self.block_d,
        )


@kernel
def _proj_b_dequant_kernel(
    codes_ptr,  # [N, K] int8
    wo_b_ptr,  # [D, K] int8
    row_scale_ptr,  # [N] fp32
    live_slots_ptr,  # [N] int32
    wo_b_scale_ptr,  # [D] fp32
    attn_out_ptr,  # [N, D] bf16 or fp32
    N,
    K: tl.constexpr,
    D: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    B_K_TILE: tl.constexpr,
):
    # One task: a (BLOCK_T, BLOCK_D) tile; token tiles vary fastest and share weights.
    D_TILES: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    token_tiles = tl.cdiv(N, BLOCK_T)
    t = tl.arange(0, BLOCK_T)
    d = tl.arange(0, BLOCK_D)
    for task in range(tl.program_id(0), D_TILES * token_tiles, tl.num_programs(0)):
        t0 = (task % token_tiles * BLOCK_T).to(tl.int64)
        d0 = (task // token_tiles * BLOCK_D).to(tl.int64)
        in_tokens = t0 + t < N
        in_hidden = d0 + d < D
        a_ptr = codes_ptr + t0 * K + t[:, None] * K
        w_ptr = wo_b_ptr + d0 * K + d[:, None] * K

        acc = int8_dot(
            a_ptr, w_ptr, in_tokens[:, None], in_hidden[:, None], K, BLOCK_T, BLOCK_D, B_K_TILE
        )

        row_scale = tl.load(row_scale_ptr + t0 + t, mask=in_tokens, other=0.0)
        wo_b_scale = tl.load(wo_b_scale_ptr + d0 + d, mask=in_hidden, other=0.0)
        alive = tl.load(live_slots_ptr + t0 + t, mask=in_tokens, other=0) > 0
        out = acc.to(tl.float32) * row_scale[:, None] * wo_b_scale[None, :]
        out = tl.where(alive[:, None], out, 0.0)
        tile_ptr = attn_out_ptr + t0 * D + d0 + t[:, None] * D
        in_tile = in_tokens[:, None] & in_hidden[None, :]
        tl.store(tile_ptr + d[None, :], out.to(attn_out_ptr.dtype.element_ty), mask=in_tile)


def _check(contract: Contract) -> None:
    K = contract["G"] * contract["R"]
    contract.require(
        1 <= K <= MAX_RANK, "codes", f"[N, G, R] with G*R in 1..{MAX_RANK}", f"G*R = {K}"
    )


def _launch(contract: Contract, target: Target, tiles: ProjBDequantTiles) -> Launch:
    N, D, K = contract["N"], contract["D"], contract["G"] * contract["R"]
    return Launch(
        _proj_b_dequant_kernel,
        target.grid("cube", triton.cdiv(D, tiles.block_d) * triton.cdiv(N, tiles.block_t)),
        ("codes", "wo_b", "row_scale", "live_slots", "wo_b_scale", "attn_out", N),
        dict(
            K=K, D=D, BLOCK_T=tiles.block_t, BLOCK_D=tiles.block_d, B_K_TILE=tiles.b_k_tile,
            **tiles.options(target),
        ),
    )  # fmt: skip


SEGMENT = Segment(
    "proj_b_dequant", ProjBDequantTiles,
    reads=("codes", "wo_b", "row_scale", "live_slots", "wo_b_scale"),
    writes=("attn_out",), check=_check, launch=_launch, cost=int8_cost,
)  # fmt: skip


def proj_b_dequant(
    codes: torch.Tensor,  # [N, G, R] int8
    wo_b: torch.Tensor,  # [D, G*R] int8
    row_scale: torch.Tensor,  # [N] fp32
    live_slots: torch.Tensor,  # [N] int32
    wo_b_scale: torch.Tensor,  # [D] fp32
    *,
    attn_out: torch.Tensor | None = None,
    tiles: ProjBDequantTiles | None = None,
) -> torch.Tensor:
    """Second half of the output projection with the dequantisation behind it (spec section 6).

    Args:
        codes: in [-127, 127], as row_quant writes them.
        wo_b: any int8, -128 included.
        row_scale: activation scale per token, as row_quant writes it.
        live_slots: a token with none gets exact zeros, whatever the scales hold.
        wo_b_scale: weight scale per output channel.

    Returns attn_out [N, D] bf16, or as given: fp32 is not rounded. Raises ContractError.
    """
    return SEGMENT(
        tiles, codes=codes, wo_b=wo_b, row_scale=row_scale, live_slots=live_slots,
        wo_b_scale=wo_b_scale, attn_out=attn_out,
    )  # fmt: skip
