"""Segment 9: partial sums under their scales."""

from __future__ import annotations

import torch

from reference.bounds import Bound, Inputs, Outputs, U, narrowed


def dequant_sum(
    partial: torch.Tensor,  # [G, N, D] int32
    scale: torch.Tensor,  # [G, N] fp32
    live_slots: torch.Tensor,  # [N] int32
    wo_b_scale: torch.Tensor,  # [D] fp32
) -> torch.Tensor:
    """bf16((sum over g ascending of fp32(partial[g]) * scale[g, t]) * wo_b_scale[d]): [N, D].

    Product and sum round one after the other (no fused multiply-add). A token without a live slot
    gets zeros.
    """
    acc = torch.zeros(partial.shape[1:])
    for g in range(partial.shape[0]):
        acc = acc + partial[g].float() * scale[g][:, None]
    return torch.where(live_slots[:, None] > 0, acc * wo_b_scale, 0.0).bfloat16()


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """The error of a sum of G terms, and one rounding."""
    partial, scale = inputs["partial"].cpu().double(), inputs["scale"].cpu().double()
    columns = inputs["wo_b_scale"].cpu().double().abs()
    magnitude = (partial.abs() * scale[..., None]).sum(0) * columns
    exact = (partial * scale[..., None]).sum(0) * inputs["wo_b_scale"].cpu().double()
    error = (2 * (partial.shape[0] + 2) * U * magnitude).nan_to_num(0.0, 0.0)
    alive = inputs["live_slots"].cpu()[:, None] > 0
    return {
        "attn_out": Bound(
            torch.where(alive, narrowed(exact, error, want["attn_out"].cpu()), 0.0),
            "a sum of G terms, then one rounding: equal, unless its error reaches a tie of bf16",
        )
    }
