"""qk_softmax_pv: scores, softmax and P.V per block of 128 columns."""

import pytest
import torch

from against import check_segment, run_kernel
from dsv4_kernels import qk_softmax_pv
from dsv4_kernels.segments.qk_softmax_pv import QkSoftmaxPvTiles
from reference.bounds import relative_l2
from reference.qk_softmax_pv import qk_softmax_pv as reference

NEG = -3.4028234663852886e38


def draw(generator, device, N=3, H=8, C=64, NB=2, live=0.4):
    """q, kv ~ N(0, 1); dead columns have zero rows, as gather_kv leaves them."""
    alive = torch.rand(N, NB * 128, generator=generator) < live
    kv = torch.randn(N, NB * 128, C, generator=generator) * alive[..., None]
    return {
        "q": torch.randn(N, H, C, generator=generator).bfloat16().to(device),
        "kv": kv.bfloat16().to(device),
        "bias": torch.where(alive, 0.0, NEG).to(device),
        "live_blocks": torch.full((N,), NB, dtype=torch.int32, device=device),
    }


@pytest.mark.parametrize("H", [1, 8, 16, 33, 64, 128])
@pytest.mark.parametrize(("C", "NB"), [(16, 1), (64, 2), (512, 1)])
def test_against_reference(H, C, NB, generator, device, poison):
    check_segment("qk_softmax_pv", draw(generator, device, H=H, C=C, NB=NB), poison)


@pytest.mark.parametrize("N", [0, 1, 130])
def test_any_number_of_tokens(N, generator, device, poison):
    check_segment("qk_softmax_pv", draw(generator, device, N=N), poison)


def test_flash_size(generator, device, poison):
    inputs = draw(generator, device, N=4, H=64, C=512, NB=5, live=0.5)
    got = check_segment("qk_softmax_pv", inputs, poison)
    # P rounded to bf16 differently only near ties: far from what P left in fp32 would show (1e-3).
    want = reference(**{name: value.cpu() for name, value in inputs.items()})
    assert relative_l2(got["o"], want[2]) < 3e-4


def test_scale_comes_before_the_bias(generator, device, poison):
    inputs = draw(generator, device)
    inputs["bias"] = inputs["bias"].clamp_min(-3.0)  # a bias that a scale would change
    got = check_segment("qk_softmax_pv", inputs, poison)
    scores = inputs["q"].float() @ inputs["kv"].float().transpose(1, 2) * 64**-0.5
    want = (scores + inputs["bias"][:, None]).view(3, 8, 2, 128).amax(-1).transpose(1, 2)
    torch.testing.assert_close(got["m"], want, rtol=0, atol=1e-5)


def test_softmax_scale_is_taken(generator, device):
    inputs = draw(generator, device, live=1.0)
    m, _, _ = qk_softmax_pv(**inputs, softmax_scale=2.0)
    m_default, _, _ = qk_softmax_pv(**inputs)
    torch.testing.assert_close(m, m_default * 2.0 * 64**0.5, rtol=1e-5, atol=0)


def test_a_dead_block_is_finite(generator, device, poison):
    inputs = draw(generator, device, live=0.0)
    got = check_segment("qk_softmax_pv", inputs, poison)
    assert (got["m"] == NEG).all()
    assert (got["l"] == 128).all()
    assert (got["o"] == 0).all()


def test_one_live_column_reads_its_row_back(generator, device, poison):
    inputs = draw(generator, device, N=2, NB=2, live=1.0)
    inputs["bias"][:] = NEG
    inputs["bias"][:, 77] = 0
    got = run_kernel("qk_softmax_pv", inputs, poison)
    assert (got["l"][:, 0] == 1).all()
    row = inputs["kv"][:, 77].float()
    assert torch.equal(got["o"][:, 0], row[:, None].expand_as(got["o"][:, 0]))


def test_large_scores_do_not_overflow(generator, device, poison):
    inputs = draw(generator, device, live=1.0)
    inputs["q"] = (inputs["q"].float() * 1e4).bfloat16()
    got = run_kernel("qk_softmax_pv", inputs, poison)
    assert all(value.isfinite().all() for value in got.values())
    assert (got["l"] >= 1).all()  # the largest score contributes exp(0)


@pytest.mark.parametrize("H", [8, 20])
@pytest.mark.parametrize(
    ("block_h", "heads_per_task"), [(32, None), (16, None), (16, 16), (16, 32), (8, None), (8, 8)]
)
def test_head_tiles_change_no_bit(block_h, heads_per_task, H, generator, device, poison):
    inputs = draw(generator, device, H=H)
    want = run_kernel("qk_softmax_pv", inputs, poison)
    tiles = QkSoftmaxPvTiles(block_h=block_h, heads_per_task=heads_per_task)
    got = run_kernel("qk_softmax_pv", inputs, poison, tiles=tiles)
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_blocks_behind_the_live_ones_are_not_touched(generator, device, poison):
    inputs = draw(generator, device, N=4, NB=3)
    inputs["live_blocks"][:] = torch.tensor([0, 1, 2, 7])
    for t, live in enumerate((0, 1, 2, 3)):
        inputs["kv"][t, live * 128 :] = torch.nan
    check_segment("qk_softmax_pv", inputs, poison)


@pytest.mark.parametrize("sharers", [2, 8])
def test_sharers_read_one_tile_of_kv(sharers, generator, device, poison):
    """The bits of a copy of KV for each of 5 tokens, each with a bias of its own."""
    inputs = draw(generator, device, N=5)
    tiles = -(-5 // sharers)
    shared = inputs["kv"][:tiles].contiguous()
    blocks = inputs["live_blocks"][:tiles]
    got = check_segment(
        "qk_softmax_pv", inputs | dict(kv=shared, live_blocks=blocks, sharers=sharers), poison
    )
    copies = shared.repeat_interleave(sharers, dim=0)[:5].contiguous()
    want = run_kernel("qk_softmax_pv", inputs | {"kv": copies}, poison)
    assert all(torch.equal(got[name], want[name]) for name in want)
