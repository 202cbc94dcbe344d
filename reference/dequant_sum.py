"""Segment 9: partial sums under their scales."""

from __future__ import annotations

import torch


def dequant_sum(
    partial: torch.Tensor,  # [G, N, D] int32
    scale: torch.Tensor,  # [G, N] fp32
    wo_b_scale: torch.Tensor,  # [D] fp32
) -> torch.Tensor:
    """bf16((sum over g ascending of fp32(partial[g]) * scale[g, t]) * wo_b_scale[d]): [N, D].

    Product and sum round one after the other (no fused multiply-add).
    """
    acc = torch.zeros(partial.shape[1:])
    for g in range(partial.shape[0]):
        acc = acc + partial[g].float() * scale[g][:, None]
    return (acc * wo_b_scale).bfloat16()
