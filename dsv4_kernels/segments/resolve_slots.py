"""Which KV row each column of a token names, what of it is live, and how rows can be moved.

    row[k]    = the row that a live slot names, of all pools in one numbering; -1 where it is dead
    bias[t,k] = 0 where token t's slot is live, else NEG

The one place that knows an index contract: what comes after it sees rows only. All of it is vector
code, the look-up in the page tables too. Columns go by blocks of 128, and a block in which no
token of the tile has a live slot is left out: the live ones stand first, in their order, and
live_blocks counts them. So no later kernel meets a dead block, and none needs a list.

`sharers` neighbouring tokens have one row of `rows`: the caller promises that a column names the
same row for all of them, or is dead. Where they differ, the one with the largest number is taken:
a wrong result, but never an address outside of a pool.
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
from dsv4_kernels.segments.cost import moved_beside_pools
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.slots import (
    BLOCK_COLUMNS,
    NEG,
    POOL_GAP,
    SLOT_NUMBERS,
    SLOTS,
    bind_sharers,
    check_slots,
    look_up,
    page_of,
    page_shift,
    slot_numbers,
    store_block,
    table,
)
from dsv4_kernels.segments.tiles import KIB, Budget, Core, Tiles, extent

# Vectors of a tile's columns that are alive at a time, by the tokens of a tile. The compiler
# reduces over one token or over eight in place; rows of two and four it copies first.
VECTORS = {1: 12, 2: 30, 4: 37, 8: 12}


@dataclass(frozen=True, kw_only=True)
class ResolveSlotsTiles(Tiles):
    """table_entries: page table entries at a time; 2048 are 8 KiB and a million tokens of
    context at ratio 4 and pages of 128 rows. Longer tables go by pieces."""

    core: ClassVar[Core] = "AIV"
    table_entries: int = extent(2048)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """Vectors of a tile's columns, 4 bytes each, and seven of a table's: both tables doubled,
        their places, and what fills them beyond their ends."""
        vectors = VECTORS[sizes["X"]] * sizes["X"] * BLOCK_COLUMNS
        return Budget(ub=4 * vectors + 7 * self.table_entries * 4 + KIB)


@triton.jit
def _raw_rows(
    raw,  # [n] int32
    usable,  # [n] bool: the token is < num_tokens and the column below its length
    ori_block_table_ptr,
    cmp_block_table_ptr,
    ori_entries,
    cmp_entries,
    ori_pages,
    cmp_pages,
    num_tokens,
    chunk_tokens,
    window,
    B: tl.constexpr,
    B_SHIFT: tl.constexpr,
    TABLE: tl.constexpr,
    GAP: tl.constexpr,
):
    """The raw index contract: the one definition of a live slot. Rows, -1 where dead."""
    usable = usable & (raw >= 0)
    overlay_row = raw - window
    slot = overlay_row - chunk_tokens
    ring_page = page_of(raw, B, B_SHIFT)
    cmp_page = page_of(slot, B, B_SHIFT)
    ring_physical = look_up(ori_block_table_ptr, ori_entries, ring_page, TABLE)
    cmp_physical = look_up(cmp_block_table_ptr, cmp_entries, cmp_page, TABLE)

    in_ring = usable & (overlay_row < 0)
    in_ring = in_ring & (ring_physical >= 0) & (ring_physical < ori_pages)
    in_overlay = usable & (overlay_row >= 0) & (slot < 0) & (overlay_row < num_tokens)
    in_cmp = usable & (slot >= 0) & (cmp_physical >= 0) & (cmp_physical < cmp_pages)

    overlay_base = ori_pages * B + GAP
    cmp_base = overlay_base + chunk_tokens + GAP
    ring_row = ring_physical * B + (raw - ring_page * B)
    cmp_row = cmp_base + cmp_physical * B + (slot - cmp_page * B)
    row = tl.where(in_ring, ring_row, -1)
    row = tl.where(in_overlay, overlay_base + overlay_row, row)
    return tl.where(in_cmp, cmp_row, row)


@kernel
def _resolve_slots_kernel(
    ori_block_table_ptr,  # [ori_entries] int32
    cmp_block_table_ptr,  # [cmp_entries] int32
    cmp_sparse_indices_ptr,  # [N, K] int32
    cmp_sparse_lens_ptr,  # [N] int32
    rows_ptr,  # [U, KP] int32
    bias_ptr,  # [N, KP] fp32
    runs_ptr,  # [U, KP/RUN] int32
    live_blocks_ptr,  # [U] int32
    live_slots_ptr,  # [N] int32
    ori_entries,
    cmp_entries,
    ori_pages,
    cmp_pages,
    num_tokens,
    first_token,
    chunk_tokens,
    window,
    N,
    K,
    KP,
    B: tl.constexpr,
    B_SHIFT: tl.constexpr,
    DEAD: tl.constexpr,
    X: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RUN: tl.constexpr,
    TABLE: tl.constexpr,
    GAP: tl.constexpr,
):
    # One task: a tile of X tokens, a block of columns at a time.
    x = tl.arange(0, X)
    k = tl.arange(0, BLOCK_K)
    for u in range(tl.program_id(0), tl.cdiv(N, X), tl.num_programs(0)):
        t0 = (u * X).to(tl.int64)
        in_wave = u * X + x < N
        length = tl.load(cmp_sparse_lens_ptr + t0 + x, mask=in_wave, other=0)
        length = tl.where(first_token + u * X + x < num_tokens, length, 0)
        live_slots = tl.zeros((X,), tl.float32)
        live_blocks = 0
        for k0 in range(0, KP, BLOCK_K):
            raw_ptr = cmp_sparse_indices_ptr + t0 * K + k0 + x[:, None] * K + k[None, :]
            mask = in_wave[:, None] & (k0 + k < K)[None, :]
            raw = tl.load(raw_ptr, mask=mask, other=-1)
            usable = (k0 + k)[None, :] < length[:, None]
            row = _raw_rows(
                tl.reshape(raw, (X * BLOCK_K,)), tl.reshape(usable, (X * BLOCK_K,)),
                ori_block_table_ptr, cmp_block_table_ptr, ori_entries, cmp_entries, ori_pages,
                cmp_pages, num_tokens, chunk_tokens, window, B, B_SHIFT, TABLE, GAP,
            )  # fmt: skip
            row = tl.reshape(row, (X, BLOCK_K))
            shared = tl.max(row, axis=0)
            if tl.max(shared, axis=0) >= 0:
                at = live_blocks * BLOCK_K
                inside = at + k < KP  # of the tail a part
                store_block(rows_ptr, runs_ptr, u, shared, live_blocks, KP, BLOCK_K, RUN)
                bias = tl.where(row >= 0, 0.0, DEAD)
                bias_rows_ptr = bias_ptr + t0 * KP + at + x[:, None] * KP
                mask = in_wave[:, None] & inside[None, :]
                tl.store(bias_rows_ptr + k[None, :], bias, mask=mask)
                live_blocks += 1
            live_slots += tl.sum(tl.where(row >= 0, 1.0, 0.0), axis=1)
        tl.store(live_blocks_ptr + u, live_blocks)
        tl.store(live_slots_ptr + t0 + x, live_slots.to(tl.int32), mask=in_wave)


def _check(contract: Contract, sharers: int, **numbers: int) -> None:
    check_slots(contract, **numbers)
    bind_sharers(contract, sharers)


def _launch(contract: Contract, target: Target, tiles: ResolveSlotsTiles) -> Launch:
    B = contract["ori_B"]
    return Launch(
        _resolve_slots_kernel,
        target.grid("vector", contract["U"]),
        (
            table(contract, "ori"), table(contract, "cmp"), "cmp_sparse_indices",
            "cmp_sparse_lens", "rows", "bias", "runs", "live_blocks", "live_slots",
            *slot_numbers(contract),
        ),
        dict(
            B=B, B_SHIFT=page_shift(B), DEAD=NEG, X=contract["X"], BLOCK_K=BLOCK_COLUMNS,
            RUN=RUN_COLUMNS, TABLE=tiles.table_entries, GAP=POOL_GAP, **tiles.options(target),
        ),
    )  # fmt: skip


SEGMENT = Segment(
    "resolve_slots", ResolveSlotsTiles, reads=SLOTS,
    writes=("rows", "bias", "runs", "live_blocks", "live_slots"),
    numbers=(*SLOT_NUMBERS, "sharers", "tail"), check=_check, launch=_launch,
    cost=moved_beside_pools,
)  # fmt: skip


def resolve_slots(
    ori_kv: torch.Tensor,  # [pages, B, C] bf16
    ori_block_table: torch.Tensor,  # [n] int32
    kv_overlay: torch.Tensor,  # [T, C] bf16
    cmp_kv: torch.Tensor,  # [pages, B, C] bf16
    cmp_block_table: torch.Tensor,  # [m] int32
    cmp_sparse_indices: torch.Tensor,  # [N, K] int32
    cmp_sparse_lens: torch.Tensor,  # [N] int32
    num_tokens: int,
    *,
    window: int = 128,
    first_token: int = 0,
    sharers: int = 1,
    tail: int = BLOCK_COLUMNS,
    rows: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    runs: torch.Tensor | None = None,
    live_blocks: torch.Tensor | None = None,
    live_slots: torch.Tensor | None = None,
    tiles: ResolveSlotsTiles | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Resolve the raw index contract of `slots.py`.

    Args:
        cmp_sparse_indices, cmp_sparse_lens: the rows of tokens first_token .. first_token + N - 1.
        num_tokens: live tokens of the chunk, 0..T.
        window: rows of the window ring, i.e. where raw indices start to mean the overlay.
        sharers: X, a power of two up to 8: so many neighbouring tokens share their KV, see above.
        tail: 128: KP is K in whole blocks; or 16, as attention in lanes takes it: KP is the least
            of 144, 160 and 192 that holds K, where K is above 128 and one of them does.

    Returns, U = ceil(N / X), (rows [U, KP] int32: ring rows from 0, overlay rows from
    ori_pages*B + 1, compressed rows T + 1 further, -1 where dead; bias [N, KP] fp32; runs
    [U, KP/16] int32: of each 16 columns how many the first of two pieces of consecutive rows has,
    16 where there is one piece, 0 where there are more than two; live_blocks [U] int32;
    live_slots [N] int32). Of rows, bias and runs only the first live_blocks blocks are written.
    The pools are not read. Raises ContractError.
    """
    return SEGMENT(
        tiles, ori_kv=ori_kv, ori_block_table=ori_block_table, kv_overlay=kv_overlay,
        cmp_kv=cmp_kv, cmp_block_table=cmp_block_table, cmp_sparse_indices=cmp_sparse_indices,
        cmp_sparse_lens=cmp_sparse_lens, num_tokens=num_tokens, window=window,
        first_token=first_token, sharers=sharers, tail=tail, rows=rows, bias=bias, runs=runs,
        live_blocks=live_blocks, live_slots=live_slots,
    )  # fmt: skip
