"""What resolved slots look like, and what every resolver of an index contract does alike.

A row is a KV row of all pools in one numbering: those of the window ring from 0, of the overlay
from ori_pages*B + 1, of the compressed pool T + 1 further; -1 is dead. Where other memory lies
between pages, a page takes one number more than it has rows: neighbouring numbers are neighbouring
rows, whatever the stride. A tile of X neighbouring tokens shares its rows. Its live blocks of 128
columns stand first - the last block may be a tail of fewer -, live_blocks counts them, and nothing
behind them is written or read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl

from dsv4_kernels.buffers import RUN_COLUMNS
from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.tiles import FRACTAL

# Columns that qk_softmax_pv takes at a time, and the multiple that K is padded to: a 128 x 512 bf16
# tile of KV is 128 KiB, which fits the 512 KiB L1 of an Ascend cube core twice (double buffering).
BLOCK_COLUMNS = 128

# What KP is beside whole blocks: one and a tail, as attention in lanes takes it. Eight windows of
# 128 are 135 columns, and an HCA layer of 8192 positions has 192.
SHORT_COLUMNS = (144, 160, 192)

# Most tokens that share KV: a tile of 8 x 128 columns takes most of the unified buffer.
MAX_SHARERS = 8

# Between the numbers of two pools, so that neighbouring numbers are neighbouring rows of one pool.
POOL_GAP = 1

# The lowest finite fp32. NEG + score rounds to NEG, exp(NEG - m) is 0 next to any live score, and
# an all-dead block has NEG - NEG = 0 where -inf - -inf would be NaN.
NEG = -3.4028234663852886e38


@triton.jit
def page_of(slot, B: tl.constexpr, B_SHIFT: tl.constexpr):
    """slot // B; B_SHIFT is log2(B), or -1 where B is not a power of two."""
    # Ascend divides int32 vectors in fp32, exact below 2**24 only (check_slots holds B to that);
    # for a power of two a shift is exact everywhere, and one instruction.
    if B_SHIFT >= 0:
        return slot >> B_SHIFT
    else:
        return slot // B


@triton.jit
def look_up(table_ptr, entries, page, TABLE: tl.constexpr):
    """table[page], or -1 where the page is outside of the table."""
    e = tl.arange(0, TABLE)
    physical = tl.full(page.shape, -1, tl.int32)
    for e0 in range(0, entries, TABLE):
        piece = tl.load(table_ptr + e0 + e, mask=e0 + e < entries, other=-1)
        here = page - e0
        inside = (here >= 0) & (here < TABLE)
        here = tl.minimum(tl.maximum(here, 0), TABLE - 1)
        # triton-ascend gathers floats only; the bits are moved, not computed with.
        found = tl.gather(piece.to(tl.float32, bitcast=True), here, 0).to(tl.int32, bitcast=True)
        physical = tl.where(inside, found, physical)
    return physical


@triton.jit
def first_pieces(row, BLOCK_K: tl.constexpr, RUN: tl.constexpr):
    """For every run of RUN columns: RUN if its rows follow each other (or all are dead), n if the
    first n do and the others do, else 0."""
    k = tl.arange(0, BLOCK_K)
    bits = tl.gather(row.to(tl.float32, bitcast=True), tl.maximum(k - 1, 0), 0)
    before = bits.to(tl.int32, bitcast=True)
    follows = ((row == before + 1) & (before >= 0)) | ((row < 0) & (before < 0))
    place = k & (RUN - 1)
    breaks = tl.where(follows | (place == 0), 0.0, 1.0)
    count = tl.sum(tl.reshape(breaks, (BLOCK_K // RUN, RUN)), axis=1)
    where_broken = tl.reshape(breaks * place.to(tl.float32), (BLOCK_K // RUN, RUN))
    first = tl.sum(where_broken, axis=1)
    return tl.where(count == 0.0, RUN + 0.0, tl.where(count == 1.0, first, 0.0)).to(tl.int32)


@triton.jit
def store_block(rows_ptr, runs_ptr, u, row, block, KP, BLOCK_K: tl.constexpr, RUN: tl.constexpr):
    """Tile u's next live block, with so many before it: its rows, and how they split into runs. Of
    a tail as many as there are."""
    k = tl.arange(0, BLOCK_K)
    run = tl.arange(0, BLOCK_K // RUN)
    u64 = u.to(tl.int64)
    at = block * BLOCK_K
    tl.store(rows_ptr + u64 * KP + at + k, row, mask=at + k < KP)
    first_run = block * (BLOCK_K // RUN)
    runs_row_ptr = runs_ptr + u64 * (KP // RUN) + first_run
    pieces = first_pieces(row, BLOCK_K, RUN)
    tl.store(runs_row_ptr + run, pieces, mask=first_run + run < KP // RUN)


@triton.jit
def row_offset(row, page_rows, page_blocks, BLOCK: tl.constexpr, C: tl.constexpr):
    """Elements from a pool's first to those of a row, int64; page_rows is of `pool_rows`. For
    scalars where vectors divide in fp32, as Ascend's do."""
    page = row // page_rows
    in_page = row - page * page_rows
    return page.to(tl.int64) * page_blocks * BLOCK + in_page.to(tl.int64) * C


@triton.jit
def live_columns(live_blocks, KP, BLOCK_K: tl.constexpr):
    """Columns of the live blocks; no more than there are, whatever was counted."""
    return tl.minimum(tl.minimum(live_blocks, tl.cdiv(KP, BLOCK_K)) * BLOCK_K, KP)


SLOTS = (
    "ori_kv", "ori_block_table", "kv_overlay", "cmp_kv", "cmp_block_table",
    "cmp_sparse_indices", "cmp_sparse_lens",
)  # fmt: skip
SLOT_NUMBERS = ("num_tokens", "window", "first_token")


def check_slots(
    contract: Contract,
    num_tokens: int,
    window: int,
    first_token: int,
    tail: int = BLOCK_COLUMNS,
) -> None:
    """What the shapes of SLOTS do not say; binds the columns and the numbers."""
    rows = contract.rows
    N, T, B, K = (contract[letter] for letter in (rows, "T", "ori_B", "K"))
    for pool in ("ori", "cmp"):
        own, pages = contract[f"{pool}_B"], f"[{pool}_pages, B, C]"
        contract.require(own == B, f"{pool}_kv", f"{pages} with B={B} as in `ori_kv`", f"B = {own}")
        contract.require_packed(f"{pool}_kv", B * contract["C"])
        check_pool(contract, pool)
    contract.require(N <= T, "cmp_sparse_indices", f"[{rows}, K] with {rows} <= T={T}", f"{N} rows")
    contract.sizes["num_tokens"] = contract.integer("num_tokens", num_tokens, 0, T)
    contract.sizes["window"] = contract.integer("window", window, 0, 2**30 - 1)
    contract.sizes["first_token"] = contract.integer("first_token", first_token, 0, T - N)
    contract.require(K >= 1, "cmp_sparse_indices", f"[{rows}, K] with K >= 1", "K = 0")
    for pool in ("ori", "cmp"):
        entries = contract[f"{pool}_entries"]
        contract.require(
            page_shift(B) >= 0 or B * entries <= 2**24,
            f"{pool}_block_table",
            "at most 2**24 slots for a page size that is not a power of two",
            f"{entries} pages of B={B}",
        )
    all_rows = B * (contract["ori_pages"] + contract["cmp_pages"]) + T + 2 * POOL_GAP
    contract.require(all_rows < 2**31, "cmp_kv", "< 2**31 rows with the others", f"{all_rows} rows")
    bind_columns(contract, K, tail)


def bind_columns(contract: Contract, columns: int, tail: int) -> None:
    """Binds KP, NB and KR: so many columns in whole blocks, the blocks, and the runs of a row.

    tail: 128; or 16, where what is left behind a single block may be a block of 16, 32 or 64.
    """
    tail = contract.integer("tail", tail, FRACTAL, BLOCK_COLUMNS)
    contract.require(tail in (FRACTAL, BLOCK_COLUMNS), "tail", "16 or 128", str(tail))
    NB = -(-columns // BLOCK_COLUMNS)
    KP = NB * BLOCK_COLUMNS
    if tail == FRACTAL:
        KP = min([KP, *(short for short in SHORT_COLUMNS if short >= columns)])
    contract.sizes.update(NB=NB, KP=KP, KR=KP // RUN_COLUMNS, tail=tail)


def check_blocks(contract: Contract, argument: str) -> None:
    """The columns KP, which the argument has, are whole blocks, or one and a tail."""
    KP = contract["KP"]
    contract.require(
        KP % BLOCK_COLUMNS == 0 or KP in SHORT_COLUMNS,
        argument,
        f"KP a multiple of 128, or one of {SHORT_COLUMNS}",
        f"KP = {KP}",
    )


def is_short(sizes: Mapping[str, int]) -> bool:
    """Whether a row of KP columns is a block, or one and a tail. The constants of a launch have KP
    where it is."""
    return BLOCK_COLUMNS <= sizes.get("KP", 0) < 2 * BLOCK_COLUMNS


def columns_at_a_time(sizes: Mapping[str, int]) -> int:
    """Columns of KV that attention in lanes has in L1: of a short row all."""
    return sizes["KP"] if is_short(sizes) else BLOCK_COLUMNS


def check_whole_blocks(contract: Contract, argument: str) -> None:
    """The columns KP, which the argument has, are whole blocks: a kernel takes no part of one."""
    KP = contract["KP"]
    contract.require(KP % BLOCK_COLUMNS == 0, argument, "KP a multiple of 128", f"KP = {KP}")


def without_kv_head(pool: Any) -> Any:
    """[pages, B, 1, C] without the dimension of the one KV head; others are for the checks."""
    four = isinstance(pool, torch.Tensor) and pool.dim() == 4 and pool.shape[2] == 1
    return pool.squeeze(2) if four else pool


def bind_sharers(contract: Contract, sharers: int) -> None:
    """Binds X, and U tiles of so many neighbouring tokens, unless a batch's are bound."""
    N, X = contract["N"], check_sharers(contract, sharers)
    if "tiled" in contract.sizes:
        return
    tiles = -(-N // X)
    known = contract.sizes.setdefault("U", tiles)
    contract.require(
        known == tiles, "live_blocks", f"[U={tiles}] for N={N} tokens by {X}", f"U = {known}"
    )


def tile_pointers(contract: Contract) -> tuple[str | None, str | None, str | None]:
    """What says where a batch's tiles lie; nothing does where tile u begins at token u*X."""
    if "tiled" in contract.sizes:
        return "tile_first", "tile_tokens", "tile_count"
    return None, None, None


def check_sharers(contract: Contract, sharers: int) -> int:
    """Binds X, neighbouring tokens that share their KV."""
    X = contract.integer("sharers", sharers, 1, MAX_SHARERS)
    contract.require(
        X & (X - 1) == 0, "sharers", f"a power of two in 1..{MAX_SHARERS}", str(sharers)
    )
    contract.sizes["sharers"] = contract.sizes["X"] = X
    return X


def page_shift(B: int) -> int:
    """log2 of the page size, or -1 where it is not a power of two."""
    return B.bit_length() - 1 if B > 0 and B & (B - 1) == 0 else -1


def pool_rows(contract: Contract, name: str) -> tuple[int, int]:
    """Of a pool the numbers that its rows take, and those from a page to the next."""
    pages, B = contract[f"{name}_pages"], contract[f"{name}_B"]
    gap = POOL_GAP if contract[f"{name}_kv_stride"] > B * contract["C"] else 0
    return max(pages * (B + gap) - gap, 0), B + gap


def check_pool(contract: Contract, name: str) -> None:
    """What the shape of a pool does not say: what int32 counts of it."""
    B, (rows, _), stride = contract[f"{name}_B"], pool_rows(contract, name), f"{name}_kv_stride"
    contract.require(B >= 1, f"{name}_kv", "[pages, B, C] with B >= 1", "B = 0")
    contract.require(rows < 2**31, f"{name}_kv", "a pool of < 2**31 rows", f"{rows} rows")
    apart = contract[stride]
    contract.require(
        apart < 2**31, f"{name}_kv", "pages < 2**31 elements apart", f"{apart} elements"
    )


def page_block(contract: Contract, target: Target) -> int:
    """Elements that a page is whole blocks of from the next. A GPU loads 16 bytes of a row at once,
    from a multiple of 16 bytes only; Ascend's transfers begin at any element of global memory."""
    return min(8, contract["C"]) if target.kind == "cuda" else 1


def page_blocks(contract: Contract, target: Target, name: str) -> int:
    """Such blocks from a pool's page to the next."""
    block, stride = page_block(contract, target), contract[f"{name}_kv_stride"]
    apart = f"pages whole {block}-element blocks apart on {target.kind}"
    contract.require(stride % block == 0, f"{name}_kv", apart, f"{stride} elements")
    return stride // block


def pool(contract: Contract, name: str) -> str:
    """A pool, or where it has no pages another buffer of its dtype.

    Every slot behind an empty table or pool is dead, but the clamped address that its lanes read
    must exist.
    """
    return f"{name}_kv" if contract[f"{name}_pages"] else "kv_overlay"


def table(contract: Contract, name: str) -> str:
    """A block table, or where it has no entries another buffer of its dtype, as `pool`."""
    return f"{name}_block_table" if contract[f"{name}_entries"] else "cmp_sparse_lens"


def slot_numbers(contract: Contract) -> tuple[str | int, ...]:
    """What the kernels that resolve slots take beside pointers, in their order; by name what
    differs by run and wave."""
    ori_entries, cmp_entries, ori_pages, cmp_pages, T, window, N, K, KP = (
        contract[letter]
        for letter in (
            "ori_entries", "cmp_entries", "ori_pages", "cmp_pages", "T", "window", "N", "K", "KP",
        )
    )  # fmt: skip
    numbers = ("num_tokens", "first_token", T, window, N, K, KP)
    return (ori_entries, cmp_entries, ori_pages, cmp_pages, *numbers)
