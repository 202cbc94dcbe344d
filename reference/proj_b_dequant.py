"""row_barrier's second projection: one INT32 sum over all groups, dequantised at its end."""

from __future__ import annotations

import torch

from reference.bounds import ROUNDING_FLIPS, Bound, Inputs, Outputs, U, spacing
from reference.proj_b import proj_b


def proj_b_dequant(
    codes: torch.Tensor,  # [N, G, R] int8
    wo_b: torch.Tensor,  # [D, G*R] int8
    row_scale: torch.Tensor,  # [N] fp32
    wo_b_scale: torch.Tensor,  # [D] fp32
) -> torch.Tensor:
    """bf16(fp32(sum over all g, r) * row_scale[t] * wo_b_scale[d]): [N, D]."""
    total = proj_b(codes, wo_b).sum(dim=0, dtype=torch.int32)
    return (total.float() * row_scale[:, None] * wo_b_scale).bfloat16()


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """An exact sum, and one rounding."""
    out = want["attn_out"].cpu()
    error = 4 * U * out.double().abs().nan_to_num(0.0, 0.0)
    return {
        "attn_out": Bound(
            error + spacing(out, torch.bfloat16),
            "an exact sum, three fp32 roundings, one to bf16: at most the neighbouring bf16",
            ROUNDING_FLIPS,
        )
    }
