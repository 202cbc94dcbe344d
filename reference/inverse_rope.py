"""Segment 5: the rope columns turned back."""

from __future__ import annotations

import torch


def inverse_rope(
    o_rope: torch.Tensor,  # [N, H, P] fp32
    live_slots: torch.Tensor,  # [N] int32
    freqs_cos: torch.Tensor,  # [N, P] bf16
    freqs_sin: torch.Tensor,  # [N, P] bf16
    o_packed: torch.Tensor,  # [G, N, J] bf16
) -> torch.Tensor:
    """even' = even*cos + odd*sin, odd' = odd*cos - even*sin in fp32, then one rounding to bf16.

    Returns a copy of o_packed with the last P columns of every head written (the kernel writes in
    place). A token with no live slot gives zeros whatever its cos and sin hold.
    """
    N, H, P = o_rope.shape
    G, _, J = o_packed.shape
    cos = freqs_cos[:, None, : P // 2].float()
    sin = freqs_sin[:, None, : P // 2].float()
    even, odd = o_rope[..., 0::2], o_rope[..., 1::2]
    turned = torch.stack([even * cos + odd * sin, odd * cos - even * sin], dim=-1).view(N, H, P)
    turned = torch.where((live_slots > 0)[:, None, None], turned, 0.0).bfloat16()

    heads = o_packed.transpose(0, 1).reshape(N, H, J * G // H).clone()
    heads[..., heads.shape[-1] - P :] = turned
    return heads.view(N, G, J).transpose(0, 1).contiguous()
