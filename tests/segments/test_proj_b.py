"""proj_b: exact int8 products, one INT32 partial per group."""

import pytest
import torch

from against import check_segment, run_kernel
from dsv4_kernels.segments.proj_b import MAX_RANK, ProjBTiles


def draw(generator, device, N=5, G=2, R=40, D=72):
    def integers(low, *shape):
        return torch.randint(low, 128, shape, generator=generator, dtype=torch.int8).to(device)

    return {"codes": integers(-127, N, G, R), "wo_b": integers(-128, D, G * R)}


@pytest.mark.parametrize(
    ("N", "G", "R", "D"),
    [
        (0, 2, 40, 72),
        (1, 1, 1, 1),
        (5, 2, 40, 72),
        (130, 3, 129, 300),
        (128, 2, 512, 128),
        (3, 1, 1, 7168),
        (4, 2, 700, 7000),
    ],
)
def test_bytes(N, G, R, D, generator, device, poison):
    check_segment("proj_b", draw(generator, device, N=N, G=G, R=R, D=D), poison)


def test_pro_widths(generator, device, poison):
    check_segment("proj_b", draw(generator, device, N=3, G=16, R=1024, D=7168), poison)


def test_extreme_codes_are_exact(device, poison):
    """The largest sum there is at R = 1024, in both signs."""
    codes = torch.full((2, 1, 1024), 127, dtype=torch.int8, device=device)
    codes[1] = -127
    wo_b = torch.full((3, 1024), -128, dtype=torch.int8, device=device)
    got = run_kernel("proj_b", {"codes": codes, "wo_b": wo_b}, poison)["partial"]
    assert (got[0, 0] == -127 * 128 * 1024).all()
    assert (got[0, 1] == 127 * 128 * 1024).all()
    assert torch.equal(got.float().int(), got)  # below 2**24: dequant_sum widens it exactly


def test_the_longest_sum_of_the_lowest_weights_fits_int32(device, poison):
    codes = torch.full((1, 1, MAX_RANK), -127, dtype=torch.int8, device=device)
    wo_b = torch.full((1, MAX_RANK), -128, dtype=torch.int8, device=device)
    got = run_kernel("proj_b", {"codes": codes, "wo_b": wo_b}, poison)["partial"]
    assert got.item() == 127 * 128 * 132_104


def test_one_hot_codes_read_a_weight_back(generator, device, poison):
    inputs = draw(generator, device, N=3, G=2, R=40, D=72)
    inputs["codes"].zero_()
    for t, r in enumerate([0, 7, 39]):
        inputs["codes"][t, :, r] = 1
    got = run_kernel("proj_b", inputs, poison)["partial"]
    for t, r in enumerate([0, 7, 39]):
        for g in range(2):
            assert torch.equal(got[g, t], inputs["wo_b"][:, g * 40 + r].int())


def test_tiles_change_no_bit(generator, device, poison):
    inputs = draw(generator, device, N=33, R=700, D=200)
    want = run_kernel("proj_b", inputs, poison)["partial"]
    tiles = ProjBTiles(block_t=64, block_d=64, b_k_tile=128)
    assert torch.equal(run_kernel("proj_b", inputs, poison, tiles=tiles)["partial"], want)
