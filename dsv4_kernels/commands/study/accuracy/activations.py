"""o_r [T, G, R] to quantise: of one size everywhere, of groups that differ, with outliers."""

from __future__ import annotations

from collections.abc import Callable

import torch

# Stress tests, not measurements of a model: the sizes are chosen so that the amax of a row, a group
# or a block has something to do that a Gaussian does not give it.
GROUP_SCALE_SIGMA = 0.5  # two groups in three lie within a factor of e**0.5 = 1.6 of the median
STUDENT_DEGREES = 4  # tails so heavy that the fourth moment is infinite
OUTLIER_COLUMNS = 4  # of all G*R, the same for every token
OUTLIER_FACTOR = 20.0

Draw = Callable[[int, int, int, torch.Generator], torch.Tensor]


def gaussian(T: int, G: int, R: int, generator: torch.Generator) -> torch.Tensor:
    """N(0, 1)."""
    return torch.randn(T, G, R, generator=generator)


def lognormal_groups(T: int, G: int, R: int, generator: torch.Generator) -> torch.Tensor:
    """N(0, s**2) with a lognormal s for every token and group."""
    scale = torch.exp(GROUP_SCALE_SIGMA * torch.randn(T, G, 1, generator=generator))
    return scale * gaussian(T, G, R, generator)


def student(T: int, G: int, R: int, generator: torch.Generator) -> torch.Tensor:
    """Student's t: N(0, 1) over the root of a mean of squares of as many more."""
    squares = torch.randn(STUDENT_DEGREES, T, G, R, generator=generator).square()
    return gaussian(T, G, R, generator) / squares.mean(0).sqrt()


def outlier_columns(T: int, G: int, R: int, generator: torch.Generator) -> torch.Tensor:
    """N(0, 1), but for a few columns that are larger in every token."""
    o_r = gaussian(T, G, R, generator)
    columns = torch.randperm(G * R, generator=generator)[:OUTLIER_COLUMNS]
    o_r.view(T, G * R)[:, columns] *= OUTLIER_FACTOR
    return o_r


DRAWN: dict[str, Draw] = {
    "Gaussian": gaussian,
    "lognormal group scales": lognormal_groups,
    "Student t, 4 degrees": student,
    "4 outlier columns, 20-fold": outlier_columns,
}
CHAIN = "the chain's own"
