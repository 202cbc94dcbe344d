"""Which slots are live, and the row each one names (spec section 4)."""

from __future__ import annotations

import torch

RING, OVERLAY, COMPRESSED = 0, 1, 2


def named_rows(
    ori_kv: torch.Tensor,  # [pages, B, C]
    ori_block_table: torch.Tensor,  # [n] int32
    kv_overlay: torch.Tensor,  # [T, C]
    cmp_kv: torch.Tensor,  # [pages, B, C]
    cmp_block_table: torch.Tensor,  # [m] int32
    cmp_sparse_indices: torch.Tensor,  # [N, K] int32
    cmp_sparse_lens: torch.Tensor,  # [N] int32
    num_tokens: int,
    window: int,
    first_token: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(live [N, K] bool, pool [N, K], row [N, K] int64); row is 0 where a slot is dead."""
    T, B = kv_overlay.shape[0], ori_kv.shape[1]
    N, K = cmp_sparse_indices.shape
    raw = cmp_sparse_indices.long()
    token = first_token + torch.arange(N)[:, None]
    usable = (token < num_tokens) & (torch.arange(K) < cmp_sparse_lens.long()[:, None])

    in_ring = (raw >= 0) & (raw < window)
    in_overlay = (raw >= window) & (raw < window + T)
    in_cmp = raw >= window + T
    ring_inside, ring_row = _through_table(raw, ori_block_table, ori_kv.shape[0], B)
    cmp_inside, cmp_row = _through_table(raw - window - T, cmp_block_table, cmp_kv.shape[0], B)

    live = usable & (
        (in_ring & ring_inside) | (in_overlay & (raw - window < num_tokens)) | (in_cmp & cmp_inside)
    )
    pool = torch.where(in_ring, RING, torch.where(in_overlay, OVERLAY, COMPRESSED))
    row = torch.where(in_ring, ring_row, torch.where(in_overlay, raw - window, cmp_row))
    return live, pool, torch.where(live, row, 0)


def _through_table(
    slot: torch.Tensor, block_table: torch.Tensor, pages: int, B: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether a slot's logical page is in the table and its physical page in the pool; the row."""
    logical = slot.div(B, rounding_mode="floor")
    in_table = (logical >= 0) & (logical < len(block_table))
    # A last entry of -1 stands for everything that is outside of the table.
    table = torch.cat([block_table.long(), torch.tensor([-1])])
    physical = table[torch.where(in_table, logical, len(block_table))]
    return (physical >= 0) & (physical < pages), physical * B + slot.remainder(B)
