"""Segment 1: each token's KV rows, side by side."""

from __future__ import annotations

import torch

from reference.bounds import Bound, Inputs, Outputs, exact
from reference.slots import COMPRESSED, OVERLAY, RING, resolve_slots

BLOCK_COLUMNS = 128  # K is padded to whole blocks of the attention


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
) -> torch.Tensor:
    """kv[t, k, :] = the live row that slot (t, k) names, else zeros: [N, KP, C] bf16."""
    live, pool, row = resolve_slots(
        ori_kv, ori_block_table, kv_overlay, cmp_kv, cmp_block_table,
        cmp_sparse_indices, cmp_sparse_lens, num_tokens, window, first_token,
    )  # fmt: skip
    N, K = live.shape
    KP = -(-K // BLOCK_COLUMNS) * BLOCK_COLUMNS
    kv = torch.zeros(N, KP, kv_overlay.shape[1], dtype=torch.bfloat16)
    for which, rows in ((RING, ori_kv), (OVERLAY, kv_overlay), (COMPRESSED, cmp_kv)):
        here = live & (pool == which)
        kv[:, :K][here] = rows.flatten(0, -2)[row[here]]
    return kv


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """The same bytes."""
    return exact(want, "moves only: the same bytes")
