"""Segment 7: INT8 activations; and the other granularities that accuracy is compared with."""

from __future__ import annotations

from typing import Literal

import torch

from reference.bounds import Bound, Inputs, Outputs, U, spacing

AMAX_FLOOR = 1e-4
Granularity = Literal["row", "group", "block"]
BLOCK_WIDTH = 128  # of DeepSeek-V4's own act_quant


def group_quant(o_r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One amax per (token, group): codes [N, G, R] int8 and scale [G, N] fp32, from [N, G, R] fp32.

    A (token, group) with a NaN or Inf has scale NaN; its codes are unspecified.
    """
    codes, scale = quantise(o_r, "group")
    return codes, scale[..., 0].transpose(0, 1).contiguous()


def quantise(o_r: torch.Tensor, granularity: Granularity) -> tuple[torch.Tensor, torch.Tensor]:
    """amax = max(1e-4, max |o_r|), q = 127 / amax, codes = RNE(o_r * q), scale = 1 / q.

    The amax is taken over all of a token ("row"), each of its groups ("group") or each 128 ranks of
    a group ("block"; the last one may be shorter). Returns codes [N, G, R] int8 and the scale of
    every element's span, [N, G, 1] or [N, G, blocks] fp32.
    """
    if granularity == "row":
        amax = o_r.abs().amax(dim=(1, 2), keepdim=True).expand(-1, o_r.shape[1], 1)
    elif granularity == "group":
        amax = o_r.abs().amax(dim=2, keepdim=True)
    else:
        amax = block_amax(o_r)
    amax = amax.clamp_min(AMAX_FLOOR)
    amax = torch.where(amax.isfinite(), amax, torch.nan)
    # Not `127.0 / amax`: torch turns a number over a tensor into a reciprocal and a product.
    q = torch.full_like(amax, 127.0) / amax
    codes = torch.round(o_r * per_element(q, o_r.shape[2]))  # half to even
    return codes.nan_to_num(0.0).to(torch.int8), q.reciprocal()


def dequantise(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """codes * scale, [N, G, R] fp32; the codes are int8 or FP8."""
    return codes.float() * per_element(scale, codes.shape[2])


def block_amax(o_r: torch.Tensor) -> torch.Tensor:
    """max |o_r| over each 128 ranks of a group: [N, G, blocks]."""
    blocks = o_r.abs().split(BLOCK_WIDTH, dim=2)
    return torch.cat([block.amax(dim=2, keepdim=True) for block in blocks], dim=2)


def per_element(spans: torch.Tensor, R: int) -> torch.Tensor:
    """A value per span, [N, G, 1] or [N, G, blocks], as one that broadcasts to [N, G, R]."""
    if spans.shape[2] == 1:
        return spans
    return spans.repeat_interleave(BLOCK_WIDTH, dim=2)[..., :R]


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """One code at a tie, and the scale's two divisions."""
    scale = want["scale"].cpu().double()  # [G, N]
    x = inputs["o_r"].cpu().double() / scale.transpose(0, 1)[..., None]
    to_tie = ((x - x.floor()) - 0.5).abs()
    near_tie = to_tie <= 2 * spacing(x, torch.float32)
    unspecified = scale.isnan().transpose(0, 1)[..., None]
    allowed = torch.where(unspecified, 255.0, near_tie.double())
    return {
        "codes": Bound(allowed, "equal, or one off within two fp32 spacings of a tie"),
        "scale": Bound(4 * U * scale.nan_to_num(0.0), "two divisions, each within an ulp"),
    }
