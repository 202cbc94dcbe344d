"""How far a segment may be from its reference on the same inputs, and why.

Bounds are computed from the inputs, not chosen. Beside each segment's reference stands `bound`,
which gives, for the segment's inputs and reference outputs, the bound of every output; `judge`
measures one buffer against its bound. What all of them are made of is here.

    u = 2**-24 is fp32's unit roundoff. A sum of n terms taken in two different orders differs by at
    most 2 * LAMBDA * sqrt(n) * u * sum |terms|, with probability 1 - 2n exp(-LAMBDA**2 / 2)
    (Higham and Mary, A new approach to probabilistic rounding error analysis, 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

Inputs = Mapping[str, Any]  # a segment's, tensors and numbers, by argument name
Outputs = Mapping[str, torch.Tensor]  # its reference's, by buffer name

U = 2.0**-24
LAMBDA = 8.0  # failure probability 1e-10 for n = 4096, per element
EXP_ERROR = 4 * U  # two exp functions of at most an ulp each, which is 2 U of a number at most


@dataclass(frozen=True)
class Bound:
    """Largest deviation allowed per element.

    left: True where the segment writes nothing, because the element is another segment's.
    """

    allowed: torch.Tensor | float
    because: str
    left: torch.Tensor | None = None


@dataclass(frozen=True)
class Verdict:
    """What `judge` found.

    used: the largest deviation as a fraction of its bound. share: of elements that deviate.
    """

    buffer: str
    holds: bool
    deviation: float
    used: float
    share: float
    where: str
    because: str

    def __str__(self) -> str:
        state = "holds" if self.holds else "BROKEN"
        return (
            f"{self.buffer}: {state}: largest deviation {self.deviation:.3g} "
            f"({self.used:.2f} of the bound), {100 * self.share:.3g} % of elements differ; "
            f"worst {self.where}; bound: {self.because}"
        )


def judge(buffer: str, got: torch.Tensor, want: torch.Tensor, bound: Bound) -> Verdict:
    """Compare in fp64; NaN and Inf must stand at the same places with the same sign.

    What the bound says is left to another segment is not looked at.
    """
    assert got.shape == want.shape, (got.shape, want.shape)
    assert got.dtype == want.dtype, (got.dtype, want.dtype)
    if got.numel() == 0:
        return Verdict(buffer, True, 0.0, 0.0, 0.0, "nowhere: empty", bound.because)
    got64, want64 = got.detach().cpu().double(), want.detach().cpu().double()
    same = (got64 == want64) | (got64.isnan() & want64.isnan())
    if bound.left is not None:
        same |= bound.left
    difference = torch.where(same, 0.0, (got64 - want64).abs()).nan_to_num(torch.inf, torch.inf)
    allowed = torch.as_tensor(bound.allowed, dtype=torch.float64).expand(want64.shape)
    used = torch.where(same, 0.0, difference / allowed)  # a deviation where none is allowed: inf
    worst = int(used.argmax())
    coordinate = [int(i) for i in torch.unravel_index(torch.tensor(worst), want.shape)]
    share = float((~same).double().mean())
    return Verdict(
        buffer,
        holds=bool((used <= 1).all()),
        deviation=float(difference.max()),
        used=float(used.max()),
        share=share,
        where=f"{coordinate}: {float(got64.flatten()[worst]):.9g}"
        f" for {float(want64.flatten()[worst]):.9g}",
        because=bound.because,
    )


def spacing(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Distance of neighbouring `dtype` numbers around x, in fp64; 0 where x is not finite."""
    limits = torch.finfo(dtype)
    magnitude = x.double().abs().nan_to_num(0.0, 0.0).clamp_min(limits.smallest_normal)
    spaced = torch.exp2(magnitude.log2().floor()) * limits.eps
    return torch.where(x.isfinite(), spaced, 0.0)


def narrowed(exact: torch.Tensor, error: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
    """How far a result may be from `want` that is `exact`, give or take `error`, rounded to want's
    dtype: nothing, unless that reaches a rounding boundary. All fp64 but `want`."""
    ends = ((exact + sign * error).to(want.dtype).double() for sign in (-1, 1))
    low, high = ((end - want.double()).abs().nan_to_num(0.0) for end in ends)
    return torch.maximum(low, high)


def sum_error(terms: int, magnitude: torch.Tensor) -> torch.Tensor:
    """Of a sum in any two orders; magnitude: the sum of the terms' absolute values."""
    return 2 * LAMBDA * max(terms, 1) ** 0.5 * U * magnitude


def exact(want: Outputs, because: str) -> dict[str, Bound]:
    """Every output equal to the last bit."""
    return {name: Bound(0.0, because) for name in want}


# The chain's output against its own reference as a whole, where the hand-overs are not at hand that
# `chain_bounds` judges one by one: some 5e-4 of the codes flip where o_r's error meets a tie,
# each moves an output by 1/127 of one term in G*R, and moved outputs meet ties of bf16.
CHAIN_REL_L2 = 2e-3
# Against the fp64 oracle: the amax of 1024 normal values is about 3.4 sigma, a step of the codes
# 1/127 of that, and its rounding error a step / sqrt(12) = 0.77 % of sigma; bf16 P, pack and output
# add 0.2-0.3 % (in squares). Small widths and outliers vary that by some tens of percent.
ORACLE_REL_L2 = 1.2e-2


def relative_l2(got: torch.Tensor, want: torch.Tensor) -> float:
    """||got - want|| / ||want||, in fp64; 0 for two zeros."""
    got64, want64 = got.detach().cpu().double(), want.detach().cpu().double()
    distance, size = float((got64 - want64).norm()), float(want64.norm())
    return distance / size if size else distance


def cosine(got: torch.Tensor, want: torch.Tensor) -> float:
    """Cosine of the angle between two tensors as vectors, in fp64; 1 for two zeros."""
    got64, want64 = got.detach().cpu().double().flatten(), want.detach().cpu().double().flatten()
    if torch.equal(got64, want64):
        return 1.0
    return float(got64 @ want64 / (got64.norm() * want64.norm()))
