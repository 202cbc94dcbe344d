"""The reference of DeepSeek-V4's own activations, against every e4m3 number."""

import torch

from reference.fp8_quant import fp8_quant


def test_fp8_codes_are_the_nearest_and_scales_the_smallest_power_of_two(generator):
    sizes = torch.exp(4 * torch.randn(6, 5, 1, generator=generator))
    o_r = torch.randn(6, 5, 300, generator=generator) * sizes
    o_r[0, 0] = 0
    o_r[1, 1, :128] = 448 * 2.0**-3  # a quotient that is a power of two keeps it
    codes, scale = fp8_quant(o_r)
    assert codes.dtype == torch.float8_e4m3fn
    assert scale.shape == (6, 5, 3)
    assert (scale.log2() % 1 == 0).all()
    assert scale[1, 1, 0] == 2.0**-3
    blocks = o_r.abs().split(128, dim=2)
    amax = torch.stack([b.amax(2) for b in blocks], dim=2).clamp_min(1e-4)
    assert ((scale / 2 < amax / 448) & (amax / 448 <= scale)).all()

    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    numbers = numbers[numbers.isfinite()]
    x = o_r / scale.repeat_interleave(128, dim=2)[..., :300]
    nearest = (x[..., None] - numbers).abs().amin(-1)
    assert torch.equal((codes.float() - x).abs(), nearest)
