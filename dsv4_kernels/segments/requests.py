"""The servers' index contract: from requests, lengths and page tables to rows of KV.

    request[t], position[t]    r with query_start_loc[r] <= t < query_start_loc[r+1] (the first such
                               r), and seq_lens[r] - query_start_loc[r+1] + t; -1 where there is no
                               such request or the position is negative
    columns of a token         window: the positions p-window+1 .. p, those below 0 dead, or the
                               rows page*B + offset of ori_indices[t, w]; then slot
                               cmp_indices[t, k], or k, live where 0 <= slot < (p+1)//ratio

A page is looked up in the request's row of a table; one outside of the table or of the pool is
dead. Every count is read here, on the device: a captured graph serves another batch of its
capacity. What follows is resolve_slots' output, and the same segments.
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
    bind_columns,
    look_up,
    page_of,
    page_shift,
    pool_rows,
    store_block,
)
from dsv4_kernels.segments.tiles import KIB, Budget, Core, Tiles, extent


@dataclass(frozen=True, kw_only=True)
class TokenMapTiles(Tiles):
    """block_s: requests at a time: more than a server batches on most ranks, and 1 KiB."""

    core: ClassVar[Core] = "AIV"
    block_s: int = extent(256)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """Both ends doubled, two masks, the candidates."""
        return Budget(ub=8 * self.block_s * 4 + KIB)


@kernel
def _token_map_kernel(
    query_start_loc_ptr,  # [S + 1] int32
    seq_lens_ptr,  # [S] int32
    request_ptr,  # [N] int32
    position_ptr,  # [N] int32
    first_token,
    N,
    S,
    BLOCK_S: tl.constexpr,
):
    # One task: a token.
    s = tl.arange(0, BLOCK_S)
    for n in range(tl.program_id(0), N, tl.num_programs(0)):
        t = first_token + n
        left = 0  # requests from the token's own to the last
        for s0 in range(0, S, BLOCK_S):
            begin = tl.load(query_start_loc_ptr + s0 + s, mask=s0 + s < S, other=0)
            end = tl.load(query_start_loc_ptr + 1 + s0 + s, mask=s0 + s < S, other=0)
            found = tl.where((begin <= t) & (t < end), S - s0 - s, 0)
            left = tl.maximum(left, tl.max(found, axis=0))
        request = -1
        position = -1
        if left > 0:
            length = tl.load(seq_lens_ptr + S - left)
            # Neither sum can pass int32: 0 <= t < end, and only a length above 0 is used.
            behind = tl.load(query_start_loc_ptr + S - left + 1) - t
            if (length > 0) & (length >= behind):
                request = S - left
                position = length - behind
        tl.store(request_ptr + n, request)
        tl.store(position_ptr + n, position)


def _check_token_map(contract: Contract, first_token: int, tokens: int | None) -> None:
    """tokens: N; that of the buffers to fill if None."""
    S, starts = contract["S"], contract["S1"]
    contract.require(starts == S + 1, "query_start_loc", f"[S+1={S + 1}] int32", f"[{starts}]")
    if tokens is not None:
        contract.sizes["N"] = contract.integer("tokens", tokens, 0)
    contract.sizes["first_token"] = contract.integer("first_token", first_token, 0)


def _launch_token_map(contract: Contract, target: Target, tiles: TokenMapTiles) -> Launch:
    N, S = contract["N"], contract["S"]
    # Of no request the pointer of the lengths is null, and nothing is read behind it.
    return Launch(
        _token_map_kernel,
        target.grid("vector", N),
        ("query_start_loc", "seq_lens", "request", "position", "first_token", N, S),
        dict(BLOCK_S=tiles.block_s, **tiles.options(target)),
    )


TOKEN_MAP = Segment(
    "token_map", TokenMapTiles, reads=("query_start_loc", "seq_lens"),
    writes=("request", "position"), numbers=("first_token", "tokens"),
    check=_check_token_map, launch=_launch_token_map,
)  # fmt: skip


def token_map(
    query_start_loc: torch.Tensor,  # [S + 1] int32
    seq_lens: torch.Tensor,  # [S] int32
    tokens: int,
    *,
    request: torch.Tensor | None = None,
    position: torch.Tensor | None = None,
    tiles: TokenMapTiles | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Request and position of each of T `tokens` of a batch, for all layers of a step.

    Args:
        query_start_loc: first token of each request; the last entry counts the live tokens.
        seq_lens: KV length of each request, this step's tokens included.
        tokens: T, the capacity.

    Returns (request [T] int32, position [T] int32), both -1 for a dead token: in no request, or
    at a position below 0. Of several requests that hold a token (starts that do not ascend), the
    first counts. Raises ContractError.
    """
    return TOKEN_MAP(
        tiles, query_start_loc=query_start_loc, seq_lens=seq_lens, first_token=0, tokens=tokens,
        request=request, position=position,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ResolveRequestsTiles(Tiles):
    """table_entries: page table entries at a time, as in resolve_slots."""

    core: ClassVar[Core] = "AIV"
    table_entries: int = extent(2048)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """As resolve_slots of one sharer; of the window's pool alone, little more than half."""
        columns, tables = (12, 7) if sizes["RATIO"] else (4, 4)
        return Budget(ub=columns * BLOCK_COLUMNS * 4 + tables * self.table_entries * 4 + KIB)


@triton.jit
def rows_through(
    slot,  # [n] int32
    live,  # [n] bool
    first,  # the lowest slot that may be live
    last,  # the highest
    table_ptr,  # of the request
    entries,
    pages,
    page_rows,
    B: tl.constexpr,
    B_SHIFT: tl.constexpr,
    TABLE: tl.constexpr,
):
    """Rows of a pool from 0, -1 where dead. Of the table only what first .. last need is read."""
    first_page = tl.maximum(first, 0) // B
    here = tl.maximum(tl.minimum(entries, tl.maximum(last, -B) // B + 1) - first_page, 0)
    page = page_of(slot, B, B_SHIFT)
    physical = look_up(table_ptr + first_page, here, page - first_page, TABLE)
    live = live & (physical >= 0) & (physical < pages)
    # Of a dead column the product may wrap; it is not used.
    return tl.where(live, physical * page_rows + (slot - page * B), -1)


@kernel
def _resolve_requests_kernel(
    request_ptr,  # [N] int32
    position_ptr,  # [N] int32
    ori_tables_ptr,  # [S, ori_entries] int32, rows ori_stride apart
    cmp_tables_ptr,  # [S, cmp_entries] int32, rows cmp_stride apart
    ori_indices_ptr,  # [N, WINDOW] int32
    cmp_indices_ptr,  # [N, I] int32
    rows_ptr,  # [N, KP] int32
    bias_ptr,  # [N, KP] fp32
    runs_ptr,  # [N, KP/RUN] int32
    live_blocks_ptr,  # [N] int32
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
    S,
    N,
    W,  # from a token's list to the next, and I likewise
    I,
    cmp_columns,
    KP,
    WINDOW: tl.constexpr,
    ORI_LISTED: tl.constexpr,
    RATIO: tl.constexpr,
    LISTED: tl.constexpr,
    ORI_B: tl.constexpr,
    ORI_SHIFT: tl.constexpr,
    CMP_B: tl.constexpr,
    CMP_SHIFT: tl.constexpr,
    DEAD: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RUN: tl.constexpr,
    TABLE: tl.constexpr,
):
    # One task: a token, a block of columns at a time.
    k = tl.arange(0, BLOCK_K)
    for n in range(tl.program_id(0), N, tl.num_programs(0)):
        t = n.to(tl.int64)
        r = tl.load(request_ptr + n)
        p = tl.load(position_ptr + n)
        live_slots = 0.0
        live_blocks = 0
        if (r >= 0) & (r < S) & (p >= 0):
            r64 = r.to(tl.int64)
            visible = 0
            if RATIO > 0:
                # (p + 1) // RATIO, where p + 1 may pass int32 in a caller's map.
                visible = p // RATIO + tl.where(p % RATIO == RATIO - 1, 1, 0)
                if not LISTED:
                    visible = tl.minimum(visible, cmp_columns)
            # Listed slots stand anywhere, those of a full list where their number says.
            end = WINDOW + (cmp_columns if LISTED else visible)
            for k0 in range(0, end, BLOCK_K):
                column = k0 + k
                row = tl.full((BLOCK_K,), -1, tl.int32)
                if k0 < WINDOW:
                    if ORI_LISTED:
                        inside = column < WINDOW
                        slot_ptr = ori_indices_ptr + t * W + column
                        slot = tl.load(slot_ptr, mask=inside, other=-1)
                        live = (slot >= 0) & (slot < ori_pages * ORI_B)
                        gaps = page_of(slot, ORI_B, ORI_SHIFT) * (ori_page_rows - ORI_B)
                        row = tl.where(live, slot + gaps, -1)
                    else:
                        slot = p - WINDOW + 1 + column
                        row = rows_through(
                            slot, (column < WINDOW) & (slot >= 0), p - WINDOW + 1, p,
                            ori_tables_ptr + r64 * ori_stride, ori_entries, ori_pages,
                            ori_page_rows, ORI_B, ORI_SHIFT, TABLE,
                        )  # fmt: skip
                if RATIO > 0:  # noqa: SIM102 - the first is known when it is compiled
                    if k0 + BLOCK_K > WINDOW:
                        place = column - WINDOW
                        inside = (place >= 0) & (place < cmp_columns)
                        first, last = 0, visible - 1
                        if LISTED:
                            at = place
                            if WINDOW % BLOCK_K != 0:
                                # In the block where the window ends the list begins in its midst:
                                # its lanes are clamped, which Ascend loads one by one.
                                at = tl.minimum(
                                    tl.maximum(place, 0), tl.maximum(cmp_columns - 1, 0)
                                )
                            slot = tl.load(cmp_indices_ptr + t * I + at, mask=inside, other=-1)
                        else:
                            slot = place
                            first = k0 - WINDOW
                            last = tl.minimum(last, first + BLOCK_K - 1)
                        cmp_row = rows_through(
                            slot, inside & (slot >= 0) & (slot < visible), first, last,
                            cmp_tables_ptr + r64 * cmp_stride, cmp_entries, cmp_pages,
                            cmp_page_rows, CMP_B, CMP_SHIFT, TABLE,
                        )  # fmt: skip
                        row = tl.where(cmp_row >= 0, cmp_base + cmp_row, row)
                found = tl.sum(tl.where(row >= 0, 1.0, 0.0), axis=0)
                if found > 0:
                    at = t * KP + live_blocks * BLOCK_K
                    inside = live_blocks * BLOCK_K + k < KP  # of the tail a part
                    store_block(rows_ptr, runs_ptr, n, row, live_blocks, KP, BLOCK_K, RUN)
                    tl.store(bias_ptr + at + k, tl.where(row >= 0, 0.0, DEAD), mask=inside)
                    live_blocks += 1
                live_slots += found
        tl.store(live_blocks_ptr + n, live_blocks)
        tl.store(live_slots_ptr + n, live_slots.to(tl.int32))


def batch_columns(window: int, cmp_columns: int) -> int:
    """Columns of a token; one at least, as what follows takes no empty row."""
    return max(window + cmp_columns, 1)


TABLE_NUMBERS = tuple(
    f"{pool}_table_{number}" for pool in ("ori", "cmp") for number in ("columns", "stride")
)


def pool_numbers(contract: Contract) -> tuple[str | int, ...]:
    """What a resolver takes of both pools and their tables, and where the compressed rows begin."""
    ori_rows, ori_page_rows = pool_rows(contract, "ori")
    _, cmp_page_rows = pool_rows(contract, "cmp")
    # The overlay of gather_kv has one row, that nothing names.
    cmp_base = ori_rows + POOL_GAP + 1 + POOL_GAP
    return (
        contract["ori_pages"], ori_page_rows, "ori_table_columns", "ori_table_stride",
        contract["cmp_pages"], cmp_page_rows, "cmp_table_columns", "cmp_table_stride", cmp_base,
    )  # fmt: skip


def _check_resolve(contract: Contract, **numbers: int) -> None:
    """Whoever makes the flat views has checked them: this binds."""
    contract.sizes |= numbers
    columns = batch_columns(contract["window"], contract["cmp_columns"])
    bind_columns(contract, columns, contract["tail"])
    contract.sizes["U"] = contract["N"]


def _launch_resolve(contract: Contract, target: Target, tiles: ResolveRequestsTiles) -> Launch:
    N, ori_B, cmp_B = (contract[letter] for letter in ("N", "ori_B", "cmp_B"))
    # Masked lanes read a clamped address, which must exist.
    ori_list = "ori_indices" if contract["W"] else "position"
    listed = "cmp_indices" if contract["I"] else "position"
    return Launch(
        _resolve_requests_kernel,
        target.grid("vector", N),
        (
            "request", "position", "ori_tables", "cmp_tables", ori_list, listed, "rows", "bias",
            "runs", "live_blocks", "live_slots",
            *pool_numbers(contract), contract["S"], N,
            contract["ori_indices_stride"], contract["cmp_indices_stride"],
            contract["cmp_columns"], contract["KP"],
        ),
        dict(
            WINDOW=contract["window"], ORI_LISTED=bool(contract["ori_listed"]),
            RATIO=contract["compress_ratio"], LISTED=bool(contract["listed"]), ORI_B=ori_B,
            ORI_SHIFT=page_shift(ori_B), CMP_B=cmp_B, CMP_SHIFT=page_shift(cmp_B), DEAD=NEG,
            BLOCK_K=BLOCK_COLUMNS, RUN=RUN_COLUMNS, TABLE=tiles.table_entries,
            **tiles.options(target),
        ),
    )  # fmt: skip


RESOLVE_REQUESTS = Segment(
    "resolve_requests", ResolveRequestsTiles,
    reads=(
        "request", "position", "seq_lens", "ori_kv", "cmp_kv", "ori_tables", "cmp_tables",
        "ori_indices", "cmp_indices",
    ),
    writes=("rows", "bias", "runs", "live_blocks", "live_slots"),
    numbers=(
        *TABLE_NUMBERS, "window", "ori_listed", "compress_ratio", "listed", "cmp_columns",
        "tail",
    ),
    check=_check_resolve, launch=_launch_resolve, cost=moved_beside_pools,
)  # fmt: skip
