"""Segment 5: the rope columns turned back."""

from __future__ import annotations

import torch

from reference.bounds import Bound, Inputs, Outputs, U, narrowed


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
    turned = turn_back(o_rope, freqs_cos, freqs_sin)
    turned = torch.where((live_slots > 0)[:, None, None], turned, 0.0).bfloat16()

    heads = o_packed.transpose(0, 1).reshape(N, H, J * G // H).clone()
    heads[..., heads.shape[-1] - P :] = turned
    return heads.view(N, G, J).transpose(0, 1).contiguous()


def turn_back(
    o_rope: torch.Tensor, freqs_cos: torch.Tensor, freqs_sin: torch.Tensor
) -> torch.Tensor:
    """The rotation undone, [N, H, P], computed in o_rope's dtype and not rounded further."""
    pairs = o_rope.shape[-1] // 2
    cos = freqs_cos[:, None, :pairs].to(o_rope.dtype)
    sin = freqs_sin[:, None, :pairs].to(o_rope.dtype)
    even, odd = o_rope[..., 0::2], o_rope[..., 1::2]
    turned = [even * cos + odd * sin, odd * cos - even * sin]
    return torch.stack(turned, dim=-1).view(o_rope.shape)


def turned_error(
    x: torch.Tensor,  # [N, H, P] fp64
    error: torch.Tensor,  # [N, H, P] fp64, of x
    freqs_cos: torch.Tensor,  # [N, P]
    freqs_sin: torch.Tensor,
) -> torch.Tensor:
    """How far fp32's rotation of what is that near to x may be from x's, [N, H, P]."""
    pairs = (x.abs() * 3 * U + error).unflatten(-1, (-1, 2))
    halves = (table[:, None, : pairs.shape[2], None] for table in (freqs_cos, freqs_sin))
    cos, sin = (half.double().abs() for half in halves)
    return (pairs * cos + pairs.flip(-1) * sin).flatten(2).nan_to_num(0.0, 0.0)


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """The error of a rotation; nope columns stay as they were."""
    x = inputs["o_rope"].cpu().double()  # [N, H, P]
    N, H, P = x.shape
    G, _, J = want["o_packed"].shape
    C = J * G // H
    cos, sin = inputs["freqs_cos"].cpu(), inputs["freqs_sin"].cpu()
    error = turned_error(x, torch.zeros_like(x), cos, sin)
    turned = turn_back(x, cos, sin)
    alive = inputs["live_slots"].cpu()[:, None, None] > 0
    heads = want["o_packed"].cpu().transpose(0, 1).reshape(N, H, C)
    allowed = torch.zeros(N, H, C, dtype=torch.float64)
    moved = narrowed(turned, error, heads[..., C - P :])
    allowed[..., C - P :] = torch.where(alive, moved, 0.0)
    return {
        "o_packed": Bound(
            allowed.view(N, G, J).transpose(0, 1),
            "three fp32 roundings, one to bf16: equal, unless they reach a tie; nope columns equal",
        )
    }
