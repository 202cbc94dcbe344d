"""row_barrier's quant: one scale per token."""

from __future__ import annotations

import torch

from reference.group_quant import quantise


def row_quant(o_r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One amax per token: codes [N, G, R] int8 and row_scale [N] fp32, from o_r [N, G, R] fp32.

    A token with a NaN or Inf has scale NaN; its codes are unspecified.
    """
    codes, scale = quantise(o_r, "row")
    return codes, scale[:, 0, 0].contiguous()
