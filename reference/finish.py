"""Attention in lanes, last: the rope columns turned back."""

from __future__ import annotations

import torch

from reference import inverse_rope as by_group
from reference.bounds import Bound, Inputs, Outputs


def finish(
    o_rope: torch.Tensor,  # [N, H, P] fp32
    live_slots: torch.Tensor,  # [N] int32
    freqs_cos: torch.Tensor,  # [N, P] bf16
    freqs_sin: torch.Tensor,  # [N, P] bf16
    o_heads: torch.Tensor,  # [N, G, J] bf16
) -> torch.Tensor:
    """inverse_rope of heads that lie token by token; a token with no live slot is zeros in all of
    its columns."""
    packed = o_heads.transpose(0, 1)
    turned = by_group.inverse_rope(o_rope, live_slots, freqs_cos, freqs_sin, packed)
    return torch.where((live_slots > 0)[:, None, None], turned.transpose(0, 1), 0.0).contiguous()


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """inverse_rope's own."""
    packed = {"o_packed": want["o_heads"].transpose(0, 1)}
    own = by_group.bound(inputs, packed)["o_packed"]
    assert isinstance(own.allowed, torch.Tensor)
    return {"o_heads": Bound(own.allowed.transpose(0, 1), own.because)}
