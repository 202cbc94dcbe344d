"""What a layer's weights are to these kernels: bound once, not carried by every call."""

from __future__ import annotations

import torch


def quantise_rows(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric INT8, one scale per row (an output channel): weights ~ codes * scale[:, None].

    Args:
        weights: [D, X] fp32.

    Returns:
        codes [D, X] int8 in [-127, 127], scale [D] fp32 > 0.
    """
    amax = weights.abs().amax(dim=1)
    scale = (amax / 127).clamp_min(torch.finfo(torch.float32).tiny)  # a row of zeros: 0 / tiny = 0
    return torch.round(weights / scale[:, None]).to(torch.int8), scale
