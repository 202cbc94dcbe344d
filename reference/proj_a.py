"""Segment 6: first half of the output projection."""

from __future__ import annotations

import torch

from reference.bounds import Bound, Inputs, Outputs, sum_error


def proj_a(
    o_packed: torch.Tensor,  # [G, N, J] bf16
    wo_a: torch.Tensor,  # [G, R, J] bf16
) -> torch.Tensor:
    """o_r[t, g, r] = sum_j o_packed[g, t, j] * wo_a[g, r, j] not rounded to bf16: [N, G, R] fp32.

    The fp32 nearest to the exact sum: an fp64 product, rounded once.
    """
    o_r = [(a.double() @ w.double().T).float() for a, w in zip(o_packed, wo_a, strict=True)]
    return torch.stack(o_r, dim=1)


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """The error of a sum of J terms."""
    a, w = inputs["o_packed"].cpu().float().abs(), inputs["wo_a"].cpu().float().abs()
    magnitude = torch.einsum("gnj,grj->ngr", a, w)
    return {"o_r": Bound(sum_error(a.shape[-1], magnitude), "a dot product of J terms")}
