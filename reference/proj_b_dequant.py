"""row_barrier's second projection: one INT32 sum over all groups, dequantised at its end."""

from __future__ import annotations

import torch

from reference.bounds import Bound, Inputs, Outputs, U, narrowed
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
    total = proj_b(inputs["codes"].cpu(), inputs["wo_b"].cpu()).double().sum(dim=0)
    row_scale, columns = (inputs[k].cpu().double() for k in ("row_scale", "wo_b_scale"))
    exact = total * row_scale[:, None] * columns
    error = 4 * U * exact.abs().nan_to_num(0.0, 0.0)
    alive = inputs["live_slots"].cpu()[:, None] > 0
    return {
        "attn_out": Bound(
            torch.where(alive, narrowed(exact, error, want["attn_out"].cpu()), 0.0),
            "an exact sum, three fp32 roundings, one to bf16: equal, unless they reach a tie of it",
        )
    }
