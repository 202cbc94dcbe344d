"""inverse_rope: interleaved pairs turned back, rounded once, into the rope columns only."""

import pytest
import torch

from against import check_segment, run_kernel
from dsv4_kernels.inputs.rope import rope_tables


def draw(generator, device, N=3, H=8, G=2, C=64, P=16, positions=None):
    positions = torch.arange(N) * 977 if positions is None else positions
    cos, sin = rope_tables(positions, compress_ratio=4, rope_dim=P)
    cos[:, P // 2 :], sin[:, P // 2 :] = torch.nan, torch.nan  # only the first half is used
    return {
        "o_rope": torch.randn(N, H, P, generator=generator).to(device),
        "live_slots": torch.full((N,), 5, dtype=torch.int32, device=device),
        "freqs_cos": cos.to(device),
        "freqs_sin": sin.to(device),
        "o_packed": torch.randn(G, N, H // G * C, generator=generator).bfloat16().to(device),
    }


@pytest.mark.parametrize(("H", "G"), [(8, 2), (8, 8), (12, 2), (22, 2), (64, 8), (128, 16)])
@pytest.mark.parametrize(("C", "P"), [(64, 16), (32, 32), (16, 16), (512, 64)])
def test_against_reference(H, G, C, P, generator, device, poison):
    check_segment("inverse_rope", draw(generator, device, H=H, G=G, C=C, P=P), poison)


@pytest.mark.parametrize("N", [0, 1, 130])
def test_any_number_of_tokens(N, generator, device, poison):
    check_segment("inverse_rope", draw(generator, device, N=N), poison)


def test_positions_up_to_a_million(generator, device, poison):
    positions = torch.tensor([0, 1, 65535, 65536, 1_048_575])
    check_segment("inverse_rope", draw(generator, device, N=5, positions=positions), poison)


def test_undoes_rope(generator, device, poison):
    inputs = draw(generator, device, N=4)
    x = inputs["o_rope"].clone()
    cos = inputs["freqs_cos"][:, None, :8].float()
    sin = inputs["freqs_sin"][:, None, :8].float()
    even, odd = x[..., 0::2], x[..., 1::2]
    rotated = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
    got = run_kernel("inverse_rope", {**inputs, "o_rope": rotated}, poison)["o_packed"]
    got = got.view(2, 4, 4, 64)[..., 48:].transpose(0, 1).reshape(4, 8, 16).float()
    # cos**2 + sin**2 is 1 to a bf16 ulp of either, then one rounding to bf16.
    torch.testing.assert_close(got, x, rtol=0, atol=3 * 2**-8 * float(x.abs().max()))


def test_a_rotation_by_ninety_degrees_swaps_a_pair(generator, device, poison):
    inputs = draw(generator, device)
    inputs["freqs_cos"][:, :8], inputs["freqs_sin"][:, :8] = 0.0, 1.0
    got = run_kernel("inverse_rope", inputs, poison)["o_packed"]
    got = got.view(2, 3, 4, 64)[..., 48:].transpose(0, 1).reshape(3, 8, 16)
    x = inputs["o_rope"].bfloat16()
    assert torch.equal(got[..., 0::2], x[..., 1::2])
    assert torch.equal(got[..., 1::2], -x[..., 0::2])


def test_a_token_without_live_slots_is_zero_whatever_its_rotation(generator, device, poison):
    inputs = draw(generator, device)
    inputs["live_slots"][1] = 0
    inputs["o_rope"][1] = torch.nan
    inputs["freqs_cos"][1] = torch.nan
    got = run_kernel("inverse_rope", inputs, poison)["o_packed"]
    rope = torch.arange(4 * 64) % 64 >= 48
    assert (got[:, 1][:, rope] == 0).all()
    assert got.isfinite().all()


def test_one_live_slot_is_enough(generator, device, poison):
    inputs = draw(generator, device)
    inputs["live_slots"].fill_(1)
    got = check_segment("inverse_rope", inputs, poison)
    assert (got["o_packed"] != 0).all()
