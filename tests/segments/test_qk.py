"""qk: scores of the live blocks, pure dot products."""

import pytest
import torch

from against import check_segment, run_kernel
from dsv4_kernels.segments.qk import QkTiles


def draw(generator, device, N=3, H=8, C=64, NB=2, KP=None):
    """q, kv ~ N(0, 1)."""
    KP = NB * 128 if KP is None else KP
    return {
        "q": torch.randn(N, H, C, generator=generator).bfloat16().to(device),
        "kv": torch.randn(N, KP, C, generator=generator).bfloat16().to(device),
        "live_blocks": torch.full((N,), NB, dtype=torch.int32, device=device),
    }


@pytest.mark.parametrize(
    ("H", "C", "NB"),
    [(1, 16, 1), (8, 64, 3), (33, 64, 2), (64, 512, 1), (64, 512, 2), (192, 16, 2)],
)
def test_against_reference(H, C, NB, generator, device, poison):
    check_segment("qk", draw(generator, device, H=H, C=C, NB=NB), poison)


@pytest.mark.parametrize("N", [0, 1, 130])
def test_any_number_of_tokens(N, generator, device, poison):
    check_segment("qk", draw(generator, device, N=N), poison)


def test_blocks_behind_the_live_ones_are_not_touched(generator, device, poison):
    inputs = draw(generator, device, N=4, NB=3)
    inputs["live_blocks"][:] = torch.tensor([0, 1, 2, 7])
    for t, live in enumerate((0, 1, 2)):
        inputs["kv"][t, live * 128 :] = 3.0  # what is made of it would be no sentinel
    check_segment("qk", inputs, poison)


@pytest.mark.parametrize("sharers", [1, 4])
@pytest.mark.parametrize("KP", [128, 144, 160, 192])
def test_short_rows(KP, sharers, generator, device, poison):
    """A block and a tail, of live tiles and dead ones; the bits of whole blocks."""
    inputs = draw(generator, device, N=4 * sharers, H=40, KP=KP)
    inputs["kv"] = inputs["kv"][:4].contiguous()
    inputs |= dict(sharers=sharers, live_blocks=inputs["live_blocks"][:4].clone())
    inputs["live_blocks"][:] = torch.tensor([0, 1, 2, 7])
    inputs["kv"][:2, 128:] = torch.nan
    inputs["kv"][0] = 3.0  # what is made of it would be no sentinel
    got = check_segment("qk", inputs, poison)["scores"]
    padded = torch.nn.functional.pad(inputs["kv"], (0, 0, 0, 256 - KP))
    want = run_kernel("qk", inputs | {"kv": padded}, poison)["scores"]
    assert torch.equal(got[2 * sharers :], want[2 * sharers :, :, :KP])
    for task_r in (16, 64):
        tiles = QkTiles(block_r=32, task_r=task_r)
        again = run_kernel("qk", inputs, poison, tiles=tiles)["scores"]
        assert torch.equal(again.view(torch.int32), got.view(torch.int32))


def test_scores_are_not_scaled(generator, device, poison):
    inputs = draw(generator, device)
    inputs["q"][:] = 1.0
    inputs["kv"][:] = 0.5
    got = run_kernel("qk", inputs, poison)["scores"]
    assert (got == 32.0).all()


@pytest.mark.parametrize("block_r", [16, 32, 128])
def test_row_tiles_change_no_bit(block_r, generator, device, poison):
    inputs = draw(generator, device, H=40)
    want = run_kernel("qk", inputs, poison)["scores"]
    got = run_kernel("qk", inputs, poison, tiles=QkTiles(block_r=block_r))["scores"]
    assert torch.equal(got, want)


@pytest.mark.parametrize("sharers", [2, 8])
@pytest.mark.parametrize("H", [3, 64])
def test_sharers_read_one_tile_of_kv(H, sharers, generator, device, poison):
    """The bits of a copy of KV for each of 5 tokens; the last tile is not full."""
    inputs = draw(generator, device, N=5, H=H)
    tiles = -(-5 // sharers)
    shared = inputs["kv"][:tiles].contiguous()
    blocks = inputs["live_blocks"][:tiles]
    got = check_segment(
        "qk", inputs | dict(kv=shared, live_blocks=blocks, sharers=sharers), poison
    )["scores"]
    copies = shared.repeat_interleave(sharers, dim=0)[:5].contiguous()
    assert torch.equal(got, run_kernel("qk", inputs | {"kv": copies}, poison)["scores"])
