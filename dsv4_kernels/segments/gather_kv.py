"""kv[t, k, :] = the row that slot (t, k) names if it is live, else zeros.

A kernel of its own: a gather inside the attention kernel costs it the split over both vector cores
and doubles its unified buffer. Rows move one at a time, each by one load and one store, because a
row has one source among three pools and a tile-wide masked load would read all three.
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
from dsv4_kernels.segments.cost import Cost, size
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.slots import (
    BLOCK_COLUMNS,
    SLOT_NUMBERS,
    SLOTS,
    check_slots,
    page_shift,
    pool,
    resolve_slot,
    slot_numbers,
    table,
)
from dsv4_kernels.segments.tiles import Budget, Core, Tiles, extent


@dataclass(frozen=True, kw_only=True)
class GatherKvTiles(Tiles):
    """block_k: columns per task. 32 rows are 32 KiB, enough tasks (20 a token at K = 640) to level
    the load over 48 vector cores without paying the task's set-up per row."""

    core: ClassVar[Core] = "AIV"
    block_k: int = extent(32, divides=BLOCK_COLUMNS)

    @classmethod
    def cuda(cls) -> GatherKvTiles:
        """A warp a program: a row of 1 KiB is two 16-byte loads a lane, and what hides latency is
        the number of rows under way. A multiprocessor holds 32 programs, so 32 rows are, 32 KiB
        against the 17 KiB that cover its share of the bandwidth. 4 columns a task make 20 480 tasks
        of FLASH, 4.85 rounds of 132 x 32, 97 % full; 8 columns make 2.42 rounds, 81 % full."""
        return cls(block_k=4, num_warps=1)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """A doubled row for each of the three pools and one of zeros, C bf16 each."""
        return Budget(ub=7 * sizes["C"] * 2)


@triton.jit(
    do_not_specialize=[
        "ori_entries", "cmp_entries", "ori_pages", "cmp_pages", "num_tokens", "first_token",
        "chunk_tokens", "window", "N", "K", "KP",
    ]
)  # fmt: skip
def _gather_kv_kernel(
    ori_kv_ptr,  # [ori_pages, B, C] bf16
    ori_block_table_ptr,  # [ori_entries] int32
    kv_overlay_ptr,  # [T, C] bf16
    cmp_kv_ptr,  # [cmp_pages, B, C] bf16
    cmp_block_table_ptr,  # [cmp_entries] int32
    cmp_sparse_indices_ptr,  # [N, K] int32
    cmp_sparse_lens_ptr,  # [N] int32
    kv_ptr,  # [N, KP, C] bf16
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
    C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # One task: BLOCK_K neighbouring columns of one token, row by row.
    c = tl.arange(0, C)
    blocks = KP // BLOCK_K
    for task in range(tl.program_id(0), N * blocks, tl.num_programs(0)):
        t = task // blocks
        k0 = task % blocks * BLOCK_K
        length = tl.minimum(tl.load(cmp_sparse_lens_ptr + t), K)
        length = tl.where(first_token + t < num_tokens, length, 0)
        indices_ptr = cmp_sparse_indices_ptr + t.to(tl.int64) * K
        rows_ptr = kv_ptr + (t.to(tl.int64) * KP + k0) * C
        for i in range(BLOCK_K):
            k = k0 + i
            raw = tl.load(indices_ptr + tl.minimum(k, K - 1))
            in_ring, in_overlay, in_cmp, row = resolve_slot(
                raw, k < length, ori_block_table_ptr, cmp_block_table_ptr, ori_entries,
                cmp_entries, ori_pages, cmp_pages, num_tokens, chunk_tokens, window, B, B_SHIFT,
            )  # fmt: skip
            offset = row.to(tl.int64) * C
            values = tl.zeros((C,), tl.bfloat16)
            if in_ring:
                values = tl.load(ori_kv_ptr + offset + c)
            elif in_overlay:
                values = tl.load(kv_overlay_ptr + offset + c)
            elif in_cmp:
                values = tl.load(cmp_kv_ptr + offset + c)
            tl.store(rows_ptr + i * C + c, values)


def _check(contract: Contract, **numbers: int) -> None:
    check_slots(contract, **numbers)
    contract.power_of_two("C", "kv_overlay")


def _launch(contract: Contract, target: Target, tiles: GatherKvTiles) -> Launch:
    N, KP, B = (contract[letter] for letter in ("N", "KP", "B"))
    return Launch(
        _gather_kv_kernel,
        target.grid("vector", N * (KP // tiles.block_k)),
        (
            pool(contract, "ori"), table(contract, "ori"), "kv_overlay",
            pool(contract, "cmp"), table(contract, "cmp"), "cmp_sparse_indices",
            "cmp_sparse_lens", "kv", *slot_numbers(contract),
        ),
        dict(
            B=B, B_SHIFT=page_shift(B), C=contract["C"], BLOCK_K=tiles.block_k,
            **tiles.options(target),
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
    "gather_kv", GatherKvTiles, reads=SLOTS, writes=("kv",), numbers=SLOT_NUMBERS,
    check=_check, launch=_launch, cost=_cost,
)  # fmt: skip


def gather_kv(
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
    kv: torch.Tensor | None = None,
    tiles: GatherKvTiles | None = None,
) -> torch.Tensor:
    """Gather each token's KV rows (spec segment 1): moves only, no arithmetic.

    Args:
        cmp_sparse_indices, cmp_sparse_lens: the rows of tokens first_token .. first_token + N - 1
            of the chunk; the indices' values are the raw index contract of `slots.py`.
        num_tokens: live tokens of the chunk, 0..T.
        window: rows of the window ring, i.e. where raw indices start to mean the overlay.
        kv: output, [N, KP, C] bf16 with KP = K rounded up to a multiple of 128.

    Returns kv; dead slots and padding columns are rows of zeros. Raises ContractError.
    """
    return SEGMENT(
        tiles, ori_kv=ori_kv, ori_block_table=ori_block_table, kv_overlay=kv_overlay,
        cmp_kv=cmp_kv, cmp_block_table=cmp_block_table, cmp_sparse_indices=cmp_sparse_indices,
        cmp_sparse_lens=cmp_sparse_lens, num_tokens=num_tokens, window=window,
        first_token=first_token, kv=kv,
    )  # fmt: skip
