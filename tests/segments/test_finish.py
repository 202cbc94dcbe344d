"""finish: pairs turned back into the rope columns, and zeros where no slot is live."""

import pytest
import torch

from against import check_segment, run_kernel
from dsv4_kernels.inputs.rope import rope_tables
from dsv4_kernels.segments.finish import FinishTiles


def draw(generator, device, N=3, H=8, C=64, G=2, P=16):
    positions = torch.arange(N) * 1000
    cos, sin = rope_tables(positions, compress_ratio=4, rope_dim=P)
    return {
        "o_rope": torch.randn(N, H, P, generator=generator).to(device),
        "live_slots": torch.full((N,), 5, dtype=torch.int32, device=device),
        "freqs_cos": cos.to(device),
        "freqs_sin": sin.to(device),
        "o_heads": torch.randn(N, G, H // G * C, generator=generator).bfloat16().to(device),
    }


@pytest.mark.parametrize(
    ("H", "G", "C", "P"), [(1, 1, 64, 16), (22, 2, 32, 32), (64, 8, 512, 64), (128, 16, 64, 16)]
)
def test_against_reference(H, G, C, P, generator, device, poison):
    check_segment("finish", draw(generator, device, H=H, G=G, C=C, P=P), poison)


@pytest.mark.parametrize("N", [0, 1, 130])
def test_any_number_of_tokens(N, generator, device, poison):
    check_segment("finish", draw(generator, device, N=N), poison)


def test_a_token_without_live_slots_is_zero_whatever_it_holds(generator, device, poison):
    inputs = draw(generator, device)
    inputs["live_slots"][1] = 0
    for name in ("o_rope", "o_heads", "freqs_cos", "freqs_sin"):
        inputs[name][1] = torch.nan
    got = check_segment("finish", inputs, poison)["o_heads"]
    assert (got[1] == 0).all()


def test_one_live_slot_is_enough(generator, device, poison):
    inputs = draw(generator, device)
    inputs["live_slots"].fill_(1)
    got = check_segment("finish", inputs, poison)["o_heads"]
    assert (got != 0).all()


def test_only_the_first_half_of_the_tables_is_used(generator, device, poison):
    inputs = draw(generator, device)
    want = run_kernel("finish", inputs, poison)["o_heads"]
    inputs["freqs_cos"][:, 8:] = torch.nan
    inputs["freqs_sin"][:, 8:] = torch.nan
    assert torch.equal(run_kernel("finish", inputs, poison)["o_heads"], want)


@pytest.mark.parametrize("block_h", [1, 4, 32])
def test_head_tiles_change_no_bit(block_h, generator, device, poison):
    inputs = draw(generator, device, H=20)
    want = run_kernel("finish", inputs, poison)["o_heads"]
    got = run_kernel("finish", inputs, poison, tiles=FinishTiles(block_h=block_h))["o_heads"]
    assert torch.equal(got, want)
