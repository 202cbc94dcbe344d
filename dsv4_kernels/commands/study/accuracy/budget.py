"""The chain's error against fp64, point by point: each rounding alone, and all but it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch

from dsv4_kernels.inputs.prefill import PrefillInputs
from reference import ROUNDING_POINTS, oracle, rounded_chain
from reference.bounds import relative_l2


@dataclass(frozen=True)
class Budget:
    """Relative errors of the output, 0.01 being one percent.

    all: with every rounding point on. alone: with that point only. without: with all others.
    """

    all: float
    alone: dict[str, float]
    without: dict[str, float]

    @property
    def in_squares(self) -> float:
        """What `all` would be if the points' errors were independent of each other."""
        return sum(error**2 for error in self.alone.values()) ** 0.5


def budget(inputs: PrefillInputs, weights: torch.Tensor) -> Budget:
    """Against the fp64 oracle on `weights` [D, G*R] fp32, which wo_b was quantised from."""
    choices: dict[tuple[str, str], Collection[str]] = {("all", ""): ROUNDING_POINTS}
    for point in ROUNDING_POINTS:
        choices["alone", point] = (point,)
        choices["without", point] = tuple(other for other in ROUNDING_POINTS if other != point)
    unquantised = replace(inputs, wo_b=weights, wo_b_scale=torch.ones(len(weights)))
    exact = oracle(*unquantised.args(), window=inputs.window)
    got = rounded_chain(
        *inputs.args(), weights=weights, choices=list(choices.values()), window=inputs.window
    )
    found = {key: relative_l2(out, exact) for key, out in zip(choices, got, strict=True)}
    return Budget(
        all=found["all", ""],
        alone={point: found["alone", point] for point in ROUNDING_POINTS},
        without={point: found["without", point] for point in ROUNDING_POINTS},
    )
