"""Segment 2: which columns count."""

from __future__ import annotations

import torch

from reference.bounds import Bound, Inputs, Outputs, exact
from reference.gather_kv import BLOCK_COLUMNS
from reference.slots import resolve_slots

NEG = -3.4028234663852886e38  # the lowest finite fp32


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
) -> tuple[torch.Tensor, torch.Tensor]:
    """bias[t, k] = 0 if live, else NEG: [N, KP] fp32; and live slots per token, [N] int32."""
    live, _, _ = resolve_slots(
        ori_kv, ori_block_table, kv_overlay, cmp_kv, cmp_block_table,
        cmp_sparse_indices, cmp_sparse_lens, num_tokens, window, first_token,
    )  # fmt: skip
    N, K = live.shape
    bias = torch.full((N, -(-K // BLOCK_COLUMNS) * BLOCK_COLUMNS), NEG)
    bias[:, :K][live] = 0.0
    return bias, live.sum(dim=1, dtype=torch.int32)


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """The same bytes."""
    return exact(want, "0, NEG and counts: the same bytes")
