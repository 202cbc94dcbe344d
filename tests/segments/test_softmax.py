"""softmax: whole rows with the sink, in one step or by pieces."""

import pytest
import torch

from against import check_segment, run_kernel
from dsv4_kernels.segments.softmax import SoftmaxTiles

NEG = -3.4028234663852886e38


def draw(generator, device, N=3, H=8, NB=2, live=0.5, size=8.0, KP=None):
    """Scores of N(0, size**2), scaled by an eighth; at least one column of a token is live."""
    KP = NB * 128 if KP is None else KP
    alive = torch.rand(N, KP, generator=generator) < live
    alive[:, 0] = True
    return {
        "scores": (size * torch.randn(N, H, KP, generator=generator)).to(device),
        "bias": torch.where(alive, 0.0, NEG).to(device),
        "live_blocks": torch.full((N,), NB, dtype=torch.int32, device=device),
        "attn_sink": torch.randn(H, generator=generator).to(device),
        "softmax_scale": 0.125,
    }


@pytest.mark.parametrize(("H", "NB"), [(1, 1), (64, 5), (128, 9), (7, 16), (64, 17), (3, 21)])
def test_against_reference(H, NB, generator, device, poison):
    """Up to 16 blocks a row goes at once, 17 and more by pieces of 8."""
    check_segment("softmax", draw(generator, device, N=2, H=H, NB=NB), poison)


@pytest.mark.parametrize("KP", [144, 160, 192])
def test_short_rows(KP, generator, device, poison):
    """A block and a tail: of no block, one, both, and a count of more."""
    inputs = draw(generator, device, N=4, KP=KP)
    inputs["live_blocks"][:] = torch.tensor([0, 1, 2, 7])
    for t, live in enumerate((0, 128)):
        inputs["scores"][t, :, live:] = torch.nan
        inputs["bias"][t, live:] = torch.nan
    check_segment("softmax", inputs, poison)


@pytest.mark.parametrize("N", [0, 1, 130])
def test_any_number_of_tokens(N, generator, device, poison):
    check_segment("softmax", draw(generator, device, N=N), poison)


@pytest.mark.parametrize("NB", [2, 3])
@pytest.mark.parametrize("size", [1e-6, 1e4])
def test_scores_of_any_size(size, NB, generator, device, poison):
    inputs = draw(generator, device, size=size, NB=NB)
    got = check_segment("softmax", inputs, poison, tiles=SoftmaxTiles(columns=256))["p"]
    assert got.isfinite().all()


@pytest.mark.parametrize("columns", [256, 512, 1024])
def test_pieces_are_the_whole_row_but_for_its_sum(columns, generator, device, poison):
    """The maximum is the row's, wherever it lies: P differs by the order of l's sum alone."""
    inputs = draw(generator, device, NB=9)
    for t, place in enumerate((0, 600, 1151)):
        inputs["scores"][t, :, place] = 100.0
        inputs["bias"][t, place] = 0.0
    want = run_kernel("softmax", inputs, poison)["p"]
    tiles = SoftmaxTiles(columns=columns)
    got = check_segment("softmax", inputs, poison, tiles=tiles)["p"]
    torch.testing.assert_close(got, want, rtol=2**-7, atol=0)
    assert (got != want).double().mean() < 0.01


def test_blocks_behind_the_live_ones_are_not_touched(generator, device, poison):
    inputs = draw(generator, device, N=4, NB=3)
    inputs["live_blocks"][:] = torch.tensor([0, 1, 2, 7])
    for t, live in enumerate((0, 1, 2)):
        inputs["scores"][t, :, live * 128 :] = torch.nan
        inputs["bias"][t, live * 128 :] = torch.nan
    for columns in (256, 2048):
        check_segment("softmax", inputs, poison, tiles=SoftmaxTiles(columns=columns))


@pytest.mark.parametrize("columns", [256, 2048])
def test_sinks_of_minus_and_plus_infinity(columns, generator, device, poison):
    inputs = draw(generator, device, NB=3)
    inputs["attn_sink"][0::2] = -torch.inf
    inputs["attn_sink"][1::2] = torch.inf
    got = check_segment("softmax", inputs, poison, tiles=SoftmaxTiles(columns=columns))["p"]
    assert (got[:, 1::2] == 0).all()
    torch.testing.assert_close(
        got[:, 0::2].float().sum(-1), torch.ones(3, 4, device=device), rtol=0, atol=4e-3
    )


@pytest.mark.parametrize("columns", [256, 2048])
def test_the_sink_is_in_the_denominator_only_and_unscaled(columns, generator, device, poison):
    inputs = draw(generator, device, NB=3)
    inputs["scores"][:] = 8.0
    inputs["bias"][:] = NEG
    inputs["bias"][:, 300] = 0.0
    inputs["attn_sink"][:] = 1.5
    got = run_kernel("softmax", inputs, poison, tiles=SoftmaxTiles(columns=columns))["p"]
    want = (1 / (1 + torch.exp(torch.tensor(0.5)))).bfloat16()  # a score of 8 / 8
    assert (got[:, :, 300] == want).all()
    got[:, :, 300] = 0
    assert (got == 0).all()


def test_scale_comes_before_the_bias(generator, device, poison):
    inputs = draw(generator, device)
    inputs["bias"].clamp_(min=-3.0)  # a bias that a scale would change
    check_segment("softmax", inputs, poison)


@pytest.mark.parametrize("columns", [256, 2048])
def test_a_live_nan_reaches_its_row_alone(columns, generator, device, poison):
    inputs = draw(generator, device, NB=3)
    inputs["scores"][1, 3, 0] = torch.nan
    got = run_kernel("softmax", inputs, poison, tiles=SoftmaxTiles(columns=columns))["p"]
    assert got[1, 3].isnan().all()
    got[1, 3] = 0
    assert got.isfinite().all()


@pytest.mark.parametrize(("elements", "task_h"), [(1024, 1), (4096, 16), (32768, 32)])
def test_head_tiles_change_no_bit(elements, task_h, generator, device, poison):
    inputs = draw(generator, device, H=20)
    want = run_kernel("softmax", inputs, poison)["p"]
    tiles = SoftmaxTiles(elements=elements, task_h=task_h)
    got = run_kernel("softmax", inputs, poison, tiles=tiles)["p"]
    assert torch.equal(got, want)


def test_sharers_have_one_count(generator, device, poison):
    inputs = draw(generator, device, N=5, NB=3) | {"sharers": 2}
    inputs["live_blocks"] = torch.tensor([1, 3, 2], dtype=torch.int32, device=device)
    check_segment("softmax", inputs, poison)
