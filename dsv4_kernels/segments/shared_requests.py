"""The servers' index contract for tokens that share their KV: a window and every visible slot.

    columns of a tile   window: positions b-W+1 .. b+X-1, b = p - p % X of any of its tokens;
                        then slots 0, 1, .. of its last token's visible ones
    bias[t, k]          0 where column k is one of token t's own, else NEG

A column's position is the tile's, not the first token's: a token has it wherever a wave or a chunk
cuts its request. Lists of slots or of rows are a token's own and are not shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import triton.language as tl

from dsv4_kernels.buffers import RUN_COLUMNS
from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.cost import moved_beside_pools
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.requests import (
    TABLE_NUMBERS,
    batch_columns,
    pool_numbers,
    rows_through,
)
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.slots import (
    BLOCK_COLUMNS,
    NEG,
    bind_columns,
    check_sharers,
    page_shift,
    store_block,
)
from dsv4_kernels.segments.tiles import KIB, Budget, Core, Tiles, extent


@dataclass(frozen=True, kw_only=True)
class SharedRequestsTiles(Tiles):
    """table_entries: page table entries at a time, as in resolve_slots."""

    core: ClassVar[Core] = "AIV"
    table_entries: int = extent(2048)

    @classmethod
    def cuda(cls) -> SharedRequestsTiles:
        """8 warps: 8 tokens' columns are 8 registers a thread of each of their vectors, and 4 warps
        spill."""
        return cls(num_warps=8)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """Vectors of a block's columns, those of each token, and of a table; of the window's pool
        alone, fewer."""
        columns, of_a_token, tables = (11, 10, 7) if sizes["RATIO"] else (6, 8, 4)
        vectors = (columns + of_a_token * sizes["X"]) * BLOCK_COLUMNS
        return Budget(ub=4 * vectors + tables * self.table_entries * 4 + KIB)


@kernel
def _shared_requests_kernel(
    request_ptr,  # [N] int32
    position_ptr,  # [N] int32
    ori_tables_ptr,  # [S, ori_entries] int32, rows ori_stride apart
    cmp_tables_ptr,  # [S, cmp_entries] int32, rows cmp_stride apart
    tile_first_ptr,  # [U] int32
    tile_tokens_ptr,  # [U] int32
    tile_count_ptr,  # int32
    tile_of_ptr,  # [N] int32
    rows_ptr,  # [U, KP] int32
    bias_ptr,  # [N, KP] fp32
    runs_ptr,  # [U, KP/RUN] int32
    tile_blocks_ptr,  # [U] int32
    token_blocks_ptr,  # [N] int32
    live_slots_ptr,  # [N] int32
    ori_pages,
    ori_page_rows,
    ori_entries,
    ori_stride,
    cmp_pages,
    cmp_page_rows,
    cmp_entries,
    cmp_stride,
    cmp_base,
    N,
    cmp_columns,
    KP,
    X: tl.constexpr,
    WINDOW: tl.constexpr,
    RATIO: tl.constexpr,
    ORI_B: tl.constexpr,
    ORI_SHIFT: tl.constexpr,
    CMP_B: tl.constexpr,
    CMP_SHIFT: tl.constexpr,
    DEAD: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RUN: tl.constexpr,
    TABLE: tl.constexpr,
):
    # One task: a tile, a block of columns at a time; then a token, to see whether it is in none.
    WIDE: tl.constexpr = WINDOW + X - 1
    x = tl.arange(0, X)
    k = tl.arange(0, BLOCK_K)
    for u in range(tl.program_id(0), tl.load(tile_count_ptr), tl.num_programs(0)):
        first_token = tl.load(tile_first_ptr + u)
        tokens = tl.load(tile_tokens_ptr + u)
        t0 = first_token.to(tl.int64)
        r64 = tl.load(request_ptr + first_token).to(tl.int64)
        p = tl.load(position_ptr + first_token)
        base = p - p % X
        last_position = p + tokens - 1
        in_tile = x < tokens
        end = WIDE
        visible = tl.zeros((X,), tl.int32)
        most_visible = 0
        if RATIO > 0:
            # Whole slots up to each token. The large is a scalar: Ascend divides vectors in fp32.
            whole, part = p // RATIO, p % RATIO
            over = part + 1 + x
            more = tl.where(over >= RATIO, 1, 0) if RATIO >= X else over // RATIO
            visible = tl.minimum(tl.minimum(whole, cmp_columns) + more, cmp_columns)
            most_visible = tl.max(tl.where(in_tile, visible, 0), axis=0)
            end = WIDE + most_visible
        live_slots = tl.zeros((X,), tl.float32)
        live_blocks = 0
        for k0 in range(0, end, BLOCK_K):
            column = k0 + k
            row = tl.full((BLOCK_K,), -1, tl.int32)
            if k0 < WIDE:
                position = base - WINDOW + 1 + column
                first = tl.maximum(p - WINDOW + 1, 0)
                row = rows_through(
                    position, (column < WIDE) & (position >= first) & (position <= last_position),
                    first, last_position, ori_tables_ptr + r64 * ori_stride, ori_entries,
                    ori_pages, ori_page_rows, ORI_B, ORI_SHIFT, TABLE,
                )  # fmt: skip
            if RATIO > 0:  # noqa: SIM102 - the first is known when it is compiled
                if k0 + BLOCK_K > WIDE:
                    slot = column - WIDE
                    cmp_row = rows_through(
                        slot, (slot >= 0) & (slot < most_visible), k0 - WIDE,
                        tl.minimum(k0 - WIDE + BLOCK_K, most_visible) - 1,
                        cmp_tables_ptr + r64 * cmp_stride, cmp_entries, cmp_pages,
                        cmp_page_rows, CMP_B, CMP_SHIFT, TABLE,
                    )  # fmt: skip
                    row = tl.where(cmp_row >= 0, cmp_base + cmp_row, row)
            if tl.sum(tl.where(row >= 0, 1.0, 0.0), axis=0) > 0:
                in_window = column[None, :] - (p - base + x)[:, None]
                own = (column < WIDE)[None, :] & (in_window >= 0) & (in_window < WINDOW)
                if RATIO > 0:
                    slot = column - WIDE
                    own = own | ((slot >= 0)[None, :] & (slot[None, :] < visible[:, None]))
                own = own & (row >= 0)[None, :]
                at = live_blocks * BLOCK_K
                inside = at + k < KP  # of the tail a part
                store_block(rows_ptr, runs_ptr, u, row, live_blocks, KP, BLOCK_K, RUN)
                bias_rows_ptr = bias_ptr + t0 * KP + at + x[:, None] * KP
                mask = in_tile[:, None] & inside[None, :]
                tl.store(bias_rows_ptr + k[None, :], tl.where(own, 0.0, DEAD), mask=mask)
                live_slots += tl.sum(tl.where(own, 1.0, 0.0), axis=1)
                live_blocks += 1
        tl.store(tile_blocks_ptr + u, live_blocks)
        blocks = tl.full((X,), 0, tl.int32) + live_blocks
        tl.store(token_blocks_ptr + t0 + x, blocks, mask=in_tile)
        tl.store(live_slots_ptr + t0 + x, live_slots.to(tl.int32), mask=in_tile)
    for n in range(tl.program_id(0), N, tl.num_programs(0)):
        if tl.load(tile_of_ptr + n) < 0:
            tl.store(token_blocks_ptr + n, 0)
            tl.store(live_slots_ptr + n, 0)


def shared_columns(window: int, cmp_columns: int, sharers: int) -> int:
    """Columns of a tile."""
    return batch_columns(window + sharers - 1, cmp_columns)


def _check(contract: Contract, sharers: int, **numbers: int) -> None:
    """Whoever makes the flat views has checked them: this binds."""
    contract.sizes |= numbers
    X = check_sharers(contract, sharers)
    columns = shared_columns(contract["window"], contract["cmp_columns"], X)
    bind_columns(contract, columns, contract["tail"])


def _launch(contract: Contract, target: Target, tiles: SharedRequestsTiles) -> Launch:
    N, ori_B, cmp_B = (contract[letter] for letter in ("N", "ori_B", "cmp_B"))
    return Launch(
        _shared_requests_kernel,
        target.grid("vector", N),
        (
            "request", "position", "ori_tables", "cmp_tables", "tile_first", "tile_tokens",
            "tile_count", "tile_of", "rows", "bias", "runs", "tile_blocks", "token_blocks",
            "live_slots",
            *pool_numbers(contract), N, contract["cmp_columns"], contract["KP"],
        ),
        dict(
            X=contract["X"], WINDOW=contract["window"], RATIO=contract["compress_ratio"],
            ORI_B=ori_B, ORI_SHIFT=page_shift(ori_B), CMP_B=cmp_B, CMP_SHIFT=page_shift(cmp_B),
            DEAD=NEG, BLOCK_K=BLOCK_COLUMNS, RUN=RUN_COLUMNS, TABLE=tiles.table_entries,
            **tiles.options(target),
        ),
    )  # fmt: skip


SHARED_REQUESTS = Segment(
    "shared_requests", SharedRequestsTiles,
    reads=(
        "request", "position", "ori_kv", "cmp_kv", "ori_tables", "cmp_tables", "tile_first",
        "tile_tokens", "tile_count", "tile_of",
    ),
    writes=("rows", "bias", "runs", "tile_blocks", "token_blocks", "live_slots"),
    numbers=(*TABLE_NUMBERS, "window", "compress_ratio", "cmp_columns", "tail", "sharers"),
    check=_check, launch=_launch, cost=moved_beside_pools,
)  # fmt: skip
