"""row_quant: amax per token over all groups."""

import pytest
import torch

from against import check_segment, run_kernel
from dsv4_kernels import ContractError, row_quant
from dsv4_kernels.segments.row_quant import RowQuantTiles
from reference.bounds import U


def draw(generator, device, N=5, G=3, R=40):
    return {"o_r": torch.randn(N, G, R, generator=generator).to(device)}


@pytest.mark.parametrize(
    ("N", "G", "R"), [(0, 2, 40), (1, 1, 1), (5, 3, 40), (130, 2, 300), (9, 8, 1024)]
)
def test_against_reference(N, G, R, generator, device, poison):
    check_segment("row_quant", draw(generator, device, N=N, G=G, R=R), poison)


def test_one_amax_per_token(generator, device, poison):
    inputs = draw(generator, device)
    got = run_kernel("row_quant", inputs, poison)
    amax = inputs["o_r"].abs().amax((1, 2))
    torch.testing.assert_close(got["row_scale"], amax / 127, rtol=4 * U, atol=0)
    assert (got["codes"].abs().amax((1, 2)) == 127).all()


def test_a_row_of_zeros_has_the_floors_scale(generator, device, poison):
    inputs = draw(generator, device)
    inputs["o_r"][2] = 0
    got = run_kernel("row_quant", inputs, poison)
    assert (got["codes"][2] == 0).all()
    torch.testing.assert_close(got["row_scale"][2].item(), 1e-4 / 127, rtol=4 * U, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_int8_does_not_hide_what_is_not_finite(bad, generator, device, poison):
    inputs = draw(generator, device, R=300)
    clean = run_kernel("row_quant", inputs, poison)
    inputs["o_r"][2, 1, 299] = bad
    got = run_kernel("row_quant", inputs, poison)
    assert got["row_scale"][2].isnan()
    others = [0, 1, 3, 4]
    assert torch.equal(got["row_scale"][others], clean["row_scale"][others])
    assert torch.equal(got["codes"][others], clean["codes"][others])


def test_tiles_change_no_bit(generator, device, poison):
    inputs = draw(generator, device, N=19, R=500)
    want = run_kernel("row_quant", inputs, poison)
    tiles = RowQuantTiles(block_t=8, block_r=64)
    got = run_kernel("row_quant", inputs, poison, tiles=tiles)
    assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("shape", [(3, 0, 8), (3, 2, 0)])
def test_a_row_of_no_columns_is_refused(shape, device):
    match = r"`o_r` must be \[N, G, R\] with G\*R >= 1, got G\*R = 0"
    with pytest.raises(ContractError, match=match):
        row_quant(torch.empty(shape, device=device))
