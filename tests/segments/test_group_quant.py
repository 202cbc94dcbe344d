"""group_quant: amax per (token, group), RNE, int8."""

import pytest
import torch

from against import check_segment, run_kernel
from dsv4_kernels.segments.group_quant import GroupQuantTiles
from reference.bounds import U


def draw(generator, device, N=5, G=3, R=40):
    return {"o_r": torch.randn(N, G, R, generator=generator).to(device)}


@pytest.mark.parametrize(
    ("N", "G", "R"), [(0, 2, 40), (1, 1, 1), (5, 3, 40), (130, 2, 300), (9, 8, 1024), (3, 2, 2049)]
)
def test_against_reference(N, G, R, generator, device, poison):
    check_segment("group_quant", draw(generator, device, N=N, G=G, R=R), poison)


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 1e4])
def test_any_magnitude(size, generator, device, poison):
    inputs = {"o_r": draw(generator, device, R=300)["o_r"] * size}
    check_segment("group_quant", inputs, poison)


def test_one_amax_per_group_and_token(generator, device, poison):
    inputs = draw(generator, device)
    got = run_kernel("group_quant", inputs, poison)
    amax = inputs["o_r"].abs().amax(-1)
    torch.testing.assert_close(got["scale"], (amax / 127).T, rtol=4 * U, atol=0)
    assert (got["codes"].abs().amax(-1) == 127).all()


def test_codes_times_scale_are_within_half_a_step(generator, device, poison):
    inputs = draw(generator, device, N=20, R=1024)
    got = run_kernel("group_quant", inputs, poison)
    scale = got["scale"].T[..., None].double()
    error = (got["codes"].double() * scale - inputs["o_r"].double()).abs()
    assert (error <= scale * (0.5 + 127 * 4 * U)).all()


def test_ties_go_to_even(device, poison):
    ties = torch.arange(-126, 127).float() + 0.5
    o_r = torch.cat([ties, torch.tensor([127.0])]).view(1, 1, -1).to(device)  # amax 127: q = 1
    got = run_kernel("group_quant", {"o_r": o_r}, poison)["codes"].float()
    assert torch.equal(got, o_r.round())
    assert (got[..., :-1] % 2 == 0).all()


def test_a_row_below_the_floor_keeps_its_size(device, poison):
    o_r = torch.full((1, 2, 8), 1e-6, device=device)
    o_r[0, 1] = 0
    got = run_kernel("group_quant", {"o_r": o_r}, poison)
    assert (got["codes"][0, 0] == 1).all()  # 1e-6 * 127 / 1e-4 = 1.27
    assert (got["codes"][0, 1] == 0).all()
    torch.testing.assert_close(got["scale"], torch.full_like(got["scale"], 1e-4 / 127))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("column", [0, 39, 299])
def test_int8_does_not_hide_what_is_not_finite(bad, column, generator, device, poison):
    inputs = draw(generator, device, R=300)
    clean = run_kernel("group_quant", inputs, poison)
    inputs["o_r"][2, 1, column] = bad
    got = run_kernel("group_quant", inputs, poison)
    assert got["scale"][1, 2].isnan()
    got["scale"][1, 2] = clean["scale"][1, 2]
    got["codes"][2, 1] = clean["codes"][2, 1]
    assert all(torch.equal(got[name], clean[name]) for name in clean)


def test_tiles_change_no_bit(generator, device, poison):
    inputs = draw(generator, device, N=19, R=500)
    want = run_kernel("group_quant", inputs, poison)
    tiles = GroupQuantTiles(block_t=4, block_r=64)
    got = run_kernel("group_quant", inputs, poison, tiles=tiles)
    assert all(torch.equal(got[name], want[name]) for name in want)
