"""pv: P times KV over all live blocks, and where each column goes."""

import pytest
import torch

from against import check_segment, run_kernel
from dsv4_kernels.segments.pv import PvTiles


def draw(generator, device, N=3, H=8, C=64, NB=2, G=2, P=16, KP=None):
    """P as a softmax gives it: rows that add up to less than 1."""
    KP = NB * 128 if KP is None else KP
    scores = torch.randn(N, H, KP + 1, generator=generator)
    return {
        "p": torch.softmax(scores, dim=-1)[..., 1:].bfloat16().contiguous().to(device),
        "kv": torch.randn(N, KP, C, generator=generator).bfloat16().to(device),
        "live_blocks": torch.full((N,), NB, dtype=torch.int32, device=device),
        "groups": G,
        "rope_dim": P,
    }


@pytest.mark.parametrize(
    ("H", "G", "C", "P", "NB"),
    [
        (1, 1, 16, 16, 1), (33, 3, 64, 16, 3), (8, 2, 32, 32, 2), (192, 2, 64, 32, 1),
        (8, 2, 256, 16, 1), (8, 2, 256, 16, 2), (64, 8, 512, 64, 1), (128, 16, 512, 64, 1),
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


@pytest.mark.parametrize("sharers", [1, 4])
@pytest.mark.parametrize(("C", "P"), [(64, 16), (32, 32), (256, 16)])
@pytest.mark.parametrize("KP", [128, 144, 160, 192])
def test_short_rows(KP, C, P, sharers, generator, device, poison):
    """A block and a tail, of tiles with both, with one, with none; the bits of whole blocks."""
    inputs = draw(generator, device, N=4 * sharers, H=40, C=C, P=P, KP=KP)
    inputs["kv"] = inputs["kv"][:4].contiguous()
    inputs |= dict(sharers=sharers, live_blocks=inputs["live_blocks"][:4].clone())
    inputs["live_blocks"][:] = torch.tensor([0, 1, 2, 7])
    inputs["kv"][:2, 128:] = torch.nan
    inputs["p"][: 2 * sharers, :, 128:] = torch.nan
    inputs["kv"][0], inputs["p"][:sharers] = torch.nan, torch.nan
    got = check_segment("pv", inputs, poison)
    padded = {
        "kv": torch.nn.functional.pad(inputs["kv"], (0, 0, 0, 256 - KP)),
        "p": torch.nn.functional.pad(inputs["p"], (0, 256 - KP)),
    }
    whole = run_kernel("pv", inputs | padded, poison)
    tiles = PvTiles(block_r=32, task_r=64, accumulator=32 * 32)
    again = run_kernel("pv", inputs, poison, tiles=tiles)
    nope = torch.arange(20 * C, device=device) % C < C - P
    for other in (whole, again):
        assert torch.equal(other["o_rope"][sharers:], got["o_rope"][sharers:])
        heads = (out["o_heads"][sharers:][..., nope] for out in (other, got))
        assert torch.equal(*heads)


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
