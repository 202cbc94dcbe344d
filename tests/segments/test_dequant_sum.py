"""dequant_sum: groups in ascending order under their scales, one rounding to bf16."""

import pytest
import torch

from against import check_segment, run_kernel
from dsv4_kernels import ContractError, dequant_sum
from dsv4_kernels.segments.dequant_sum import SEGMENT, DequantSumTiles, of_groups
from poison import is_sentinel
from reference.bounds import U
from reference.compare import expected


def draw(generator, device, N=5, G=4, D=72):
    return {
        "partial": torch.randint(
            -(2**24), 2**24, (G, N, D), generator=generator, dtype=torch.int32
        ).to(device),
        "scale": (1e-3 + torch.rand(G, N, generator=generator)).to(device),
        "live_slots": torch.ones(N, dtype=torch.int32, device=device),
        "wo_b_scale": (1e-5 + 1e-3 * torch.rand(D, generator=generator)).to(device),
    }


@pytest.mark.parametrize(
    ("N", "G", "D"), [(0, 2, 72), (1, 1, 1), (5, 4, 72), (130, 3, 600), (9, 8, 4096), (2, 16, 7168)]
)
def test_against_reference(N, G, D, generator, device, poison):
    check_segment("dequant_sum", draw(generator, device, N=N, G=G, D=D), poison)


def test_the_order_of_groups_is_ascending(device, poison):
    """fp32 sums that only come out this way: (2**24 + 1) + 1 stays, (1 + 1) + 2**24 grows."""
    ones = torch.ones(1, 1, dtype=torch.int32)
    partial = torch.stack([2**24 * ones, ones, ones, -(2**24) * ones]).to(device)
    inputs = {
        "partial": partial,
        "scale": torch.ones(4, 1, device=device),
        "live_slots": torch.ones(1, dtype=torch.int32, device=device),
        "wo_b_scale": torch.ones(1, device=device),
    }
    assert float(run_kernel("dequant_sum", inputs, poison)["attn_out"]) == 0.0
    flipped = {**inputs, "partial": partial.flip(0).contiguous()}
    assert float(run_kernel("dequant_sum", flipped, poison)["attn_out"]) == 2.0


def test_partials_are_exact_in_fp32(device, poison):
    """2**24 - 1 keeps its last bit: times 2**-8, minus 2**16, it is -2**-8."""
    partial = torch.tensor([2**24 - 1, -(2**24)], dtype=torch.int32).view(2, 1, 1).to(device)
    inputs = {
        "partial": partial,
        "scale": torch.full((2, 1), 2.0**-8, device=device),
        "live_slots": torch.ones(1, dtype=torch.int32, device=device),
        "wo_b_scale": torch.ones(1, device=device),
    }
    assert float(run_kernel("dequant_sum", inputs, poison)["attn_out"]) == -(2.0**-8)


def test_a_nan_scale_reaches_its_token_only(generator, device, poison):
    inputs = draw(generator, device)
    inputs["scale"][1, 3] = torch.nan
    got = run_kernel("dequant_sum", inputs, poison)["attn_out"]
    assert got[3].isnan().all()
    got[3] = 0
    assert got.isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1.0])
def test_a_dead_token_is_exact_zeros_whatever_the_scales_hold(bad, generator, device, poison):
    inputs = draw(generator, device, N=11)  # two tiles of tokens
    inputs["live_slots"][[2, 9]] = 0
    inputs["scale"][:, [2, 5]] = bad
    inputs["wo_b_scale"][4] = bad
    got = check_segment("dequant_sum", inputs, poison)["attn_out"]
    dead = got[[2, 9]]
    assert not dead.view(torch.int16).any()  # no negative zero either
    assert got[[0, 1, 3, 4, 6, 7, 8, 10]][:, :4].isfinite().all()


def test_a_negative_scale_of_a_channel_is_only_a_sign(generator, device, poison):
    inputs = draw(generator, device)
    want = run_kernel("dequant_sum", inputs, poison)["attn_out"]
    negative = {**inputs, "wo_b_scale": -inputs["wo_b_scale"]}
    assert torch.equal(run_kernel("dequant_sum", negative, poison)["attn_out"], -want)
    inputs["partial"].zero_()[0] = 257  # between 256 and 258 in bf16
    inputs["scale"].fill_(1)
    for sign in (1.0, -1.0):
        inputs["wo_b_scale"].fill_(sign)
        _, bound = expected("dequant_sum", inputs, ("attn_out",))["attn_out"]
        assert (torch.as_tensor(bound.allowed) == 2).all()


def test_fp32_is_what_bf16_rounds(generator, device, poison):
    """A rank's part of the sum, equal to the reference's before its rounding."""
    inputs = draw(generator, device, N=11, G=3, D=600)
    inputs["live_slots"][4] = 0
    out = poison.tensor(11, 600, dtype=torch.float32)
    got = dequant_sum(**inputs, attn_out=out)
    assert got is out
    assert torch.equal(got.bfloat16(), run_kernel("dequant_sum", inputs, poison)["attn_out"])
    assert not got.equal(got.bfloat16().float())
    want = torch.zeros(11, 600)
    for g in range(3):
        want += inputs["partial"][g].cpu().float() * inputs["scale"][g].cpu()[:, None]
    want *= inputs["wo_b_scale"].cpu()
    want[4] = 0
    # The bound of the reference, without the spacing of a bf16.
    magnitude = (inputs["partial"].double().abs() * inputs["scale"].double()[..., None]).sum(0)
    allowed = 2 * (3 + 2) * U * (magnitude * inputs["wo_b_scale"].double()).cpu()
    deviation = (got.cpu().double() - want.double()).abs()
    assert (deviation - allowed).max() <= 0
    assert not got[4].view(torch.int32).any()


# -- some of the groups a launch


def in_chunks(inputs, size, poison, dtype=torch.bfloat16):
    """The output of one launch for each `size` groups, in memory that nobody wrote."""
    G, N, D = inputs["partial"].shape
    sums = poison.tensor(N, D, dtype=torch.float32)
    out = poison.tensor(N, D, dtype=dtype)
    for first in range(0, G, size):
        groups = range(first, min(first + size, G))
        assert is_sentinel(out).all()  # nothing is rounded before the last group
        part = of_groups(SEGMENT, groups, G)
        part(None, **inputs, sums=sums, attn_out=out, group_range=groups)
    return out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("N", "G", "D", "size"),
    [(130, 3, 600, 1), (130, 3, 600, 2), (5, 8, 72, 3), (9, 8, 4096, 4), (2, 16, 7168, 4)],
)
def test_chunks_of_groups_give_the_bytes_of_one_launch(
    N, G, D, size, dtype, generator, device, poison
):
    inputs = draw(generator, device, N=N, G=G, D=D)
    inputs["live_slots"][N // 2] = 0
    want = dequant_sum(**inputs, attn_out=poison.tensor(N, D, dtype=dtype))
    assert torch.equal(in_chunks(inputs, size, poison, dtype), want)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_sums_between_chunks_are_fp32(size, device, poison):
    """2**24 - 1 times 2**-8 keeps its last bit, wherever the sum is put down and taken up."""
    partial = torch.tensor([2**24 - 1, 0, 0, -(2**24)], dtype=torch.int32).view(4, 1, 1).to(device)
    inputs = {
        "partial": partial,
        "scale": torch.full((4, 1), 2.0**-8, device=device),
        "live_slots": torch.ones(1, dtype=torch.int32, device=device),
        "wo_b_scale": torch.ones(1, device=device),
    }
    assert float(in_chunks(inputs, size, poison)) == -(2.0**-8)


def test_a_dead_token_is_zeros_after_chunks_too(generator, device, poison):
    inputs = draw(generator, device, N=11)
    inputs["live_slots"][[2, 9]] = 0
    inputs["scale"][:, [2, 9]] = torch.nan
    got = in_chunks(inputs, 2, poison)
    assert not got[[2, 9]].view(torch.int16).any()
    assert got.isfinite().all()


@pytest.mark.parametrize("groups", [range(2), range(1, 3), range(2, 4)])
def test_sums_are_checked(groups, generator, device):
    inputs = draw(generator, device)
    wrong = torch.zeros(5, 72, dtype=torch.bfloat16, device=device)
    with pytest.raises(ContractError, match=r"^dequant_sum: `sums` must be \[N=5, D=72\] float32"):
        of_groups(SEGMENT, groups, 4)(
            None, **inputs, sums=wrong, attn_out=wrong.clone(), group_range=groups
        )
    assert not wrong.any()


def test_chunks_have_the_tiles_that_are_chosen(generator, device):
    inputs = draw(generator, device)
    buffers = inputs | dict(sums=torch.zeros(5, 72), attn_out=torch.zeros(5, 72).bfloat16())
    chosen = SEGMENT.with_tiles(DequantSumTiles(block_t=4, block_d=32))
    for groups in (range(2), range(1, 3), range(2, 4), range(4)):
        bound = of_groups(chosen, groups, 4).bind(buffers, groups)
        assert bound.tiles == chosen.chosen  # type: ignore[attr-defined]


def test_what_a_launch_of_some_groups_moves(generator, device):
    """Its own partials and scales; the sums in but for the first, out but for the last."""
    inputs = draw(generator, device)
    tensors = inputs | dict(sums=torch.zeros(5, 72), attn_out=torch.zeros(5, 72).bfloat16())

    def moved(groups: range) -> int:
        part = of_groups(SEGMENT, groups, 4)
        names = part.reads + part.writes + part.updates
        return part.cost({name: tensors[name] for name in names}).bytes

    whole, sums = moved(range(4)), 5 * 72 * 4
    finished = 5 * 4 + 72 * 4 + 5 * 72 * 2
    assert moved(range(2)) == whole - finished + sums
    assert moved(range(1, 3)) == whole - finished + 2 * sums
    assert moved(range(2, 4)) == whole + sums
