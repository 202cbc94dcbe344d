"""Segment 6 of heads that lie token by token."""

from __future__ import annotations

import torch

from reference import proj_a
from reference.bounds import Bound, Inputs, Outputs


def proj_a_heads(
    o_heads: torch.Tensor,  # [N, G, J] bf16
    wo_a: torch.Tensor,  # [G, R, J] bf16
) -> torch.Tensor:
    """o_r [N, G, R] fp32."""
    return proj_a.proj_a(o_heads.transpose(0, 1), wo_a)


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """proj_a's own."""
    return proj_a.bound({**inputs, "o_packed": inputs["o_heads"].transpose(0, 1)}, want)
