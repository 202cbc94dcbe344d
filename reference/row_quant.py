"""row_barrier's quant: one scale per token."""

from __future__ import annotations

import torch

from reference.bounds import Bound, Inputs, Outputs, U
from reference.group_quant import bound as group_bound
from reference.group_quant import quantise


def row_quant(o_r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One amax per token: codes [N, G, R] int8 and row_scale [N] fp32, from o_r [N, G, R] fp32.

    A token with a NaN or Inf has scale NaN; its codes are unspecified.
    """
    codes, scale = quantise(o_r, "row")
    return codes, scale[:, 0, 0].contiguous()


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """As group_quant's."""
    G = want["codes"].shape[1]
    by_group = {"scale": want["row_scale"].expand(G, -1), "codes": want["codes"]}
    bounds = group_bound(inputs, by_group)
    row_scale = want["row_scale"].cpu().double().nan_to_num(0.0)
    return {
        "codes": bounds["codes"],
        "row_scale": Bound(4 * U * row_scale, bounds["scale"].because),
    }
