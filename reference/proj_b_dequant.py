"""row_barrier's second projection: one INT32 sum over all groups, dequantised at its end."""

from __future__ import annotations

import torch

from reference.bounds import ROUNDING_FLIPS, Bound, Inputs, Outputs, U, spacing
from reference.proj_b import proj_b


def proj_b_dequant(
    codes: torch.Tensor,  # [N, G, R] int8
    wo_b: torch.Tensor,  # [D, G*R] int8
    row_scale: torch.Tensor,  # [N] fp32
    live_slots: torch.Tensor,  # [N] int32
    wo_b_scale: torch.Tensor,  # [D] fp32
) -> torch.Tensor:
    """bf16(fp32(sum over all g, r) * row_scale[t] * wo_b_scale[d]): [N, D]; zeros for a token
    without a live slot."""
    total = proj_b(codes, wo_b).sum(dim=0, dtype=torch.int32)
    out = total.float() * row_scale[:, None] * wo_b_scale
    return torch.where(live_slots[:, None] > 0, out, 0.0).bfloat16()


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """An exact sum, and one rounding."""
    out = want["attn_out"].cpu()
    error = 4 * U * out.double().abs().nan_to_num(0.0, 0.0)
    alive = inputs["live_slots"].cpu()[:, None] > 0
    return {
        "attn_out": Bound(
            torch.where(alive, error + spacing(out, torch.bfloat16), 0.0),
            "an exact sum, three fp32 roundings, one to bf16: at most the neighbouring bf16",
            ROUNDING_FLIPS,
        )
    }
