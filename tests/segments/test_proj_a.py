"""proj_a: the grouped bf16 GEMM, and the independence of its bits from A_K_TILE."""

import pytest
import torch

from against import check_segment, run_kernel
from dsv4_kernels.segments.proj_a import ProjATiles


def draw(generator, device, N=5, G=2, R=40, J=256):
    return {
        "o_packed": torch.randn(G, N, J, generator=generator).bfloat16().to(device),
        "wo_a": (torch.randn(G, R, J, generator=generator) * J**-0.5).bfloat16().to(device),
    }


@pytest.mark.parametrize(
    ("N", "G", "R", "J"),
    [(0, 2, 40, 64), (1, 1, 1, 1), (5, 2, 40, 256), (130, 3, 129, 300), (128, 2, 128, 512)],
)
def test_against_reference(N, G, R, J, generator, device, poison):
    check_segment("proj_a", draw(generator, device, N=N, G=G, R=R, J=J), poison)


def test_flash_widths(generator, device, poison):
    check_segment("proj_a", draw(generator, device, N=17, G=8, R=1024, J=4096), poison)


@pytest.mark.parametrize("J", [4096, 1000])
def test_a_k_tile_changes_no_bit(J, generator, device, poison):
    inputs = draw(generator, device, N=33, R=200, J=J)
    want = run_kernel("proj_a", inputs, poison)["o_r"]
    for a_k_tile in (128, 512):
        tiles = ProjATiles(a_k_tile=a_k_tile)
        assert torch.equal(run_kernel("proj_a", inputs, poison, tiles=tiles)["o_r"], want)


def test_one_hot_inputs_read_a_weight_back(generator, device, poison):
    inputs = draw(generator, device, N=4, G=2, R=40, J=256)
    inputs["o_packed"].zero_()
    columns = [0, 63, 64, 255]
    for t, j in enumerate(columns):
        inputs["o_packed"][:, t, j] = 1.0
    got = run_kernel("proj_a", inputs, poison)["o_r"]
    for t, j in enumerate(columns):
        assert torch.equal(got[t], inputs["wo_a"][:, :, j].float())


def test_the_result_is_not_rounded_to_bf16(generator, device, poison):
    got = run_kernel("proj_a", draw(generator, device), poison)["o_r"]
    assert (got != got.bfloat16().float()).float().mean() > 0.9


def test_a_nan_stays_in_its_token_and_group(generator, device, poison):
    inputs = draw(generator, device)
    inputs["o_packed"][1, 3, 7] = torch.nan
    got = run_kernel("proj_a", inputs, poison)["o_r"]
    assert got[3, 1].isnan().all()
    got[3, 1] = 0
    assert got.isfinite().all()
