"""Segment 3: attention to one block of columns at a time."""

from __future__ import annotations

import torch

from reference.bounds import EXP_ERROR, Bound, Inputs, Outputs, U, sum_error
from reference.resolve_slots import BLOCK_COLUMNS


def qk_softmax_pv(
    q: torch.Tensor,  # [N, H, C] bf16
    kv: torch.Tensor,  # [U, KP, C] bf16
    bias: torch.Tensor,  # [N, KP] fp32
    live_blocks: torch.Tensor,  # [U] int32
    *,
    softmax_scale: float | None = None,
    sharers: int = 1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per block: S = (q . kv^T) * scale + bias, m = max S, P = exp(S - m), l = sum P, o = P . kv.

    Blocks behind live_blocks count for nothing, whatever stands here for them. Both dots are the
    fp32 nearest to the exact sum. l sums the fp32 P; o takes P rounded to bf16.
    Returns m, l [N, NB, H] and o [N, NB, H, C], fp32.
    """
    N, _, C = q.shape
    NB = kv.shape[1] // BLOCK_COLUMNS
    scale = C**-0.5 if softmax_scale is None else softmax_scale
    kv = kv.repeat_interleave(sharers, dim=0)[:N].view(N, NB, BLOCK_COLUMNS, C).double()
    bias = bias.view(N, NB, 1, BLOCK_COLUMNS)

    scores = (q.double()[:, None] @ kv.transpose(-1, -2)).float() * scale + bias
    m = scores.amax(dim=-1)
    p = torch.exp(scores - m[..., None])
    l = p.sum(dim=-1)
    o = (p.bfloat16().double() @ kv).float()
    return m, l, o


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """The error of a score, carried through exp and P."""
    q, kv, bias = (inputs[name].cpu().float() for name in ("q", "kv", "bias"))
    N, _, C = q.shape
    X = inputs.get("sharers", 1)
    kv = kv.repeat_interleave(X, dim=0)[:N]
    live_blocks = inputs["live_blocks"].cpu().long().repeat_interleave(X)[:N, None, None]
    NB = want["m"].shape[1]
    scale = C**-0.5
    kv = kv.view(N, NB, kv.shape[1] // NB, C)
    bias = bias.view(N, NB, 1, bias.shape[1] // NB)
    scores = torch.einsum("nhc,nbkc->nbhk", q, kv) * scale + bias
    magnitude = torch.einsum("nhc,nbkc->nbhk", q.abs(), kv.abs()) * scale
    score_error = (sum_error(C, magnitude) + 4 * U * magnitude).amax(dim=-1)  # [N, NB, H]

    m = want["m"].cpu().double()
    p = torch.exp(scores.double() - m[..., None])
    # exp's argument carries the errors of score and maximum and the rounding of their difference.
    p_error = p * (2 * score_error[..., None] + U * (scores - m[..., None]).abs() + EXP_ERROR)
    l_error = p_error.sum(-1) + sum_error(p.shape[-1], p.sum(-1))
    # bf16(P) moves by a spacing where its error reaches a tie, and not at all elsewhere.
    low, high = (p - p_error).bfloat16().double(), (p + p_error).bfloat16().double()
    kv = kv.double().abs()
    o_error = torch.einsum("nbhk,nbkc->nbhc", high - low, kv)
    o_error += sum_error(p.shape[-1], torch.einsum("nbhk,nbkc->nbhc", p, kv))
    because = {
        "m": (score_error, "a dot product of C terms in any order"),
        "l": (l_error, "the scores' error through exp, and a sum of 128 terms"),
        "o": (
            o_error,
            "P within its error of a bf16 tie moves one spacing; 128 terms in any parts",
        ),
    }
    dead = (torch.arange(NB)[:, None] >= live_blocks).expand(m.shape)  # [N, NB, H]
    left = {"m": dead, "l": dead, "o": dead[..., None].expand(o_error.shape)}
    return {name: Bound(*of, left=left[name]) for name, of in because.items()}
