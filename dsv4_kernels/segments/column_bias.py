"""bias[t, k] = 0 if slot (t, k) is live, else NEG; live_slots[t] = how many of them are live.

The bias is one row per token, shared by all heads: qk_softmax_pv adds it to the scores with a
single broadcast add. live_slots lets merge_norm and inverse_rope give exact zeros for a token that
attends to nothing, whatever bits its query or its rotation holds.
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
from dsv4_kernels.segments.cost import Cost, moved
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.slots import (
    BLOCK_COLUMNS,
    SLOT_NUMBERS,
    SLOTS,
    check_slots,
    page_shift,
    resolve_slot,
    slot_numbers,
    table,
)
from dsv4_kernels.segments.tiles import Budget, Core, Tiles, extent

# The lowest finite fp32. NEG + score rounds to NEG, exp(NEG - m) is 0 next to any live score, and
# an all-dead block has NEG - NEG = 0 where -inf - -inf would be NaN.
NEG = -3.4028234663852886e38


@dataclass(frozen=True, kw_only=True)
class ColumnBiasTiles(Tiles):
    """block_k: columns at a time; 128 int32 are 512 B, the shortest transfer that fills a line."""

    core: ClassVar[Core] = "AIV"
    block_k: int = extent(BLOCK_COLUMNS, divides=BLOCK_COLUMNS)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """25 vectors of block_k 4-byte values: resolve_slot's intermediates, loads doubled."""
        return Budget(ub=25 * self.block_k * 4)


@triton.jit(
    do_not_specialize=[
        "ori_entries", "cmp_entries", "ori_pages", "cmp_pages", "num_tokens", "first_token",
        "chunk_tokens", "window", "N", "K", "KP",
    ]
)  # fmt: skip
def _column_bias_kernel(
    ori_block_table_ptr,  # [ori_entries] int32
    cmp_block_table_ptr,  # [cmp_entries] int32
    cmp_sparse_indices_ptr,  # [N, K] int32
    cmp_sparse_lens_ptr,  # [N] int32
    bias_ptr,  # [N, KP] fp32
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
    BLOCK_K: tl.constexpr,
):
    # One task: one token, BLOCK_K columns at a time.
    for t in range(tl.program_id(0), N, tl.num_programs(0)):
        length = tl.minimum(tl.load(cmp_sparse_lens_ptr + t), K)
        length = tl.where(first_token + t < num_tokens, length, 0)
        indices_ptr = cmp_sparse_indices_ptr + t.to(tl.int64) * K
        row_ptr = bias_ptr + t.to(tl.int64) * KP
        live_slots = 0
        for k0 in range(0, KP, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            raw = tl.load(indices_ptr + k, mask=k < K, other=-1)
            in_ring, in_overlay, in_cmp, _ = resolve_slot(
                raw, k < length, ori_block_table_ptr, cmp_block_table_ptr, ori_entries,
                cmp_entries, ori_pages, cmp_pages, num_tokens, chunk_tokens, window, B, B_SHIFT,
            )  # fmt: skip
            live = in_ring | in_overlay | in_cmp
            tl.store(row_ptr + k, tl.where(live, 0.0, DEAD))
            live_slots += tl.sum(live.to(tl.int32), axis=0)
        tl.store(live_slots_ptr + t, live_slots)


def _launch(contract: Contract, target: Target, tiles: ColumnBiasTiles) -> Launch:
    B = contract["B"]
    return Launch(
        _column_bias_kernel,
        target.grid("vector", contract["N"]),
        (
            table(contract, "ori"), table(contract, "cmp"), "cmp_sparse_indices",
            "cmp_sparse_lens", "bias", "live_slots", *slot_numbers(contract),
        ),
        dict(
            B=B, B_SHIFT=page_shift(B), DEAD=NEG, BLOCK_K=tiles.block_k, **tiles.options(target)
        ),
    )  # fmt: skip


def _cost(tensors: Mapping[str, torch.Tensor], live_keys: int | None = None) -> Cost:
    """Of the pools it takes the shapes only."""
    pools = ("ori_kv", "kv_overlay", "cmp_kv")
    return moved({name: tensor for name, tensor in tensors.items() if name not in pools})


# Two page tables looked up by index, a load per column: that has no vector form.
SEGMENT = Segment(
    "column_bias", ColumnBiasTiles, reads=SLOTS, writes=("bias", "live_slots"),
    numbers=SLOT_NUMBERS, check=check_slots, launch=_launch, cost=_cost, scalar_loops=2,
)  # fmt: skip


def column_bias(
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
    bias: torch.Tensor | None = None,
    live_slots: torch.Tensor | None = None,
    tiles: ColumnBiasTiles | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which columns of each token are live (spec segment 2).

    The arguments are gather_kv's: the same slots, the same contract. The pools are not read, only
    their sizes.

    Returns (bias [N, KP] fp32 of 0 and NEG, padding columns NEG; live_slots [N] int32). Raises
    ContractError.
    """
    return SEGMENT(
        tiles, ori_kv=ori_kv, ori_block_table=ori_block_table, kv_overlay=kv_overlay,
        cmp_kv=cmp_kv, cmp_block_table=cmp_block_table, cmp_sparse_indices=cmp_sparse_indices,
        cmp_sparse_lens=cmp_sparse_lens, num_tokens=num_tokens, window=window,
        first_token=first_token, bias=bias, live_slots=live_slots,
    )  # fmt: skip
