"""attend_rows: gathered rows, online softmax, sink, rotation and packing in one kernel."""

from typing import Any

import pytest
import torch

from against import check_segment, run_kernel
from dsv4_kernels import ContractError, attend_rows
from dsv4_kernels.device import Target, route
from dsv4_kernels.inputs.rope import rope_tables
from dsv4_kernels.segments.attend_rows import STEP, AttendRowsTiles

NEG = -3.4028234663852886e38
NAMES = ("ori_kv", "kv_overlay", "cmp_kv")


def draw(generator, device, N=3, H=8, C=64, G=2, P=16, NB=2, live=0.4, X=1, B=8) -> dict[str, Any]:
    """Rows of all three pools, some twice, some dead; what no row names is NaN."""
    pages, T, U = 3, 11, -(-N // X)
    held = pages * B, T, 2 * pages * B
    bases = torch.tensor([0, held[0] + 1, held[0] + 1 + T + 1])
    which = torch.randint(0, 3, (U, NB * 128), generator=generator)
    within = (torch.rand(which.shape, generator=generator) * torch.tensor(held)[which]).long()
    rows = (bases[which] + within).int()
    rows[torch.rand(rows.shape, generator=generator) >= live] = -1
    # A token attends to some of the rows that its tile shares; a row by itself is its token's.
    own = torch.rand(N, NB * 128, generator=generator) < (0.6 if X > 1 else 1.0)
    alive = (rows.repeat_interleave(X, dim=0)[:N] >= 0) & own
    pools = {}
    for name, base, size in zip(NAMES, bases.tolist(), held, strict=True):
        pool = torch.randn(size, C, generator=generator).bfloat16()
        named = torch.zeros(size, dtype=torch.bool)
        named[rows[(rows >= base) & (rows < base + size)].long() - base] = True
        pool[~named] = torch.nan
        pools[name] = (pool if name == "kv_overlay" else pool.view(-1, B, C)).to(device)
    cos, sin = rope_tables(torch.arange(N) * 1000, compress_ratio=4, rope_dim=P)
    return {
        "q": torch.randn(N, H, C, generator=generator).bfloat16().to(device),
        **pools,
        "rows": rows.to(device),
        "bias": torch.where(alive, 0.0, NEG).to(device),
        "live_blocks": torch.full((U,), NB, dtype=torch.int32, device=device),
        "live_slots": alive.sum(1).int().to(device),
        "attn_sink": torch.randn(H, generator=generator).to(device),
        "freqs_cos": cos.to(device),
        "freqs_sin": sin.to(device),
        "groups": G,
        "sharers": X,
    }


def heads(o_packed, inputs):
    """[N, H, C] of [G, N, J]."""
    return o_packed.transpose(0, 1).reshape(inputs["q"].shape)


@pytest.mark.parametrize(
    ("H", "G", "C", "P", "NB"),
    [
        (1, 1, 16, 16, 1), (8, 1, 64, 16, 2), (16, 2, 128, 32, 3), (22, 2, 32, 32, 2),
        (64, 8, 64, 16, 9), (128, 16, 64, 16, 1),
    ],
)  # fmt: skip
def test_against_reference(H, G, C, P, NB, generator, device, poison):
    check_segment("attend_rows", draw(generator, device, H=H, G=G, C=C, P=P, NB=NB), poison)


@pytest.mark.parametrize("N", [0, 1, 130])
def test_any_number_of_tokens(N, generator, device, poison):
    check_segment("attend_rows", draw(generator, device, N=N, NB=1), poison)


@pytest.mark.parametrize(("H", "G"), [(64, 8), (128, 16), (8, 1)])
def test_full_widths(H, G, generator, device, poison):
    inputs = draw(generator, device, N=2, H=H, G=G, C=512, P=64, NB=5, B=128)
    check_segment("attend_rows", inputs, poison)


@pytest.mark.parametrize("X", [2, 8])
def test_tokens_that_share_rows_attend_to_their_own(X, generator, device, poison):
    inputs = draw(generator, device, N=11, X=X)
    got = check_segment("attend_rows", inputs, poison)["o_packed"]
    apart = dict(inputs, sharers=1)
    for name in ("rows", "live_blocks"):
        apart[name] = inputs[name].repeat_interleave(X, dim=0)[:11].contiguous()
    assert torch.equal(got, run_kernel("attend_rows", apart, poison)["o_packed"])


def test_a_running_maximum_that_rises_and_falls(generator, device, poison):
    """Columns in ascending and descending order of their scores, far apart: exp under- and
    overflows without the rescaling."""
    inputs = draw(generator, device, N=2, H=1, G=1, NB=2, live=1.0)
    inputs["q"].fill_(4.0)
    inputs["rows"][:] = torch.arange(256, device=device) % 11 + 25
    inputs["kv_overlay"][:] = torch.linspace(-4, 4, 11, device=device)[:, None].bfloat16()
    inputs["kv_overlay"][:, ::2] *= 0.5
    inputs["bias"].zero_()
    inputs["bias"][0] = torch.linspace(-300, 0, 256, device=device)
    inputs["bias"][1] = torch.linspace(0, -300, 256, device=device)
    got = check_segment("attend_rows", inputs, poison)["o_packed"]
    assert got.isfinite().all()


def test_the_step_is_part_of_the_numerics(generator, device, poison):
    """P is rounded by a maximum that 64 columns have moved, not 128."""
    inputs = draw(generator, device, N=1, live=1.0, NB=1)
    whole = run_kernel("attend_rows", inputs, poison)["o_packed"]
    inputs["rows"] = inputs["rows"].view(-1, 2, STEP).flip(1).flatten(1)
    other = run_kernel("attend_rows", inputs, poison)["o_packed"]
    assert not torch.equal(whole, other)
    torch.testing.assert_close(whole.float(), other.float(), rtol=0.02, atol=0.02)


def test_softmax_scale_comes_before_the_bias(generator, device, poison):
    inputs = draw(generator, device)
    inputs["softmax_scale"] = 0.7
    inputs["bias"] = inputs["bias"].clamp_min(-3.0)  # a bias that a scale would change
    inputs["rows"][inputs["rows"] < 0] = 25
    inputs["kv_overlay"][0] = 1
    check_segment("attend_rows", inputs, poison)


def test_the_default_scale_is_that_of_the_width(generator, device):
    inputs = draw(generator, device)
    want = attend_rows(**inputs, softmax_scale=64**-0.5)
    assert torch.equal(attend_rows(**inputs), want)
    assert not torch.equal(attend_rows(**inputs, softmax_scale=1.0), want)


def test_blocks_behind_the_live_ones_are_not_read(generator, device, poison):
    inputs = draw(generator, device, N=4, NB=3)
    inputs["live_blocks"][:] = torch.tensor([3, 2, 1, 0])
    inputs["live_slots"][3] = 0
    for t, blocks in enumerate([3, 2, 1, 0]):
        inputs["rows"][t, 128 * blocks :] = 2**30
        inputs["bias"][t, 128 * blocks :] = torch.nan
    got = check_segment("attend_rows", inputs, poison)["o_packed"]
    assert (got[:, 3] == 0).all()


def test_more_live_blocks_than_there_are_columns_are_all_of_them(generator, device, poison):
    inputs = draw(generator, device)
    want = run_kernel("attend_rows", inputs, poison)["o_packed"]
    inputs["live_blocks"].fill_(2**20)
    assert torch.equal(run_kernel("attend_rows", inputs, poison)["o_packed"], want)


def test_a_row_outside_of_its_pool_is_zeros(generator, device, poison):
    """The gaps between pools, and what no pool holds."""
    inputs = draw(generator, device, live=0.0)
    inputs["bias"].zero_()
    inputs["live_slots"].fill_(1)
    ring, chunk, compressed = 24, 11, 48
    inputs["rows"][:] = -1
    beside = [ring, ring + 1 + chunk, ring + chunk + 2 + compressed, 2**31 - 1, -(2**31)]
    inputs["rows"][:, :5] = torch.tensor(beside)
    got = check_segment("attend_rows", inputs, poison)["o_packed"]
    assert (got == 0).all()


def test_the_first_and_last_row_of_every_pool(generator, device, poison):
    """One live column reads its row back, but for the rotation and without a sink."""
    firsts_and_lasts = [0, 23, 25, 35, 37, 84]
    inputs = draw(generator, device, N=6, live=0.0)
    for name in NAMES:
        inputs[name].copy_(torch.randn(inputs[name].shape, generator=generator))
    inputs["rows"][:, 77] = torch.tensor(firsts_and_lasts, dtype=torch.int32)
    inputs["bias"][:, 77] = 0
    inputs["live_slots"].fill_(1)
    inputs["attn_sink"].fill_(-torch.inf)
    got = heads(check_segment("attend_rows", inputs, poison)["o_packed"], inputs)
    gap = torch.full((1, 64), torch.nan, device=device)
    pools = [inputs[name].reshape(-1, 64) for name in NAMES]
    rows = torch.cat([pools[0], gap, pools[1], gap, pools[2]])[firsts_and_lasts]
    assert torch.equal(got[..., :48].float(), rows[:, None, :48].expand(-1, 8, -1).float())


@pytest.mark.parametrize("apart", [("ori_kv",), ("cmp_kv",), ("ori_kv", "cmp_kv")])
def test_pages_may_lie_apart(apart, generator, device, poison):
    """NaN between them; a number that is no row's then lies between two pages' rows."""
    inputs = draw(generator, device)
    want = run_kernel("attend_rows", inputs, poison)["o_packed"]
    rows, base = inputs["rows"].clone(), 0
    for name in NAMES:
        held = inputs[name].numel() // 64
        of_pool = inputs["rows"] - base
        here = (of_pool >= 0) & (of_pool < held)
        behind = of_pool >= held
        base += held + 1
        if name in apart:
            pages = held // 8
            rows += torch.where(here, of_pool // 8, torch.where(behind, pages - 1, 0)).int()
            wide = torch.full((pages, 8 * 64 + 96), torch.nan, dtype=torch.bfloat16, device=device)
            wide[:, : 8 * 64] = inputs[name].view(pages, -1)
            inputs[name] = wide[:, : 8 * 64].unflatten(1, (8, 64))
    inputs["rows"] = rows
    got = check_segment("attend_rows", inputs, poison)["o_packed"]
    assert torch.equal(got, want)


@pytest.mark.parametrize("empty", ["ori_kv", "cmp_kv"])
def test_an_empty_pool_has_no_rows(empty, generator, device, poison):
    inputs = draw(generator, device)
    held, T = inputs["ori_kv"].shape[0] * 8, 11
    rows = inputs["rows"]
    if empty == "ori_kv":
        rows = torch.where(rows < held, -1, rows - held)
    else:
        rows = torch.where(rows > held + 1 + T, -1, rows)
    inputs |= {empty: inputs[empty][:0], "rows": rows}
    inputs["bias"] = torch.where(rows >= 0, inputs["bias"], NEG)
    check_segment("attend_rows", inputs, poison)


def test_a_token_without_live_slots_is_zero_whatever_it_holds(generator, device, poison):
    inputs = draw(generator, device)
    inputs["live_slots"][1] = 0
    for name in ("q", "bias", "freqs_cos", "freqs_sin"):
        inputs[name][1] = torch.nan
    got = check_segment("attend_rows", inputs, poison)["o_packed"]
    assert (got[:, 1] == 0).all()


def test_one_live_slot_is_enough(generator, device, poison):
    inputs = draw(generator, device)
    inputs["live_slots"].fill_(1)
    assert (check_segment("attend_rows", inputs, poison)["o_packed"] != 0).all()


@pytest.mark.parametrize("sink", [-torch.inf, torch.inf, 40.0, -40.0])
def test_the_sink_is_in_the_denominator_only(sink, generator, device, poison):
    inputs = draw(generator, device)
    inputs["attn_sink"][3] = sink
    got = heads(check_segment("attend_rows", inputs, poison)["o_packed"], inputs)
    assert (got[:, 3] == 0).all() == (sink == torch.inf)


def test_a_nan_in_a_live_row_reaches_its_token_and_no_other(generator, device, poison):
    inputs = draw(generator, device)
    want = heads(run_kernel("attend_rows", inputs, poison)["o_packed"], inputs)
    inputs["rows"][(inputs["rows"] == 30)] = 31
    inputs["kv_overlay"][5] = torch.nan  # row 25 + 5
    inputs["rows"][1, 3], inputs["bias"][1, 3] = 30, 0
    got = heads(run_kernel("attend_rows", inputs, poison)["o_packed"], inputs)
    assert got[1].isnan().all()
    inputs["rows"][1, 3], inputs["bias"][1, 3] = -1, NEG
    assert want.isfinite().all()
    again = heads(run_kernel("attend_rows", inputs, poison)["o_packed"], inputs)
    assert torch.equal(got[[0, 2]], again[[0, 2]])


@pytest.mark.parametrize("block_h", [1, 4, 64])
def test_head_tiles_change_no_bit(block_h, generator, device, poison):
    inputs = draw(generator, device, H=20)
    want = run_kernel("attend_rows", inputs, poison)["o_packed"]
    got = run_kernel("attend_rows", inputs, poison, tiles=AttendRowsTiles(block_h=block_h))
    assert torch.equal(got["o_packed"], want)


def test_a_token_has_the_same_bytes_alone(generator, device, poison):
    inputs = draw(generator, device, N=5)
    want = run_kernel("attend_rows", inputs, poison)["o_packed"]
    for t in range(5):
        alone = {
            name: value[t : t + 1] if name in PER_TOKEN else value for name, value in inputs.items()
        }
        got = run_kernel("attend_rows", alone, poison)["o_packed"]
        assert torch.equal(got, want[:, t : t + 1])


PER_TOKEN = ("q", "rows", "bias", "live_blocks", "live_slots", "freqs_cos", "freqs_sin")


def test_only_the_first_half_of_the_tables_is_used(generator, device, poison):
    inputs = draw(generator, device)
    want = run_kernel("attend_rows", inputs, poison)["o_packed"]
    inputs["freqs_cos"][:, 8:] = torch.nan
    inputs["freqs_sin"][:, 8:] = torch.nan
    assert torch.equal(run_kernel("attend_rows", inputs, poison)["o_packed"], want)


def test_queries_and_tables_may_lie_apart(generator, device, poison):
    """Rows at a stride, as slices of something wider."""
    inputs = draw(generator, device)
    want = run_kernel("attend_rows", inputs, poison)["o_packed"]
    for name in ("q", "freqs_cos", "freqs_sin"):
        flat = inputs[name].flatten(1)
        wide = torch.full((3, flat.shape[1] + 48), torch.nan, dtype=flat.dtype, device=device)
        wide[:, 32:-16] = flat
        inputs[name] = wide[:, 32:-16].view(inputs[name].shape)
    assert torch.equal(run_kernel("attend_rows", inputs, poison)["o_packed"], want)


def test_on_ascend_it_is_refused_with_its_reason(generator, device):
    inputs = draw(generator, torch.device("meta"))
    with (
        route("meta", Target("npu", "Ascend910B3", 20, 40), None),
        pytest.raises(
            (ContractError, AttributeError),  # the latter where no driver launches
            match=r"^attend_rows: `q` must be elsewhere \(an Ascend cube hands o to a vector core "
            r"at every step of an online softmax\), got Ascend910B3$",
        ),
    ):
        attend_rows(**inputs)
