"""The one definition of a live slot, used by gather_kv and column_bias alike.

    raw < 0                       unused
    raw in [0, window)            row `raw` of the window ring, through ori_block_table
    raw in [window, window + T)   row `raw - window` of kv_overlay
    raw >= window + T             compressed slot `raw - window - T`, through cmp_block_table

A slot is live iff its token is < num_tokens, its column is below the token's length, raw >= 0, an
overlay row is < num_tokens, a logical page lies in its block table and the physical one in its
pool.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dsv4_kernels.contract import Contract

# Columns that qk_softmax_pv takes at a time, and the multiple that K is padded to: a 128 x 512 bf16
# tile of KV is 128 KiB, which fits the 512 KiB L1 of an Ascend cube core twice (double buffering).
BLOCK_COLUMNS = 128


@triton.jit
def _page(slot, B: tl.constexpr, B_SHIFT: tl.constexpr):
    # Ascend divides int32 vectors in fp32, exact below 2**24 only (check_slots holds B to that);
    # for a power of two a shift is exact everywhere, and one instruction.
    if B_SHIFT >= 0:
        return slot >> B_SHIFT
    else:
        return slot // B


@triton.jit
def resolve_slot(
    raw,  # int32 scalar or tensor: entry of cmp_sparse_indices
    usable,  # bool, like raw: the token is < num_tokens and the column below its length
    ori_block_table_ptr,  # [ori_entries] int32
    cmp_block_table_ptr,  # [cmp_entries] int32
    ori_entries,
    cmp_entries,
    ori_pages,
    cmp_pages,
    num_tokens,
    chunk_tokens,  # T
    window,
    B: tl.constexpr,
    B_SHIFT: tl.constexpr,  # log2(B), or -1 where B is not a power of two
):
    """(in_ring, in_overlay, in_cmp, row): which pool, and the row there.

    At most one of the three flags is true, none for a dead slot. `row` lies inside the pool
    whenever a flag is true and means nothing otherwise.
    """
    usable = usable & (raw >= 0)
    overlay_row = raw - window
    slot = overlay_row - chunk_tokens

    # Both tables are read at clamped places: masked lanes of a load still touch memory on Ascend.
    ring_page = _page(raw, B, B_SHIFT)
    cmp_page = _page(slot, B, B_SHIFT)
    ring_entry = tl.maximum(tl.minimum(ring_page, ori_entries - 1), 0)
    cmp_entry = tl.maximum(tl.minimum(cmp_page, cmp_entries - 1), 0)
    ring_physical = tl.load(ori_block_table_ptr + ring_entry)
    cmp_physical = tl.load(cmp_block_table_ptr + cmp_entry)

    in_ring = usable & (overlay_row < 0) & (ring_page < ori_entries)
    in_ring = in_ring & (ring_physical >= 0) & (ring_physical < ori_pages)
    in_overlay = usable & (overlay_row >= 0) & (slot < 0) & (overlay_row < num_tokens)
    in_cmp = usable & (slot >= 0) & (cmp_page < cmp_entries)
    in_cmp = in_cmp & (cmp_physical >= 0) & (cmp_physical < cmp_pages)

    ring_row = ring_physical * B + (raw - ring_page * B)
    cmp_row = cmp_physical * B + (slot - cmp_page * B)
    row = tl.where(in_ring, ring_row, tl.where(in_cmp, cmp_row, overlay_row))
    return in_ring, in_overlay, in_cmp, row


SLOTS = (
    "ori_kv", "ori_block_table", "kv_overlay", "cmp_kv", "cmp_block_table",
    "cmp_sparse_indices", "cmp_sparse_lens",
)  # fmt: skip
SLOT_NUMBERS = ("num_tokens", "window", "first_token")


def check_slots(contract: Contract, num_tokens: int, window: int, first_token: int) -> None:
    """What the shapes of SLOTS do not say; binds KP and the numbers."""
    rows = contract.rows
    N, T, B, K = (contract[letter] for letter in (rows, "T", "B", "K"))
    contract.require(B >= 1, "ori_kv", "[ori_pages, B, C] with B >= 1", "B = 0")
    contract.require(N <= T, "cmp_sparse_indices", f"[{rows}, K] with {rows} <= T={T}", f"{N} rows")
    contract.sizes["num_tokens"] = contract.integer("num_tokens", num_tokens, 0, T)
    contract.sizes["window"] = contract.integer("window", window, 0, 2**30 - 1)
    contract.sizes["first_token"] = contract.integer("first_token", first_token, 0, T - N)
    contract.require(K >= 1, "cmp_sparse_indices", f"[{rows}, K] with K >= 1", "K = 0")
    for pool in ("ori", "cmp"):
        pool_rows, entries = B * contract[f"{pool}_pages"], contract[f"{pool}_entries"]
        contract.require(
            pool_rows < 2**31, f"{pool}_kv", "a pool of < 2**31 rows", f"{pool_rows} rows"
        )
        contract.require(
            page_shift(B) >= 0 or B * entries <= 2**24,
            f"{pool}_block_table",
            "at most 2**24 slots for a page size that is not a power of two",
            f"{entries} pages of B={B}",
        )
    contract.sizes["KP"] = -(-K // BLOCK_COLUMNS) * BLOCK_COLUMNS


def page_shift(B: int) -> int:
    """log2 of the page size, or -1 where it is not a power of two."""
    return B.bit_length() - 1 if B > 0 and B & (B - 1) == 0 else -1


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
