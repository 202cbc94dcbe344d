"""kv[u, k, :] = the row that rows[u, k] names, or zeros where it is -1.

Moves only: resolve_slots has said which row of which pool each column names, and how many of 16
neighbouring columns are neighbouring rows. A row moved by itself costs a device about twenty times
a row of a run, so 16 columns go in one piece or two where they can, and one by one elsewhere. All
three are the same code: so many pieces, so many rows each. A kernel of its own: a gather inside the
attention kernel costs it the split over both vector cores and doubles its unified buffer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import triton
import triton.language as tl

from dsv4_kernels.buffers import RUN_COLUMNS
from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.cost import Cost, size
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.slots import (
    BLOCK_COLUMNS,
    POOL_GAP,
    check_blocks,
    check_pool,
    live_columns,
    page_block,
    page_blocks,
    pool,
    pool_rows,
    row_offset,
    tile_pointers,
)
from dsv4_kernels.segments.tasks import tile_count
from dsv4_kernels.segments.tiles import KIB, Budget, Core, Tiles, extent


@dataclass(frozen=True, kw_only=True)
class GatherKvTiles(Tiles):
    """block_k: columns per task. A whole block reads live_blocks once for 128 rows, and 640 tasks
    of FLASH still level the load over 48 vector cores."""

    core: ClassVar[Core] = "AIV"
    block_k: int = extent(BLOCK_COLUMNS, low=RUN_COLUMNS, divides=BLOCK_COLUMNS)

    @classmethod
    def cuda(cls) -> GatherKvTiles:
        """A run a program, of 16 KiB: a multiprocessor's share of the bandwidth is covered by 17
        KiB under way, and it holds several."""
        return cls(block_k=RUN_COLUMNS)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """A doubled piece for each of the three pools, and one of zeros."""
        return Budget(ub=7 * RUN_COLUMNS * sizes["C"] * 2 + KIB)


@kernel
def _gather_kv_kernel(
    ori_kv_ptr,  # [ori_pages, ori_B, C] bf16
    kv_overlay_ptr,  # [T, C] bf16
    cmp_kv_ptr,  # [cmp_pages, cmp_B, C] bf16
    rows_ptr,  # [U, KP] int32
    runs_ptr,  # [U, KP/RUN] int32
    live_blocks_ptr,  # [U] int32
    tile_count_ptr,  # int32: of a batch how many of the U tiles there are, else None
    kv_ptr,  # [U, KP, C] bf16
    ori_rows,
    ori_page_rows,
    ori_page_blocks,
    chunk_tokens,
    cmp_rows,
    cmp_page_rows,
    cmp_page_blocks,
    U,
    KP,
    C: tl.constexpr,
    PAGE_BLOCK: tl.constexpr,
    RUN: tl.constexpr,
    TASK_K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GAP: tl.constexpr,
):
    # One task: TASK_K columns of a tile, none where the block is past the live ones.
    c = tl.arange(0, C)
    r = tl.arange(0, RUN)
    overlay_base = ori_rows + GAP
    cmp_base = overlay_base + chunk_tokens + GAP
    tasks = tl.cdiv(KP, TASK_K)
    tiles = tile_count(U, tile_count_ptr, 1)
    for task in range(tl.program_id(0), tiles * tasks, tl.num_programs(0)):
        u = (task // tasks).to(tl.int64)
        k0 = task % tasks * TASK_K
        columns = live_columns(tl.load(live_blocks_ptr + u), KP, BLOCK_K)
        for k in range(k0, tl.minimum(k0 + TASK_K, columns), RUN):
            split = tl.load(runs_ptr + u * (KP // RUN) + k // RUN)
            split = tl.minimum(tl.maximum(split, 0), RUN)
            step = tl.maximum(split, 1)
            pieces = tl.where(split == 0, RUN, tl.where(split == RUN, 1, 2))
            for piece in range(0, pieces):
                first = piece * step
                size = tl.where(split == 0, 1, tl.where(piece == 0, step, RUN - step))
                inside = (r < size)[:, None]
                row = tl.load(rows_ptr + u * KP + k + first)
                to_ptr = kv_ptr + (u * KP + k + first) * C + r[:, None] * C + c[None, :]
                in_ring, in_overlay = row < overlay_base, row < cmp_base
                base = tl.where(in_ring, 0, tl.where(in_overlay, overlay_base, cmp_base))
                held = tl.where(in_ring, ori_rows, tl.where(in_overlay, chunk_tokens, cmp_rows))
                if (row < 0) | (row - base > held - size):
                    tl.store(to_ptr, tl.zeros((RUN, C), tl.bfloat16), mask=inside)
                elif in_ring:
                    offset = row_offset(row, ori_page_rows, ori_page_blocks, PAGE_BLOCK, C)
                    from_ptr = ori_kv_ptr + offset + r[:, None] * C
                    values = tl.load(from_ptr + c[None, :], mask=inside)
                    tl.store(to_ptr, values, mask=inside)
                elif in_overlay:
                    overlay_row = (row - overlay_base).to(tl.int64)
                    from_ptr = kv_overlay_ptr + overlay_row * C + r[:, None] * C
                    values = tl.load(from_ptr + c[None, :], mask=inside)
                    tl.store(to_ptr, values, mask=inside)
                else:
                    cmp_row = row - cmp_base
                    offset = row_offset(cmp_row, cmp_page_rows, cmp_page_blocks, PAGE_BLOCK, C)
                    from_ptr = cmp_kv_ptr + offset + r[:, None] * C
                    values = tl.load(from_ptr + c[None, :], mask=inside)
                    tl.store(to_ptr, values, mask=inside)


def _check(contract: Contract) -> None:
    KP = contract["KP"]
    check_blocks(contract, "rows")
    runs = contract["KR"]
    contract.require(runs * RUN_COLUMNS == KP, "runs", f"[U, KP/16] with KP={KP}", f"KR = {runs}")
    contract.power_of_two("C", "kv_overlay")
    for name in ("ori", "cmp"):
        check_pool(contract, name)


def _launch(contract: Contract, target: Target, tiles: GatherKvTiles) -> Launch:
    U, KP = contract["U"], contract["KP"]
    ori, cmp = (
        (*pool_rows(contract, name), page_blocks(contract, target, name)) for name in ("ori", "cmp")
    )
    return Launch(
        _gather_kv_kernel,
        target.grid("vector", U * triton.cdiv(KP, tiles.block_k)),
        (
            pool(contract, "ori"), "kv_overlay", pool(contract, "cmp"), "rows", "runs",
            "live_blocks", tile_pointers(contract)[2], "kv", *ori, contract["T"], *cmp, U, KP,
        ),
        dict(
            C=contract["C"], PAGE_BLOCK=page_block(contract, target), RUN=RUN_COLUMNS,
            TASK_K=tiles.block_k, BLOCK_K=BLOCK_COLUMNS, GAP=POOL_GAP, **tiles.options(target),
        ),
    )  # fmt: skip


def _cost(tensors: Mapping[str, torch.Tensor], live_keys: int | None = None) -> Cost:
    """Of the pools the rows that are gathered, and no more than there are."""
    sizes = {name: size(tensor) for name, tensor in tensors.items()}
    pools = sum(sizes.pop(name) for name in ("ori_kv", "kv_overlay", "cmp_kv"))
    row = tensors["kv"].shape[-1] * tensors["kv"].element_size()
    gathered = sizes["kv"] if live_keys is None else live_keys * row
    return Cost(sum(sizes.values()) + min(pools, gathered))


SEGMENT = Segment(
    "gather_kv", GatherKvTiles,
    reads=("ori_kv", "kv_overlay", "cmp_kv", "rows", "runs", "live_blocks"), writes=("kv",),
    check=_check, launch=_launch, cost=_cost,
)  # fmt: skip


def gather_kv(
    ori_kv: torch.Tensor,  # [pages, B1, C] bf16
    kv_overlay: torch.Tensor,  # [T, C] bf16
    cmp_kv: torch.Tensor,  # [pages, B2, C] bf16
    rows: torch.Tensor,  # [U, KP] int32
    runs: torch.Tensor,  # [U, KP/16] int32
    live_blocks: torch.Tensor,  # [U] int32
    *,
    kv: torch.Tensor | None = None,
    tiles: GatherKvTiles | None = None,
) -> torch.Tensor:
    """Move the KV rows that resolve_slots has found: no arithmetic.

    Args:
        ori_kv, cmp_kv: pages may lie any number of elements apart, on CUDA a multiple of 8. Where
            other memory lies between, a page has a number more than rows.
        rows, runs, live_blocks: as resolve_slots writes them for these pools.

    Returns kv [U, KP, C] bf16; blocks from live_blocks on are not written. Raises ContractError.
    """
    return SEGMENT(
        tiles, ori_kv=ori_kv, kv_overlay=kv_overlay, cmp_kv=cmp_kv, rows=rows, runs=runs,
        live_blocks=live_blocks, kv=kv,
    )  # fmt: skip
