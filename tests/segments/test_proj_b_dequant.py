"""proj_b_dequant: one INT32 sum over all groups, dequantised at its end."""

import pytest
import torch

from against import check_segment, run_kernel
from dsv4_kernels import proj_b_dequant
from dsv4_kernels.segments.proj_b_dequant import ProjBDequantTiles


def draw(generator, device, N=5, G=2, R=40, D=72):
    def integers(low, *shape):
        return torch.randint(low, 128, shape, generator=generator, dtype=torch.int8)

    inputs = {
        "codes": integers(-127, N, G, R),
        "wo_b": integers(-128, D, G * R),
        "row_scale": torch.rand(N, generator=generator) + 0.01,
        "live_slots": torch.ones(N, dtype=torch.int32),
        "wo_b_scale": torch.rand(D, generator=generator) + 0.01,
    }
    return {name: value.to(device) for name, value in inputs.items()}


@pytest.mark.parametrize(
    ("N", "G", "R", "D"),
    [(0, 2, 40, 72), (5, 2, 40, 0), (1, 1, 1, 1), (5, 2, 40, 72), (130, 3, 200, 130)],
)
def test_against_reference(N, G, R, D, generator, device, poison):
    check_segment("proj_b_dequant", draw(generator, device, N=N, G=G, R=R, D=D), poison)


@pytest.mark.parametrize(("G", "D"), [(8, 4096), (16, 7168)])
def test_full_widths(G, D, generator, device, poison):
    check_segment("proj_b_dequant", draw(generator, device, N=2, G=G, R=1024, D=D), poison)


def test_the_sum_is_exact_beyond_fp32(device, poison):
    """Above 2**24 and down again, where fp32 has even numbers only: the sum is odd wherever a tile
    of k ends on the way."""
    codes = torch.full((1, 2, 2047), 127, dtype=torch.int8, device=device)
    wo_b = torch.full((1, 2 * 2047), 127, dtype=torch.int8, device=device)
    wo_b[0, 2047:] = -127
    wo_b[0, 0], wo_b[0, -1] = 126, -125
    one = torch.ones(1, device=device)
    alive = torch.ones(1, dtype=torch.int32, device=device)
    inputs = dict(codes=codes, wo_b=wo_b, row_scale=one, live_slots=alive, wo_b_scale=one)
    assert run_kernel("proj_b_dequant", inputs, poison)["attn_out"].item() == 127


def test_scales_multiply_row_and_channel(generator, device, poison):
    """Powers of two change nothing but the exponent."""
    inputs = draw(generator, device)
    want = run_kernel("proj_b_dequant", inputs, poison)["attn_out"]
    inputs["row_scale"][3] *= 4
    inputs["wo_b_scale"][7] *= 0.5
    got = run_kernel("proj_b_dequant", inputs, poison)["attn_out"]
    factor = torch.ones_like(want)
    factor[3] *= 4
    factor[:, 7] *= 0.5
    assert torch.equal(got, want * factor)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1.0])
def test_a_dead_token_is_exact_zeros_whatever_the_scales_hold(bad, generator, device, poison):
    inputs = draw(generator, device)
    inputs["live_slots"][2] = 0
    inputs["row_scale"][[2, 3]] = bad
    inputs["wo_b_scale"][4] = bad
    got = check_segment("proj_b_dequant", inputs, poison)["attn_out"]
    assert not got[2].view(torch.int16).any()  # no negative zero either
    assert got[[0, 1, 4]][:, :4].isfinite().all()


def test_a_negative_scale_of_a_channel_is_only_a_sign(generator, device, poison):
    inputs = draw(generator, device)
    want = run_kernel("proj_b_dequant", inputs, poison)["attn_out"]
    inputs["wo_b_scale"] = -inputs["wo_b_scale"]
    got = check_segment("proj_b_dequant", inputs, poison)["attn_out"]
    assert torch.equal(got, -want)


def test_tiles_change_no_bit(generator, device, poison):
    inputs = draw(generator, device, N=19, R=300, D=200)
    want = run_kernel("proj_b_dequant", inputs, poison)["attn_out"]
    tiles = ProjBDequantTiles(block_t=16, block_d=128, b_k_tile=128)
    assert torch.equal(run_kernel("proj_b_dequant", inputs, poison, tiles=tiles)["attn_out"], want)


def test_fp32_is_what_bf16_rounds(generator, device, poison):
    """A rank's part, to the bit: an exact sum and two products."""
    inputs = draw(generator, device)
    inputs["live_slots"][2] = 0
    out = poison.tensor(5, 72, dtype=torch.float32)
    assert proj_b_dequant(**inputs, attn_out=out) is out
    assert torch.equal(out.bfloat16(), run_kernel("proj_b_dequant", inputs, poison)["attn_out"])
    codes, wo_b = inputs["codes"].cpu().flatten(1).double(), inputs["wo_b"].cpu().double()
    want = (codes @ wo_b.T).float() * inputs["row_scale"].cpu()[:, None]
    want = want * inputs["wo_b_scale"].cpu()
    want[2] = 0
    assert torch.equal(out.cpu(), want)
