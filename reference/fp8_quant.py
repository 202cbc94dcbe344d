"""The activations as DeepSeek-V4's own inference code quantises them: FP8, a scale per 128."""

from __future__ import annotations

import torch

from reference.group_quant import AMAX_FLOOR, block_amax, per_element

FP8_MAX = 448.0  # the largest e4m3 number


def fp8_quant(o_r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """scale = 2**ceil(log2(max(1e-4, max |o_r|) / 448)), codes = e4m3(o_r / scale) per 128 ranks.

    That is `act_quant(block_size=128, scale_fmt="ue8m0")` of DeepSeek-V4's inference/kernel.py: its
    config.json asks for scales that are powers of two, rounded up. There o_r is bf16, here fp32.
    Returns codes [N, G, R] float8_e4m3fn and scale [N, G, blocks] fp32, from [N, G, R] fp32.
    """
    # Times the reciprocal, as act_quant does it.
    quotient = block_amax(o_r).clamp_min(AMAX_FLOOR) * (1.0 / FP8_MAX)
    fraction, exponent = torch.frexp(quotient)  # quotient = fraction * 2**exponent, 0.5 <= fraction
    exponent = torch.where(fraction == 0.5, exponent - 1, exponent)
    scale = torch.ldexp(torch.ones_like(quotient), exponent)
    codes = o_r / per_element(scale, o_r.shape[2])
    return codes.clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scale
