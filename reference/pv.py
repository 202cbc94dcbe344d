"""Attention in lanes, third: normalised P times KV, over all live blocks at once."""

from __future__ import annotations

import torch

from reference.bounds import Bound, Inputs, Outputs, narrowed, sum_error
from reference.qk import behind, of_tokens


def pv(
    p: torch.Tensor,  # [N, H, KP] bf16
    kv: torch.Tensor,  # [U, KP, C] bf16
    live_blocks: torch.Tensor,  # [U] int32
    *,
    groups: int,
    rope_dim: int,
    sharers: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(o_heads [N, G, J] bf16, its rope columns zeros for `finish` to fill; o_rope [N, H, P] fp32).

    o is the fp32 nearest to the exact sum over the live blocks; `finish` clears tokens with none.
    """
    N, H, C = *p.shape[:2], kv.shape[2]
    p, kv = _live(p, kv, live_blocks, sharers)
    o = (p @ kv).float()
    nope = o.bfloat16()
    nope[..., C - rope_dim :] = 0
    return nope.view(N, groups, H // groups * C), o[..., C - rope_dim :].contiguous()


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """A sum of KP terms in any parts; then one rounding where a column is not rotated."""
    p, kv, live_blocks = (inputs[name].cpu() for name in ("p", "kv", "live_blocks"))
    P, G = inputs["rope_dim"], inputs["groups"]
    N, H, KP = p.shape
    C = kv.shape[2]
    p, kv = _live(p, kv, live_blocks, inputs.get("sharers", 1))
    error = sum_error(KP, p.abs() @ kv.abs()).nan_to_num(0.0, 0.0)
    o_heads = want["o_heads"].cpu().view(N, H, C)
    allowed = narrowed(p @ kv, error, o_heads).view(N, G, H // G * C)
    rope_columns = torch.arange(H // G * C) % C >= C - P
    nothing = (live_blocks <= 0).repeat_interleave(inputs.get("sharers", 1))[:N, None, None]
    because = "KP terms in any parts, then one rounding: equal, unless the error reaches a tie"
    return {
        "o_heads": Bound(allowed, because, left=rope_columns | nothing.expand(allowed.shape)),
        "o_rope": Bound(
            error[..., C - P :],
            "KP terms in any parts, not rounded",
            left=nothing.expand(N, H, P),
        ),
    }


def _live(
    p: torch.Tensor, kv: torch.Tensor, live_blocks: torch.Tensor, sharers: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """P and every token's KV in fp64, zeros behind the live blocks."""
    N, _, KP = p.shape
    dead = behind(live_blocks, sharers, N, KP)
    p = torch.where(dead[:, None], 0.0, p.double())
    return p, torch.where(dead[..., None], 0.0, of_tokens(kv, sharers, N).double())
