"""merge_norm: joining blocks, the sink, and where the columns go."""

import pytest
import torch

from against import check_segment, run_kernel
from reference import merge_norm as reference
from reference.bounds import U, judge, spacing

NEG = -3.4028234663852886e38


def draw(generator, device, N=3, NB=3, H=8, C=64, G=2, P=16):
    """What qk_softmax_pv hands over: maxima of N(0, 3), sums in 1..128, O of the sum's size."""
    l = 1 + 127 * torch.rand(N, NB, H, generator=generator)
    return {
        "m": (3 * torch.randn(N, NB, H, generator=generator)).to(device),
        "l": l.to(device),
        "o": (l[..., None] * torch.randn(N, NB, H, C, generator=generator)).to(device),
        "live_blocks": torch.full((N,), NB, dtype=torch.int32, device=device),
        "live_slots": torch.full((N,), 5, dtype=torch.int32, device=device),
        "attn_sink": torch.randn(H, generator=generator).to(device),
        "groups": G,
        "rope_dim": P,
    }


@pytest.mark.parametrize(
    ("H", "G"), [(8, 2), (8, 8), (16, 4), (12, 2), (22, 2), (64, 8), (128, 16)]
)
@pytest.mark.parametrize(("C", "P"), [(64, 16), (32, 32), (512, 64)])
def test_against_reference(H, G, C, P, generator, device, poison):
    check_segment("merge_norm", draw(generator, device, H=H, G=G, C=C, P=P), poison)


@pytest.mark.parametrize("NB", [1, 2, 9])
@pytest.mark.parametrize("N", [0, 1, 130])
def test_any_number_of_tokens_and_blocks(N, NB, generator, device, poison):
    check_segment("merge_norm", draw(generator, device, N=N, NB=NB), poison)


@pytest.mark.parametrize("size", [-500.0, 500.0])
def test_scores_of_any_size(size, generator, device, poison):
    """Only differences count: exp(size) alone would be 0 or infinite."""
    inputs = draw(generator, device)
    inputs["m"] += size
    inputs["attn_sink"] += size
    check_segment("merge_norm", inputs, poison)


def test_sinks_of_minus_and_plus_infinity(generator, device, poison):
    inputs = draw(generator, device)
    inputs["attn_sink"][0::2] = -torch.inf
    inputs["attn_sink"][1::2] = torch.inf
    got = check_segment("merge_norm", inputs, poison)["o_rope"]
    assert (got[:, 1::2] == 0).all()
    plain = inputs["o"][:, 0, 0::2, 48:] / inputs["l"][:, 0, 0::2, None]
    one = {**inputs, "m": inputs["m"][:, :1], "l": inputs["l"][:, :1], "o": inputs["o"][:, :1]}
    one = {name: v.contiguous() if isinstance(v, torch.Tensor) else v for name, v in one.items()}
    got = run_kernel("merge_norm", one, poison)["o_rope"][:, 0::2]
    torch.testing.assert_close(got, plain, rtol=4 * U, atol=0)


def test_the_sink_is_in_the_denominator_only_and_unscaled(generator, device, poison):
    inputs = draw(generator, device, NB=1)
    inputs["m"][:] = 1.0
    inputs["l"][:] = 2.0
    inputs["attn_sink"][:] = 1.5
    got = run_kernel("merge_norm", inputs, poison)["o_rope"]
    want = inputs["o"][:, 0, :, 48:] / (2.0 + torch.exp(torch.tensor(0.5)))
    torch.testing.assert_close(got, want, rtol=8 * U, atol=0)


@pytest.mark.parametrize("dead", [[0], [2], [0, 1], [1, 2]])
def test_all_dead_blocks_do_not_count(dead, generator, device, poison):
    """A leading one must not turn into NaN either."""
    inputs = draw(generator, device)
    inputs["m"][:, dead] = NEG
    inputs["l"][:, dead] = 128.0
    inputs["o"][:, dead] = 0.0
    got = check_segment("merge_norm", inputs, poison)
    live = [b for b in range(3) if b not in dead]
    alone = {k: inputs[k][:, live].contiguous() for k in ("m", "l", "o")}
    want = run_kernel("merge_norm", {**inputs, **alone}, poison)
    assert torch.equal(got["o_rope"], want["o_rope"])


def test_merging_five_blocks_is_merging_one(generator, device, poison):
    """A softmax over five blocks against the same columns seen as one."""
    S = torch.randn(2, 5, 8, 128, generator=generator)
    V = torch.randn(2, 5, 128, 64, generator=generator)
    common = draw(generator, device, N=2)

    def blocks(S, V):
        m = S.amax(-1)
        p = torch.exp(S - m[..., None])
        live_blocks = torch.full((2,), S.shape[1], dtype=torch.int32)
        parts = {"m": m, "l": p.sum(-1), "o": p @ V, "live_blocks": live_blocks}
        return {name: value.contiguous().to(device) for name, value in parts.items()}

    five = run_kernel("merge_norm", {**common, **blocks(S, V)}, poison)
    one = blocks(S.transpose(1, 2).reshape(2, 1, 8, 640), V.reshape(2, 1, 640, 64))
    one = run_kernel("merge_norm", {**common, **one}, poison)
    torch.testing.assert_close(five["o_rope"], one["o_rope"], rtol=0, atol=2e-6)


def test_a_token_without_live_slots_is_zero_whatever_it_holds(generator, device, poison):
    inputs = draw(generator, device)
    inputs["live_slots"][1] = 0
    for name in ("m", "l", "o"):
        inputs[name][1] = torch.nan
    got = run_kernel("merge_norm", inputs, poison)
    nope = torch.arange(4 * 64) % 64 < 48
    assert (got["o_packed"][:, 1][:, nope] == 0).all()
    assert (got["o_rope"][1] == 0).all()
    assert got["o_rope"][[0, 2]].isfinite().all()


def test_one_live_slot_is_enough(generator, device, poison):
    inputs = draw(generator, device)
    inputs["live_slots"].fill_(1)
    got = check_segment("merge_norm", inputs, poison)
    assert (got["o_rope"] != 0).all()


def test_a_live_nan_stays_in_its_row(generator, device, poison):
    inputs = draw(generator, device)
    inputs["o"][1, 2, 3, 60] = torch.nan
    got = run_kernel("merge_norm", inputs, poison)["o_rope"]
    assert got[1, 3, 60 - 48].isnan()
    got[1, 3, 60 - 48] = 0
    assert got.isfinite().all()


def test_blocks_behind_the_live_ones_are_not_read(generator, device, poison):
    inputs = draw(generator, device)
    inputs["live_blocks"][:] = torch.tensor([1, 2, 3])
    for t, live in enumerate((1, 2)):
        for name in ("m", "l", "o"):
            inputs[name][t, live:] = torch.nan
    got = check_segment("merge_norm", inputs, poison)
    assert got["o_rope"].isfinite().all()


def test_a_count_beyond_the_blocks_is_all_of_them(generator, device, poison):
    inputs = draw(generator, device)
    want = run_kernel("merge_norm", inputs, poison)["o_rope"]
    inputs["live_blocks"][:] = 4
    assert torch.equal(run_kernel("merge_norm", inputs, poison)["o_rope"], want)


def test_sharers_have_one_count(generator, device, poison):
    inputs = draw(generator, device, N=5) | {"sharers": 2}
    inputs["live_blocks"] = torch.tensor([1, 3, 2], dtype=torch.int32, device=device)
    check_segment("merge_norm", inputs, poison)


def test_the_bound_takes_a_neighbour_only_beside_a_tie(generator):
    inputs = draw(generator, "cpu")
    inputs["live_slots"][1] = 0
    packed, rope = reference.merge_norm(**inputs)
    bounds = reference.bound(inputs, {"o_packed": packed, "o_rope": rope})
    allowed = torch.as_tensor(bounds["o_packed"].allowed)
    nope = packed != 0  # of live tokens
    assert 0 < (allowed[nope] > 0).double().mean() < 0.01
    assert (allowed[:, 1] == 0).all()
    assert (torch.as_tensor(bounds["o_rope"].allowed)[1] == 0).all()
    for tie in (False, True):
        place = tuple(((allowed > 0) == tie).logical_and(nope).nonzero()[0].tolist())
        step = spacing(packed[place], torch.bfloat16)
        held = []
        for sign in (-1, 1):
            got = packed.clone()
            got[place] += sign * step
            held.append(judge("o_packed", got, packed, bounds["o_packed"]).holds)
        assert any(held) == tie
