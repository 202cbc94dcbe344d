"""scores[t, h, k] = sum_c q[t, h, c] * kv[u, k, c]     bf16 x bf16 -> fp32, of the live blocks

The first lane: pure cube, for scale, bias and softmax are vector work. The heads of the tokens that
share a tile's KV are rows of one matrix. q stays in L1 for all blocks: loaded again for each it
would be a third of what this kernel moves. Of short rows - a block, or one and a tail - it is KV
that stays, for all rows that share it, and neither is loaded twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import triton.language as tl

from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.cost import Cost, attention_flop, moved
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.slots import (
    BLOCK_COLUMNS,
    bind_sharers,
    check_blocks,
    columns_at_a_time,
    is_short,
    tile_pointers,
)
from dsv4_kernels.segments.tasks import rows_at, rows_of_a_task, rows_task, rows_tasks, tile_count
from dsv4_kernels.segments.tiles import FRACTAL, Budget, Core, Tiles, extent


@dataclass(frozen=True, kw_only=True)
class QkTiles(Tiles):
    """block_r: rows of a task at most. 128 x 512 bf16 of q and as much of KV, both doubled, are
    all of the 512 KiB of L1: PRO's heads, or two tokens of FLASH that share their KV. Of short
    rows half of them at a time: a tail of 64 columns then fits too. task_r: rows of a task of
    short ones, which load KV once; 512 are 8 tokens of FLASH, and 16 tasks for 20 cores.
    fewest_r: rows at a time at least, however few there are; the cube takes 16 for fewer."""

    core: ClassVar[Core] = "AIC"
    block_r: int = extent(128, low=FRACTAL, beside=("C", BLOCK_COLUMNS))
    task_r: int = extent(512, low=FRACTAL)
    fewest_r: int = extent(FRACTAL, low=FRACTAL, beside=("C", BLOCK_COLUMNS))

    @classmethod
    def cuda(cls) -> QkTiles:
        """64 rows are the least that wgmma takes: q is 64 KiB, KV 128 KiB, 192 of 227. One stage,
        since a second KV does not fit; 64 x 128 fp32 is 32 registers a thread of 8 warps."""
        return cls(block_r=64, fewest_r=64, num_warps=8, num_stages=1)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """q and KV doubled in L1, the scores of a block in L0C."""
        columns = columns_at_a_time(sizes)
        rows = self.short_rows(sizes)[1] if is_short(sizes) else self.rows(sizes)
        return Budget(l1=2 * 2 * (rows + columns) * sizes["C"], l0c=4 * rows * columns)

    def rows(self, sizes: Mapping[str, int]) -> int:
        """Of a task."""
        return max(rows_of_a_task(sizes, self.block_r), self.fewest_r)

    def short_rows(self, sizes: Mapping[str, int]) -> tuple[int, int]:
        """Of a task of short rows, and at a time."""
        rows = max(rows_of_a_task(sizes, max(self.block_r // 2, FRACTAL)), self.fewest_r)
        return max(rows_of_a_task(sizes, self.task_r), rows), rows


@kernel
def _qk_kernel(
    q_ptr,  # [N, H, C] bf16
    kv_ptr,  # [U, KP, C] bf16
    live_blocks_ptr,  # [U] int32
    tile_first_ptr,  # [U] int32; of a batch, as the next two, else None
    tile_tokens_ptr,  # [U] int32
    tile_count_ptr,  # int32
    scores_ptr,  # [N, H, KP] fp32
    N,
    KP,
    H: tl.constexpr,
    C: tl.constexpr,
    X: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # One task: rows that share their KV, a block of columns at a time.
    ROW_TILES: tl.constexpr = (X * H + BLOCK_R - 1) // BLOCK_R
    c = tl.arange(0, C)
    k = tl.arange(0, BLOCK_K)
    r = tl.arange(0, BLOCK_R)
    for task in range(
        tl.program_id(0), tile_count(N, tile_count_ptr, X) * ROW_TILES, tl.num_programs(0)
    ):
        u, first, inside = rows_task(
            task, N, tile_first_ptr, tile_tokens_ptr, H, X, ROW_TILES, BLOCK_R
        )
        q_rows_ptr = q_ptr + first * C + r[:, None] * C
        q = tl.load(q_rows_ptr + c[None, :], mask=inside, other=0.0)
        for b in range(tl.minimum(tl.load(live_blocks_ptr + u), KP // BLOCK_K)):
            kv = tl.load(kv_ptr + (u * KP + b * BLOCK_K) * C + k[:, None] * C + c[None, :])
            scores = tl.dot(q, tl.trans(kv))
            rows_ptr = scores_ptr + first * KP + b * BLOCK_K + r[:, None].to(tl.int64) * KP
            tl.store(rows_ptr + k[None, :], scores, mask=inside)


@kernel
def _qk_short_kernel(
    q_ptr,  # [N, H, C] bf16
    kv_ptr,  # [U, KP, C] bf16
    live_blocks_ptr,  # [U] int32
    tile_first_ptr,  # [U] int32; of a batch, as the next two, else None
    tile_tokens_ptr,  # [U] int32
    tile_count_ptr,  # int32
    scores_ptr,  # [N, H, KP] fp32
    N,
    H: tl.constexpr,
    KP: tl.constexpr,
    C: tl.constexpr,
    X: tl.constexpr,
    TASK_R: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # One task: TASK_R rows that share their KV, BLOCK_R at a time; a block of columns and a tail.
    # Without a loop around KV's load the Ascend compiler does not double-buffer it in L1. A tail
    # that is dead is no loop that does not run: around a dot that makes the kernel MIX. Its dot
    # runs, on rows that are not loaded, and none of it is stored.
    TASKS: tl.constexpr = (X * H + TASK_R - 1) // TASK_R
    TAIL: tl.constexpr = KP - BLOCK_K
    c = tl.arange(0, C)
    k = tl.arange(0, BLOCK_K)
    r = tl.arange(0, BLOCK_R)
    for task in range(
        tl.program_id(0), tile_count(N, tile_count_ptr, X) * TASKS, tl.num_programs(0)
    ):
        u, first, rows = rows_at(task, N, tile_first_ptr, tile_tokens_ptr, H, X, TASKS, TASK_R)
        blocks = tl.load(live_blocks_ptr + u)
        tile_ptr = kv_ptr + u * KP * C
        for _ in range(0, tl.minimum(blocks, 1)):
            kv = tl.load(tile_ptr + k[:, None] * C + c[None, :])
            if TAIL > 0:
                tail = tl.arange(0, TAIL)
                tails = tl.minimum(blocks - 1, 1)
                tail_rows_ptr = tile_ptr + BLOCK_K * C + tail[:, None] * C
                there = (tail < tails * TAIL)[:, None]
                kv_tail = tl.load(tail_rows_ptr + c[None, :], mask=there, other=0.0)
            for r0 in range(0, rows, BLOCK_R):
                inside = (r0 + r < rows)[:, None]
                q_rows_ptr = q_ptr + (first + r0) * C + r[:, None] * C
                q = tl.load(q_rows_ptr + c[None, :], mask=inside, other=0)
                rows_ptr = scores_ptr + (first + r0) * KP + r[:, None] * KP
                tl.store(rows_ptr + k[None, :], tl.dot(q, tl.trans(kv)), mask=inside)
                if TAIL > 0:
                    alive = (r0 + r < rows * tails)[:, None]
                    tail_ptr = rows_ptr + BLOCK_K + tail[None, :]
                    tl.store(tail_ptr, tl.dot(q, tl.trans(kv_tail)), mask=alive)


def _check(contract: Contract, sharers: int = 1) -> None:
    bind_sharers(contract, sharers)
    check_blocks(contract, "kv")
    contract.power_of_two("C", "q", low=FRACTAL)
    contract.require_packed("q", contract["H"] * contract["C"])  # a tile has rows of X tokens


def _launch(contract: Contract, target: Target, tiles: QkTiles) -> Launch:
    N, KP, H, C, X = (contract[letter] for letter in ("N", "KP", "H", "C", "X"))
    constants = dict(H=H, C=C, X=X, BLOCK_K=BLOCK_COLUMNS, **tiles.options(target))
    if is_short(contract.sizes):
        task_rows, rows = tiles.short_rows(contract.sizes)
        return Launch(
            _qk_short_kernel,
            target.grid("cube", rows_tasks(contract, task_rows)),
            ("q", "kv", "live_blocks", *tile_pointers(contract), "scores", N),
            dict(KP=KP, TASK_R=task_rows, BLOCK_R=rows, **constants),
        )
    rows = tiles.rows(contract.sizes)
    return Launch(
        _qk_kernel,
        target.grid("cube", rows_tasks(contract, rows)),
        ("q", "kv", "live_blocks", *tile_pointers(contract), "scores", N, KP),
        dict(BLOCK_R=rows, **constants),
    )


def _cost(tensors: Mapping[str, torch.Tensor], live_keys: int | None = None) -> Cost:
    N, H, C = tensors["q"].shape
    keys = N * tensors["kv"].shape[1] if live_keys is None else live_keys
    return Cost(moved(tensors).bytes, bf16_flop=attention_flop(keys, H, C) // 2)


SEGMENT = Segment(
    "qk", QkTiles, reads=("q", "kv", "live_blocks"), writes=("scores",), numbers=("sharers",),
    check=_check, launch=_launch, cost=_cost,
)  # fmt: skip


def qk(
    q: torch.Tensor,  # [N, H, C] bf16
    kv: torch.Tensor,  # [U, KP, C] bf16
    live_blocks: torch.Tensor,  # [U] int32
    *,
    sharers: int = 1,
    scores: torch.Tensor | None = None,
    tiles: QkTiles | None = None,
) -> torch.Tensor:
    """Scores of every head with every column of the live blocks, for `softmax`.

    Args:
        kv: as gather_kv writes it; KP is a multiple of 128, or 144, 160 or 192.
        live_blocks: how many blocks of a tile of X tokens to take; later ones are not touched.
        sharers: X, as resolve_slots takes it.

    Returns scores [N, H, KP] fp32, neither scaled nor masked. Raises ContractError.
    """
    return SEGMENT(tiles, q=q, kv=kv, live_blocks=live_blocks, sharers=sharers, scores=scores)
