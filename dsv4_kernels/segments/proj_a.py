"""o_r[t, g, r] = sum_j o_packed[g, t, j] * wo_a[g, r, j]     bf16 x bf16 -> fp32, not rounded

A pure cube kernel: `tl.dot(a, tl.trans(w))` folds the transpose into the matmul, and nothing
touches the accumulator before its store. Products are summed in ascending j whatever the tile. From
an a_k_tile of 128 up the result is the same bits: on the CPU by construction, whose sums are exact
in chunks of 128; on the cube as far as it too adds in parts of 128, which the model assumes and no
chip has been asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import triton.language as tl

from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.cost import Cost, moved
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.tasks import FEW_TOKENS, matmul_task, matmul_tasks, tile_of_few
from dsv4_kernels.segments.tiles import FRACTAL, Budget, Core, Tiles, extent


@dataclass(frozen=True, kw_only=True)
class ProjATiles(Tiles):
    """block_t x block_r: 128 x 128 fp32 is 64 KiB, so that two tasks share L0C (128 KiB).
    a_k_tile: 256 bf16 are 512 B, one L2 line of the 910B/C; 128 uses half of each line and 512
    gains nothing (the seed's device sweep, read as the mean of 64 tasks: 29.06 / 26.99 / 29.05 us
    for 128 / 256 / 512). Both operands are then 64 KiB, 256 KiB of 512 KiB L1 when doubled."""

    block_t: int = extent(128, low=FRACTAL, beside=("block_r", "a_k_tile"))
    block_r: int = extent(128, low=FRACTAL, beside=("a_k_tile",))
    core: ClassVar[Core] = "AIC"
    a_k_tile: int = extent(256, low=FRACTAL)

    @classmethod
    def cuda(cls) -> ProjATiles:
        """Bound by reading wo_a, so every multiprocessor must read: of a launch of four groups,
        64 x 64 makes 128 tasks for 132 of them. The price is L2, which serves 128 x 1 MiB for 32
        MiB of weights; 128 x 32 would be 128 x 1.25 MiB, and 128 x 64 leave half the chip idle.

        A stage is (64 + 64) x 128 bf16 = 32 KiB; four are 128 of 227 KiB, with three under way
        while one is multiplied: 48 KiB of weights, against the 17 KiB that cover a multiprocessor's
        share of the bandwidth. 4 warps, the warpgroup that 64 tokens take: 64 x 64 fp32 is 32
        accumulator registers a thread."""
        return cls(block_t=64, block_r=64, a_k_tile=128, num_warps=4, num_stages=4)

    def fitted(self, contract: Contract, target: Target) -> ProjATiles:
        """For few tokens a tile that holds all of them: the weights are the floor, and 8 tokens
        move less than a tenth more (`tile_of_few`). 128 columns at most: of 256 the cube's L0B has
        room for 64 products at a time, and a token would have other bits than among many. No less
        either: a rank of one group has 8 tiles of 128 for 20 cores, but of 64, for 16 of them, the
        tokens' rows are read once a tile and make it an eighth more."""
        if target.kind == "cuda" or contract["N"] > FEW_TOKENS:
            return self
        block_t, block_r = tile_of_few(contract, contract["R"], target.cube_programs, (128,))
        return replace(self, block_t=block_t, block_r=block_r)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """Both bf16 operands doubled in L1, the fp32 accumulator in L0C."""
        return Budget(
            l1=2 * 2 * (self.block_t + self.block_r) * self.a_k_tile,
            l0c=4 * self.block_t * self.block_r,
        )


@kernel
def _proj_a_kernel(
    o_packed_ptr,  # [G, N, J] bf16; [N, G, J] for BY_TOKEN
    wo_a_ptr,  # [G, R, J] bf16
    o_r_ptr,  # [N, G, R] fp32
    N,
    first_group,
    group_count,
    G: tl.constexpr,
    R: tl.constexpr,
    J: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    A_K_TILE: tl.constexpr,
    BY_TOKEN: tl.constexpr,
):
    R_TILES: tl.constexpr = (R + BLOCK_R - 1) // BLOCK_R
    token_tiles = tl.cdiv(N, BLOCK_T)
    t = tl.arange(0, BLOCK_T)
    j = tl.arange(0, A_K_TILE)
    for task in range(tl.program_id(0), group_count * R_TILES * token_tiles, tl.num_programs(0)):
        g, t0, r0 = matmul_task(task, first_group, token_tiles, R_TILES, BLOCK_T, BLOCK_R)
        r = tl.arange(0, BLOCK_R)
        in_tokens = (t0 + t < N)[:, None]
        in_rank = r0 + r < R
        if BY_TOKEN:
            a_ptr = o_packed_ptr + (t0.to(tl.int64) * G + g) * J + t[:, None] * (G * J)
        else:
            a_ptr = o_packed_ptr + (g * N + t0) * J + t[:, None] * J
        w_ptr = wo_a_ptr + (g * R + r0) * J + r[:, None] * J

        acc = tl.zeros((BLOCK_T, BLOCK_R), tl.float32)
        for j0 in range(0, J, A_K_TILE):
            a_mask = in_tokens
            w_mask = in_rank[:, None]
            if J % A_K_TILE != 0:
                a_mask = a_mask & (j0 + j < J)[None, :]
                w_mask = w_mask & (j0 + j < J)[None, :]
            a = tl.load(a_ptr + (j0 + j)[None, :], mask=a_mask, other=0.0)
            w = tl.load(w_ptr + (j0 + j)[None, :], mask=w_mask, other=0.0)
            acc = tl.dot(a, tl.trans(w), acc)

        tile_ptr = o_r_ptr + (t0.to(tl.int64) * G + g) * R + r0 + t[:, None] * (G * R)
        tl.store(tile_ptr + r[None, :], acc, mask=in_tokens & in_rank[None, :])


def check_proj_a(contract: Contract, heads: str = "o_packed") -> None:
    """heads: the buffer that has attention's output, o_packed or o_heads."""
    # The accumulator of a loop that never runs is not zero on Ascend.
    contract.require(contract["J"] >= 1, heads, "[G, N, J] with J >= 1", "J = 0")


def launch_proj_a(
    contract: Contract, target: Target, tiles: ProjATiles, heads: str = "o_packed"
) -> Launch:
    """heads: as `check_proj_a` takes it."""
    N, G, R, J = (contract[letter] for letter in ("N", "G", "R", "J"))
    groups = contract.groups
    return Launch(
        _proj_a_kernel,
        target.grid("cube", matmul_tasks(contract, R, tiles.block_t, tiles.block_r)),
        (heads, "wo_a", "o_r", N, groups.start, len(groups)),
        dict(
            G=G, R=R, J=J, BLOCK_T=tiles.block_t, BLOCK_R=tiles.block_r,
            A_K_TILE=tiles.a_k_tile, BY_TOKEN=heads == "o_heads", **tiles.options(target),
        ),
    )  # fmt: skip


def _cost(tensors: Mapping[str, torch.Tensor], live_keys: int | None = None) -> Cost:
    tokens = tensors["o_r"].shape[0]
    return Cost(moved(tensors).bytes, bf16_flop=2 * tokens * tensors["wo_a"].numel())


SEGMENT = Segment(
    "proj_a", ProjATiles, reads=("o_packed", "wo_a"), writes=("o_r",), by_groups=True,
    check=check_proj_a, launch=launch_proj_a, cost=_cost,
)  # fmt: skip


def proj_a(
    o_packed: torch.Tensor,  # [G, N, J] bf16
    wo_a: torch.Tensor,  # [G, R, J] bf16
    *,
    group_range: range | None = None,
    o_r: torch.Tensor | None = None,
    tiles: ProjATiles | None = None,
) -> torch.Tensor:
    """First half of the grouped low-rank output projection (spec segment 6).

    Args:
        group_range: the groups to compute, all if None; what other groups have in `o_r` stays.

    Returns o_r [N, G, R] fp32. Raises ContractError.
    """
    return SEGMENT(tiles, o_packed=o_packed, wo_a=wo_a, group_range=group_range, o_r=o_r)
