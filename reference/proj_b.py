"""Segment 8: second half of the output projection, a partial sum per group."""

from __future__ import annotations

import torch

from reference.bounds import Bound, Inputs, Outputs, exact


def proj_b(
    codes: torch.Tensor,  # [N, G, R] int8
    wo_b: torch.Tensor,  # [D, G*R] int8
) -> torch.Tensor:
    """partial[g, t, d] = sum_r codes[t, g, r] * wo_b[d, g*R + r]: [G, N, D] int32, exact.

    fp64 holds every product and sum exactly (below 2**53), and multiplies faster than int32 does.
    """
    _, G, R = codes.shape
    a = codes.transpose(0, 1).double()  # [G, N, R]
    w = wo_b.view(-1, G, R).permute(1, 2, 0)  # [G, R, D]
    return torch.stack([a[g] @ w[g].double() for g in range(G)]).to(torch.int32)


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """The same integers."""
    return exact(want, "int8 products in int32: exact")
