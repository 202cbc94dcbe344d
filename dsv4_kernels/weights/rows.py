"""Symmetric INT8 by rows, and the blocks of rows in which large weights are converted."""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Elements of a temporary, 64 MiB of fp32: bounds the memory beside weights of any size, and a
# pool or an index of a million tokens, which still gets 64 rows a vectorised step.
BLOCK_ELEMENTS = 1 << 24


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices that cover 0..rows in order, of at most BLOCK_ELEMENTS elements or else of one row."""
    step = max(1, BLOCK_ELEMENTS // max(1, columns))
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))


def quantise_rows(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric INT8, one scale per row (an output channel): weights ~ codes * scale[:, None].

    scale = amax / 127, codes = RNE(weights / scale).

    Args:
        weights: [D, X] fp32.

    Returns:
        codes [D, X] int8 in [-127, 127], scale [D] fp32 > 0.
    """
    amax = torch.maximum(weights.amax(dim=1), -weights.amin(dim=1))
    scale = (amax / 127).clamp_min(torch.finfo(torch.float32).tiny)  # a row of zeros: 0 / tiny = 0
    return (weights / scale[:, None]).round_().to(torch.int8), scale
