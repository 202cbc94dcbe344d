"""Attention in lanes, second: softmax of whole rows, the sink in the denominator only."""

from __future__ import annotations

import torch

from reference.bounds import EXP_ERROR, Bound, Inputs, Outputs, U, narrowed, sum_error
from reference.qk import behind
from reference.resolve_slots import NEG


def softmax(
    scores: torch.Tensor,  # [N, H, KP] fp32
    bias: torch.Tensor,  # [N, KP] fp32
    live_blocks: torch.Tensor,  # [U] int32
    attn_sink: torch.Tensor,  # [H] fp32
    *,
    softmax_scale: float,
    sharers: int = 1,
) -> torch.Tensor:
    """p [N, H, KP] bf16 = exp(S - m) / (sum exp(S - m) + exp(sink - m)), S = scores * scale + bias
    over the live blocks, m their largest; zeros behind them. Rounded once."""
    scaled, dead = _scaled(scores, bias, live_blocks, softmax_scale, sharers)
    m = scaled.amax(dim=-1, keepdim=True)
    e = torch.exp(scaled - m)
    e = torch.where(dead, 0.0, e)
    l = e.sum(dim=-1, keepdim=True) + torch.exp(attn_sink[:, None] - m)
    return torch.where(dead, 0.0, e / l).bfloat16()


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """fp32 arithmetic, then one rounding: equal, unless that reaches a tie."""
    scores, bias, live_blocks, sink = (
        inputs[name].cpu() for name in ("scores", "bias", "live_blocks", "attn_sink")
    )
    X, scale = inputs.get("sharers", 1), inputs["softmax_scale"]
    scaled, dead = _scaled(scores, bias, live_blocks, scale, X)
    m = scaled.amax(dim=-1, keepdim=True).double()
    e = torch.where(dead, 0.0, torch.exp(scaled.double() - m))
    of_sink = torch.exp(sink.double()[:, None] - m)
    l = e.sum(dim=-1, keepdim=True) + of_sink
    exact = torch.where(dead, 0.0, e / l)
    # Scale and bias round a score; exp's argument carries that of score and maximum.
    of_scores = 2 * U * (scores.double() * scale).abs()
    of_scores = torch.where(dead, 0.0, of_scores).nan_to_num(0.0, 0.0)
    largest = of_scores.amax(dim=-1, keepdim=True)
    of_exp = of_scores + largest + U * (scaled.double() - m).abs().clamp_max(200.0) + EXP_ERROR
    # The sum goes by pieces, each rescaled by an exp of its own.
    terms = scores.shape[-1]
    of_sum = (e * of_exp).sum(-1, keepdim=True) + sum_error(terms, e.sum(-1, keepdim=True))
    of_sum = of_sum + (largest + 4 * EXP_ERROR) * l.nan_to_num(0.0, 0.0)
    relative = of_exp + (of_sum / l).nan_to_num(0.0, 0.0) + 2 * U
    allowed = narrowed(exact, exact.nan_to_num(0.0, 0.0) * relative, want["p"].cpu())
    because = "fp32, then one rounding to bf16: equal, unless the error reaches a tie"
    return {"p": Bound(allowed, because, left=dead.expand(allowed.shape))}


def _scaled(
    scores: torch.Tensor,
    bias: torch.Tensor,
    live_blocks: torch.Tensor,
    scale: float,
    sharers: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """S, NEG behind the live blocks; and what lies there, [N, 1, KP] bool."""
    dead = behind(live_blocks, sharers, len(bias), bias.shape[1])[:, None]
    scaled = torch.where(dead, 0.0, scores) * torch.tensor(scale, dtype=torch.float32)
    return torch.where(dead, NEG, scaled + torch.where(dead, 0.0, bias[:, None])), dead
