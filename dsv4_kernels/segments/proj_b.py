"""partial[g, t, d] = sum_r codes[t, g, r] * wo_b[d, g*R + r]     int8 x int8 -> int32, exact

A pure cube kernel. Groups are not summed here: each has its own activation scale, so a sum would
put vector work behind every accumulator; dequant_sum does it once, over all groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import triton
import triton.language as tl

from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.cost import Cost, moved
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.tasks import FEW_TOKENS, matmul_task, matmul_tasks, tile_of_few
from dsv4_kernels.segments.tiles import FRACTAL, Budget, Core, Tiles, extent

# |partial| <= 127 * 128 * R must stay below 2**31: activation codes are in [-127, 127], and weights
# of other converters go down to -128. (Up to R = 1032 it stays below 2**24, and its fp32 value in
# dequant_sum is exact as well.)
MAX_RANK = (2**31 - 1) // (127 * 128)


@dataclass(frozen=True, kw_only=True)
class ProjBTiles(Tiles):
    """block_t x block_d: 128 x 128 int32 is 64 KiB, so that two tasks share L0C (128 KiB).
    b_k_tile: 512 int8 are 512 B, one L2 line; both operands are 64 KiB as in proj_a."""

    block_t: int = extent(128, low=FRACTAL, beside=("block_d", "b_k_tile"))
    block_d: int = extent(128, low=FRACTAL, beside=("b_k_tile",))
    core: ClassVar[Core] = "AIC"
    b_k_tile: int = extent(512, low=2 * FRACTAL)

    @classmethod
    def cuda(cls) -> ProjBTiles:
        """A task is short, 8 steps of 128, so two programs share a multiprocessor and one's stores
        hide the other's loads: of four groups, FLASH's 128 tasks and PRO's 224 are one round of
        264.

        A stage is (128 + 128) x 128 int8 = 32 KiB; three are 96 of 227 KiB, and fit
        twice. 4 warps: 128 x 128 int32 is 128 accumulator registers a thread, of 255. With 8 warps
        two programs have 65 536 / 512 = 128 registers a thread, and the compiler takes 135."""
        return cls(b_k_tile=128, num_warps=4, num_stages=3)

    def fitted(self, contract: Contract, target: Target) -> ProjBTiles:
        """For few tokens a tile that holds all of them: the weights are the floor, and 8 tokens
        move less than a tenth more (`tile_of_few`)."""
        if target.kind == "cuda" or contract["N"] > FEW_TOKENS:
            return self
        block_t, block_d = tile_of_few(contract, contract["D"], target.cube_programs)
        return replace(self, block_t=block_t, block_d=block_d)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """Both int8 operands doubled in L1, the int32 accumulator in L0C."""
        return Budget(
            l1=2 * (self.block_t + self.block_d) * self.b_k_tile,
            l0c=4 * self.block_t * self.block_d,
        )


@triton.jit
def int8_dot(
    a_ptr,  # [BLOCK_T, 1] addresses of rows of int8
    w_ptr,  # [BLOCK_D, 1] likewise
    a_rows,  # [BLOCK_T, 1] bool: rows that there are
    w_rows,  # [BLOCK_D, 1] likewise
    K: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    B_K_TILE: tl.constexpr,
):
    """sum_k a[t, k] * w[d, k], [BLOCK_T, BLOCK_D] int32; zeros for rows that there are not."""
    k = tl.arange(0, B_K_TILE)
    acc = tl.zeros((BLOCK_T, BLOCK_D), tl.int32)
    for k0 in range(0, K, B_K_TILE):
        a_mask = a_rows
        w_mask = w_rows
        if K % B_K_TILE != 0:
            a_mask = a_mask & (k0 + k < K)[None, :]
            w_mask = w_mask & (k0 + k < K)[None, :]
        a = tl.load(a_ptr + (k0 + k)[None, :], mask=a_mask, other=0)
        w = tl.load(w_ptr + (k0 + k)[None, :], mask=w_mask, other=0)
        acc = tl.dot(a, tl.trans(w), acc, out_dtype=tl.int32)
    return acc


@kernel
def _proj_b_kernel(
    codes_ptr,  # [N, G, R] int8
    wo_b_ptr,  # [D, G*R] int8
    partial_ptr,  # [G, N, D] int32
    N,
    first_group,
    group_count,
    G: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    B_K_TILE: tl.constexpr,
):
    D_TILES: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    token_tiles = tl.cdiv(N, BLOCK_T)
    t = tl.arange(0, BLOCK_T)
    for task in range(tl.program_id(0), group_count * D_TILES * token_tiles, tl.num_programs(0)):
        g, t0, d0 = matmul_task(task, first_group, token_tiles, D_TILES, BLOCK_T, BLOCK_D)
        d0 = d0.to(tl.int64)
        d = tl.arange(0, BLOCK_D)
        in_tokens = (t0 + t < N)[:, None]
        in_hidden = d0 + d < D
        a_ptr = codes_ptr + (t0.to(tl.int64) * G + g) * R + t[:, None] * (G * R)
        w_ptr = wo_b_ptr + d0 * G * R + g * R + d[:, None] * (G * R)

        acc = int8_dot(a_ptr, w_ptr, in_tokens, in_hidden[:, None], R, BLOCK_T, BLOCK_D, B_K_TILE)

        tile_ptr = partial_ptr + (g * N + t0) * D + d0 + t[:, None] * D
        tl.store(tile_ptr + d[None, :], acc, mask=in_tokens & in_hidden[None, :])


def _check(contract: Contract) -> None:
    R = contract["R"]
    contract.require(1 <= R <= MAX_RANK, "codes", f"[N, G, R] with R in 1..{MAX_RANK}", f"R = {R}")


def _launch(contract: Contract, target: Target, tiles: ProjBTiles) -> Launch:
    N, G, R, D = (contract[letter] for letter in ("N", "G", "R", "D"))
    groups = contract.groups
    return Launch(
        _proj_b_kernel,
        target.grid("cube", matmul_tasks(contract, D, tiles.block_t, tiles.block_d)),
        ("codes", "wo_b", "partial", N, groups.start, len(groups)),
        dict(
            G=G, R=R, D=D, BLOCK_T=tiles.block_t, BLOCK_D=tiles.block_d,
            B_K_TILE=tiles.b_k_tile, **tiles.options(target),
        ),
    )  # fmt: skip


def int8_cost(tensors: Mapping[str, torch.Tensor], live_keys: int | None = None) -> Cost:
    """Every tensor once, and the product of codes and wo_b."""
    tokens = tensors["codes"].shape[0]
    return Cost(moved(tensors).bytes, int8_flop=2 * tokens * tensors["wo_b"].numel())


SEGMENT = Segment(
    "proj_b", ProjBTiles, reads=("codes", "wo_b"), writes=("partial",), by_groups=True,
    check=_check, launch=_launch, cost=int8_cost,
)  # fmt: skip


def proj_b(
    codes: torch.Tensor,  # [N, G, R] int8
    wo_b: torch.Tensor,  # [D, G*R] int8
    *,
    group_range: range | None = None,
    partial: torch.Tensor | None = None,
    tiles: ProjBTiles | None = None,
) -> torch.Tensor:
    """Second half of the output projection, one INT32 partial per group (spec segment 8).

    Args:
        codes: in [-127, 127], as group_quant writes them.
        wo_b: any int8, -128 included.
        group_range: the groups to compute, all if None; what other groups have in `partial` stays.

    Returns partial [G, N, D] int32. Raises ContractError.
    """
    return SEGMENT(tiles, codes=codes, wo_b=wo_b, group_range=group_range, partial=partial)
