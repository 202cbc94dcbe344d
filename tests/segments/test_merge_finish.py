"""merge_finish: the bytes of merge_norm and inverse_rope, in one kernel."""

from typing import Any

import pytest
import torch

from against import check_segment, run_kernel
from dsv4_kernels.inputs.rope import rope_tables
from dsv4_kernels.segments import merge_finish as module
from dsv4_kernels.segments.merge_finish import MergeFinishTiles
from poison import is_sentinel
from reference import merge_finish as reference
from reference.bounds import judge, spacing

BLOCKS = ("m", "l", "o")


def draw(generator, device, N=3, NB=3, H=8, C=64, G=2, P=16) -> dict[str, Any]:
    """What qk_softmax_pv hands over, and tables whose second halves nobody reads."""
    l = 1 + 127 * torch.rand(N, NB, H, generator=generator)
    cos, sin = rope_tables(torch.arange(N) * 977, compress_ratio=4, rope_dim=P)
    cos[:, P // 2 :], sin[:, P // 2 :] = torch.nan, torch.nan
    drawn = {
        "m": 3 * torch.randn(N, NB, H, generator=generator),
        "l": l,
        "o": l[..., None] * torch.randn(N, NB, H, C, generator=generator),
        "live_blocks": torch.full((N,), NB, dtype=torch.int32),
        "live_slots": torch.full((N,), 5, dtype=torch.int32),
        "attn_sink": torch.randn(H, generator=generator),
        "freqs_cos": cos,
        "freqs_sin": sin,
    }
    return {name: tensor.to(device) for name, tensor in drawn.items()} | {"groups": G}


def in_two(inputs, poison):
    """What merge_norm and inverse_rope make of them, one after the other."""
    cos, sin = (inputs[name] for name in ("freqs_cos", "freqs_sin"))
    blocked = {name: v for name, v in inputs.items() if not name.startswith("freqs_")}
    made = run_kernel("merge_norm", blocked | {"rope_dim": cos.shape[1]}, poison)
    rotated = dict(live_slots=inputs["live_slots"], freqs_cos=cos, freqs_sin=sin, **made)
    return run_kernel("inverse_rope", rotated, poison)["o_packed"]


def check(inputs, poison):
    """Held to the reference's bound and to the bytes of the two; o_packed."""
    got = check_segment("merge_finish", inputs, poison)["o_packed"]
    want = in_two(inputs, poison)
    assert torch.equal(got.view(torch.int16), want.view(torch.int16))
    return got


@pytest.mark.parametrize(
    ("H", "G"), [(8, 2), (8, 8), (16, 4), (12, 2), (22, 2), (64, 8), (128, 16)]
)
@pytest.mark.parametrize(("C", "P"), [(64, 16), (32, 32), (512, 64)])
def test_against_reference(H, G, C, P, generator, device, poison):
    check(draw(generator, device, H=H, G=G, C=C, P=P), poison)


@pytest.mark.parametrize("NB", [1, 2, 9])
@pytest.mark.parametrize("N", [0, 1, 130])
def test_any_number_of_tokens_and_blocks(N, NB, generator, device, poison):
    check(draw(generator, device, N=N, NB=NB), poison)


def test_sinks_and_scores_of_any_size(generator, device, poison):
    inputs = draw(generator, device)
    inputs["attn_sink"][:4] = torch.tensor([-torch.inf, torch.inf, 500.0, -500.0])
    inputs["m"][1] += 500
    inputs["m"][2] -= 500
    got = check(inputs, poison)
    assert (got[0, :, 64:128] == 0).all()  # the sink that takes everything
    assert (got[1, :2] != 0).any()


def test_every_pair_is_turned_back_by_its_own_angle(generator, device, poison):
    """One block, no sink: a rotated unit vector is one again, and only where it was."""
    inputs = draw(generator, device, NB=1)
    inputs["l"][:], inputs["attn_sink"][:] = 1.0, -torch.inf
    inputs["o"][:] = 0.0
    cos, sin = (inputs[name][:, None, :8].float() for name in ("freqs_cos", "freqs_sin"))
    inputs["o"][:, 0, :, 48::2], inputs["o"][:, 0, :, 49::2] = cos, sin
    got = run_kernel("merge_finish", inputs, poison)["o_packed"]
    heads = got.view(2, 3, 4, 64).float()
    assert (heads[..., :48] == 0).all()
    # cos**2 + sin**2 is 1 to a bf16 ulp of either.
    torch.testing.assert_close(heads[..., 48::2], torch.ones(2, 3, 4, 8), rtol=0, atol=3 * 2**-8)
    assert heads[..., 49::2].abs().max() <= 2**-8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_tables_that_servers_hold(dtype, generator, device, poison):
    """Interleaved, of either dtype, rows of something wider: the bytes of the other layout's."""
    inputs = draw(generator, device)
    cos, sin = (inputs[name][:, :8].to(dtype) for name in ("freqs_cos", "freqs_sin"))
    halves = {
        name: torch.cat([t, t], dim=1) for name, t in (("freqs_cos", cos), ("freqs_sin", sin))
    }
    want = run_kernel("merge_finish", inputs | halves, poison)["o_packed"]
    wide = torch.full((3, 48), torch.nan, dtype=dtype, device=device)
    wide[:, :16], wide[:, 32:] = cos.repeat_interleave(2, 1), sin.repeat_interleave(2, 1)
    got = torch.empty_like(want)
    taken = inputs | {"freqs_cos": wide[:, :16], "freqs_sin": wide[:, 32:], "o_packed": got}
    module.INTERLEAVED(None, **taken, sharers=1)
    assert torch.equal(got, want)


def test_a_token_without_live_slots_is_zero_whatever_it_holds(generator, device, poison):
    inputs = draw(generator, device)
    inputs["live_slots"][1] = 0
    for name in (*BLOCKS, "freqs_cos", "freqs_sin"):
        inputs[name][1] = torch.nan
    got = check(inputs, poison)
    assert (got[:, 1] == 0).all()
    assert got.isfinite().all()


def test_one_live_slot_is_enough(generator, device, poison):
    inputs = draw(generator, device)
    inputs["live_slots"].fill_(1)
    assert (check(inputs, poison) != 0).all()


def test_blocks_behind_the_live_ones_are_not_read(generator, device, poison):
    inputs = draw(generator, device)
    inputs["live_blocks"][:] = torch.tensor([1, 2, 3])
    for t, live in enumerate((1, 2)):
        for name in BLOCKS:
            inputs[name][t, live:] = torch.nan
    assert check(inputs, poison).isfinite().all()


def test_a_count_beyond_the_blocks_is_all_of_them(generator, device, poison):
    inputs = draw(generator, device)
    want = check(inputs, poison)
    inputs["live_blocks"][:] = 4
    assert torch.equal(run_kernel("merge_finish", inputs, poison)["o_packed"], want)


def test_sharers_have_one_count(generator, device, poison):
    inputs = draw(generator, device, N=5) | {"sharers": 2}
    inputs["live_blocks"] = torch.tensor([1, 3, 2], dtype=torch.int32, device=device)
    check(inputs, poison)


@pytest.mark.parametrize("groups", [range(0, 1), range(1, 3), range(3, 4), range(2, 2)])
def test_a_range_writes_its_groups_and_no_other(groups, generator, device, poison):
    inputs = draw(generator, device, H=16, G=4)
    want = run_kernel("merge_finish", inputs, poison)["o_packed"]
    got = run_kernel("merge_finish", inputs, poison, group_range=groups)["o_packed"]
    own = torch.tensor([g in groups for g in range(4)], device=device)
    assert torch.equal(got[own], want[own])
    assert is_sentinel(got[~own]).all()
    assert not is_sentinel(want).any()


@pytest.mark.parametrize("block_h", [1, 4, 32])
def test_head_tiles_change_no_bit(block_h, generator, device, poison):
    inputs = draw(generator, device, H=20)
    want = run_kernel("merge_finish", inputs, poison)["o_packed"]
    tiles = MergeFinishTiles(block_h=block_h)
    got = run_kernel("merge_finish", inputs, poison, tiles=tiles)["o_packed"]
    assert torch.equal(got, want)


@pytest.mark.parametrize("columns", [slice(0, 48), slice(48, 64)])
def test_the_bound_takes_a_neighbour_only_beside_a_tie(columns, generator):
    inputs = draw(generator, "cpu", N=60)
    inputs["live_slots"][1] = 0
    packed = reference.merge_finish(**inputs)
    own = reference.bound(inputs, {"o_packed": packed})["o_packed"]
    allowed = torch.as_tensor(own.allowed)
    assert (allowed[:, 1] == 0).all()
    part = torch.zeros_like(packed, dtype=torch.bool).unflatten(-1, (-1, 64))
    part[..., columns] = True
    part = part.flatten(-2) & (packed != 0)
    assert 0 < (allowed[part] > 0).double().mean() < 0.01
    for tie in (False, True):
        place = tuple(((allowed > 0) == tie).logical_and(part).nonzero()[0].tolist())
        held = []
        for sign in (-1, 1):
            got = packed.clone()
            got[place] += sign * spacing(packed[place], torch.bfloat16)
            held.append(judge("o_packed", got, packed, own).holds)
        assert any(held) == tie
