"""Segment 6: first half of the output projection."""

from __future__ import annotations

import torch


def proj_a(
    o_packed: torch.Tensor,  # [G, N, J] bf16
    wo_a: torch.Tensor,  # [G, R, J] bf16
) -> torch.Tensor:
    """o_r[t, g, r] = sum_j o_packed[g, t, j] * wo_a[g, r, j] in fp32, not rounded: [N, G, R]."""
    return (o_packed.float() @ wo_a.float().transpose(1, 2)).transpose(0, 1).contiguous()
