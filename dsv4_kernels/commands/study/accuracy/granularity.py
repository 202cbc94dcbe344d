"""The error that quantised activations cause in the output, by the span that shares an amax.

    error = || (dequantise(quantise(o_r)) - o_r) . wo_b^T || / || o_r . wo_b^T ||

in the Frobenius norm; the weights are not quantised. A group's own error is that of its partial
sum, before the groups are added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from reference.fp8_quant import fp8_quant
from reference.group_quant import dequantise, quantise

Quantise = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

SCHEMES: dict[str, Quantise] = {
    "INT8, row": lambda o_r: quantise(o_r, "row"),
    "INT8, group": lambda o_r: quantise(o_r, "group"),
    "INT8, block of 128": lambda o_r: quantise(o_r, "block"),
    "FP8, block of 128": fp8_quant,
}


@dataclass(frozen=True)
class Errors:
    """Relative errors, 0.01 being one percent.

    all: over all tokens. token_low, token_high: of the best and the worst token.
    worst_group: of the worst group of any token.
    """

    all: float
    token_low: float
    token_high: float
    worst_group: float


def errors(o_r: torch.Tensor, wo_b: torch.Tensor) -> dict[str, Errors]:
    """Every scheme's errors on o_r [T, G, R] fp32 under weights wo_b [D, G*R] fp32.

    The error is multiplied by the weights, not subtracted from a product with them: so fp32 is
    enough for six digits of it.
    """
    T, G, R = o_r.shape
    of_group = wo_b.view(-1, G, R)
    deviations = {name: dequantise(*scheme(o_r)) - o_r for name, scheme in SCHEMES.items()}
    totals = {name: torch.zeros(T, len(wo_b)) for name in ["exact", *SCHEMES]}
    worst = {name: torch.zeros(T) for name in SCHEMES}
    for g in range(G):
        weights = of_group[:, g].T
        exact = o_r[:, g] @ weights
        totals["exact"] += exact
        for name, deviation in deviations.items():
            partial = deviation[:, g] @ weights
            totals[name] += partial
            worst[name] = worst[name].maximum(partial.norm(dim=1) / exact.norm(dim=1))
    exact = totals["exact"].norm(dim=1)
    found = {}
    for name in SCHEMES:
        of_token = totals[name].norm(dim=1)
        found[name] = Errors(
            all=float(of_token.norm() / exact.norm()),
            token_low=float((of_token / exact).min()),
            token_high=float((of_token / exact).max()),
            worst_group=float(worst[name].max()),
        )
    return found
