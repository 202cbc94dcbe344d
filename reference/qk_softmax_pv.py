"""Segment 3: attention to one block of columns at a time."""

from __future__ import annotations

import torch

from reference.gather_kv import BLOCK_COLUMNS


def qk_softmax_pv(
    q: torch.Tensor,  # [N, H, C] bf16
    kv: torch.Tensor,  # [N, KP, C] bf16
    bias: torch.Tensor,  # [N, KP] fp32
    *,
    softmax_scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per block: S = (q . kv^T) * scale + bias, m = max S, P = exp(S - m), l = sum P, o = P . kv.

    Both dots are the fp32 nearest to the exact sum. l sums the fp32 P; o takes P rounded to bf16.
    Returns m, l [N, NB, H] and o [N, NB, H, C], fp32.
    """
    N, _, C = q.shape
    NB = kv.shape[1] // BLOCK_COLUMNS
    scale = C**-0.5 if softmax_scale is None else softmax_scale
    kv = kv.view(N, NB, BLOCK_COLUMNS, C).double()
    bias = bias.view(N, NB, 1, BLOCK_COLUMNS)

    scores = (q.double()[:, None] @ kv.transpose(-1, -2)).float() * scale + bias
    m = scores.amax(dim=-1)
    p = torch.exp(scores - m[..., None])
    l = p.sum(dim=-1)
    o = (p.bfloat16().double() @ kv).float()
    return m, l, o
