"""pv: P times KV over all live blocks, and where each column goes."""

import pytest
import torch

from against import check_segment, run_kernel
from dsv4_kernels.segments.pv import PvTiles


def draw(generator, device, N=3, H=8, C=64, NB=2, G=2, P=16):
    """P as a softmax gives it: rows that add up to less than 1."""
    scores = torch.randn(N, H, NB * 128 + 1, generator=generator)
    return {
        "p": torch.softmax(scores, dim=-1)[..., 1:].bfloat16().contiguous().to(device),
        "kv": torch.randn(N, NB * 128, C, generator=generator).bfloat16().to(device),
        "live_blocks": torch.full((N,), NB, dtype=torch.int32, device=device),
        "groups": G,
        "rope_dim": P,
    }


@pytest.mark.parametrize(
    ("H", "G", "C", "P", "NB"),
    [
        (1, 1, 16, 16, 1), (33, 3, 64, 16, 3), (8, 2, 32, 32, 2), (192, 2, 64, 32, 1),
        (8, 2, 256, 16, 1), (64, 8, 512, 64, 1), (128, 16, 512, 64, 1),
    ],
)  # fmt: skip
def test_against_reference(H, G, C, P, NB, generator, device, poison):
    """The rope is all of a head, a half, a quarter, an eighth, and less than that."""
    check_segment("pv", draw(generator, device, H=H, G=G, C=C, P=P, NB=NB), poison)


@pytest.mark.parametrize("N", [0, 1, 130])
def test_any_number_of_tokens(N, generator, device, poison):
    check_segment("pv", draw(generator, device, N=N), poison)


def test_blocks_behind_the_live_ones_are_not_read(generator, device, poison):
    """A tile with none is for `finish` to clear."""
    inputs = draw(generator, device, N=4, NB=3)
    inputs["live_blocks"][:] = torch.tensor([0, 1, 2, 7])
    for t, live in enumerate((0, 1, 2)):
        inputs["kv"][t, live * 128 :] = torch.nan
        inputs["p"][t, :, live * 128 :] = torch.nan
    got = check_segment("pv", inputs, poison)
    assert got["o_rope"][1:].isfinite().all()


def test_no_columns_are_not_read(generator, device, poison):
    check_segment("pv", draw(generator, device, NB=0), poison)


def test_one_column_reads_its_row_back(generator, device, poison):
    """Of every head and token, each column at its place."""
    inputs = draw(generator, device, NB=2)
    inputs["p"][:] = 0
    inputs["p"][:, :, 177] = 1
    got = run_kernel("pv", inputs, poison)
    row = inputs["kv"][:, 177]
    heads = got["o_heads"].view(3, 8, 64)
    assert torch.equal(heads[..., :48], row[:, None, :48].expand(3, 8, 48))
    assert torch.equal(got["o_rope"], row[:, None, 48:].float().expand(3, 8, 16))


@pytest.mark.parametrize(("block_r", "accumulator"), [(16, 256), (16, 512), (64, 1024), (32, 4096)])
def test_tiles_change_no_bit(block_r, accumulator, generator, device, poison):
    """From the rope's columns alone to whole heads."""
    inputs = draw(generator, device, H=40)
    want = run_kernel("pv", inputs, poison)
    tiles = PvTiles(block_r=block_r, accumulator=accumulator)
    got = run_kernel("pv", inputs, poison, tiles=tiles)
    rope = torch.arange(20 * 64, device=device) % 64 >= 48
    assert torch.equal(got["o_heads"][..., ~rope], want["o_heads"][..., ~rope])
    assert torch.equal(got["o_rope"], want["o_rope"])


@pytest.mark.parametrize("sharers", [2, 8])
@pytest.mark.parametrize("H", [3, 64])
def test_sharers_read_one_tile_of_kv(H, sharers, generator, device, poison):
    inputs = draw(generator, device, N=5, H=H, G=1)
    tiles = -(-5 // sharers)
    shared = inputs["kv"][:tiles].contiguous()
    blocks = inputs["live_blocks"][:tiles]
    got = check_segment("pv", inputs | dict(kv=shared, live_blocks=blocks, sharers=sharers), poison)
    copies = shared.repeat_interleave(sharers, dim=0)[:5].contiguous()
    want = run_kernel("pv", inputs | {"kv": copies}, poison)
    assert torch.equal(got["o_rope"], want["o_rope"])
