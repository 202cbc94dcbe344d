"""What judges a chain's hand-overs sees a single wrong element in any of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from adversary import SMALL
from dsv4_kernels.chains.prefill import SCHEDULES
from dsv4_kernels.inputs.prefill import PrefillInputs, make_inputs
from reference import prefill_segments
from reference.bounds import Verdict, spacing
from reference.chain_bounds import HANDED_ON, code_steps, judge_chain, whole
from reference.oracle import attend

Buffers = dict[str, torch.Tensor]


def drawn(seed: int) -> PrefillInputs:
    """Four tokens, the last of them without a slot."""
    inputs = make_inputs(SMALL, tokens=4, start=60, seed=seed)
    inputs.cmp_sparse_lens[3] = 0
    return inputs


def judged(
    seed: int, schedule: str = "decoupled", change: Callable[[Buffers], None] = lambda got: None
) -> dict[str, Verdict]:
    """Verdicts on the reference's own hand-overs, with something wrong in them."""
    inputs = drawn(seed)
    got = prefill_segments(*inputs.args(), window=inputs.window, schedule=schedule)
    change(got)
    return judge_chain(inputs.args(), got, window=inputs.window, schedule=schedule)


def broken(verdicts: dict[str, Verdict]) -> set[str]:
    return {name for name, verdict in verdicts.items() if not verdict.holds}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_reference_holds_its_own_bounds(schedule, seed):
    verdicts = judged(seed, schedule)
    assert [*verdicts] == ["o_packed", "o_r", "codes", "attn_out"]
    assert broken(verdicts) == set()
    assert all(verdicts[name].deviation == 0 for name in ("o_r", "codes", "attn_out"))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("trial", range(20))
def test_a_single_wrong_code_is_seen(schedule, trial, seed):
    """One step off, wherever it is, and whatever the sample's size would allow of such."""

    def wrong(got: Buffers) -> None:
        codes = got["codes"].view(-1)
        place = (seed + 7919 * trial) % (3 * SMALL.groups * SMALL.o_lora_rank)
        codes[place] += -1 if codes[place] > 0 else 1

    assert "codes" in broken(judged(seed, schedule, wrong))


@pytest.mark.parametrize("steps", [2, 40])
def test_a_code_is_not_many_off(steps, seed):
    def wrong(got: Buffers) -> None:
        got["codes"][1, 0, 3] -= steps if got["codes"][1, 0, 3] > 0 else -steps

    assert "codes" in broken(judged(seed, change=wrong))


def test_an_element_of_attention_by_its_own_error(seed):
    """bf16 has 2**-8 of it as spacing; a hundredth of the largest is far more than rounding."""

    def wrong(got: Buffers) -> None:
        row = got["o_packed"][1, 2]
        row[5] += 0.02 * row.abs().max()

    assert "o_packed" in broken(judged(seed, change=wrong))


def test_o_r_may_differ_by_what_o_packed_does_to_it(seed):
    inputs = make_inputs(SMALL, tokens=4, start=60, seed=seed)
    wo_a = inputs.wo_a.double()

    def wrong(got: Buffers) -> None:
        packed = got["o_packed"].double()
        got["o_packed"] = (packed * (1 + 2.0**-6)).bfloat16()
        got["o_r"] = torch.einsum("gnj,grj->ngr", got["o_packed"].double(), wo_a).float()

    assert "o_r" not in broken(judged(seed, change=wrong))


def test_a_dead_token_s_attention_is_zero(seed):
    def wrong(got: Buffers) -> None:
        got["o_packed"][0, 3, 1] = 2.0**-100

    assert broken(judged(seed, change=wrong)) == {"o_packed"}


def test_a_sum_by_its_own_error(seed):
    def wrong(got: Buffers) -> None:
        got["o_r"][2, 1, 0] *= 1 + 2.0**-10

    assert "o_r" in broken(judged(seed, change=wrong))


@pytest.mark.parametrize("token", [1, 3])
def test_an_output_two_spacings_off(token, seed):
    def wrong(got: Buffers) -> None:
        out = got["attn_out"][token]
        out[3] = out[3] * (1 + 2.0**-6) if token == 1 else 2.0**-120

    assert broken(judged(seed, change=wrong)) == {"attn_out"}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_wrong_scale_reaches_the_output(schedule, seed):
    """The output is what these codes and scales give, and not what the reference's own do."""
    name = "row_scale" if schedule == "row_barrier" else "scale"

    def wrong(got: Buffers) -> None:
        out = got["attn_out"]
        got["attn_out"] = torch.where(out == out, -out, out)
        got[name] = got[name] * 1.01

    assert broken(judged(seed, schedule, wrong)) == {"attn_out"}


SPACING = 2.0**-18  # of fp32 around 63


@pytest.mark.parametrize(
    ("want", "got", "steps"),
    [
        (63.49, 63.49, 0),
        (63.4, 63.6, 1),  # a boundary at 63.5 lies between
        (63.6, 63.4, 1),
        (63.4, 63.45, 0),
        (10.0, 12.6, 3),  # boundaries at 10.5, 11.5 and 12.5
        (63.5, 63.5, 1),  # a tie
        (63.5 - 2 * SPACING, 63.5 - 2 * SPACING, 1),  # two spacings of fp32 reach it
        (63.5 - 3 * SPACING, 63.5 - 3 * SPACING, 0),
        (-20.4, -20.6, 1),
    ],
)
def test_steps_are_boundaries_in_between(want, got, steps):
    """The amax is 127, so that o_r is on the scale of the codes."""
    x, y = (torch.tensor([[[127.0, v]]]) for v in (want, got))
    found = code_steps(y, x, torch.round(x).to(torch.int8), by_token=False)
    assert found[0, 0].tolist() == [0, steps]


def test_an_amax_is_1e_4_at_least():
    o_r = torch.tensor([[[5e-5, 2e-5]]])  # 63.5 and 25.4 of 127
    codes = torch.tensor([[[64, 25]]], dtype=torch.int8)
    assert code_steps(o_r, o_r, codes, by_token=False)[0].tolist() == [[1, 0]]


def test_an_amax_that_moves_moves_its_group_or_its_token():
    want = torch.tensor([[[100.0, 50.2], [30.0, 20.0]]])
    got = torch.tensor([[[101.0, 50.2], [30.0, 20.0]]])  # 63.75 becomes 63.12 of 127
    for by_token, steps in ((False, [[0, 1], [0, 0]]), (True, [[0, 1], [0, 0]])):
        amax = want.abs().amax((1, 2) if by_token else 2, keepdim=True)
        codes = torch.round(want * 127 / amax).to(torch.int8)
        assert code_steps(got, want, codes, by_token=by_token)[0].tolist() == steps


def test_rows_behind_the_waves_that_ran_are_zeros(seed):
    """Two waves of two tokens, of which one ran."""
    inputs = make_inputs(SMALL, tokens=2, capacity=4, start=60, seed=seed)
    got = prefill_segments(*inputs.args(), window=inputs.window)
    for name, axis in (("o_packed", 1), ("o_r", 0), ("codes", 0), ("scale", 1)):
        got[name] = got[name].narrow(axis, 0, 2)

    def verdicts() -> dict[str, Verdict]:
        return judge_chain(inputs.args(), got, window=inputs.window, schedule="decoupled")

    assert broken(verdicts()) == set()
    got["attn_out"][3, 0] = 2.0**-120
    assert broken(verdicts()) == {"attn_out"}


def test_the_error_of_attention_by_hand(seed):
    """Three slots, two of them one row, and scores that are loud enough to count."""
    inputs = make_inputs(SMALL, tokens=2, start=60, seed=seed)
    inputs.q.mul_(10)
    inputs.cmp_sparse_lens[:] = 3
    indices = torch.full((2, 70), -1, dtype=torch.int32)  # two steps of 64 columns
    indices[:, :3] = SMALL.window + torch.tensor([0, 1, 0])
    inputs = dataclasses.replace(inputs, cmp_sparse_indices=indices)
    attended, error = attend(*inputs.args()[:12], window=inputs.window)

    q, kv = inputs.q[0].double(), inputs.kv_overlay[[0, 1, 0]].double()
    e = torch.exp(q @ kv.T / 64**0.5)
    p = e / (e.sum(1, keepdim=True) + inputs.attn_sink.double().exp()[:, None])
    magnitude = p @ kv.abs()
    u = 2.0**-24
    of_scores = (q.abs() @ kv.abs().T / 64**0.5).amax(1, keepdim=True)
    score = (16 * 64**0.5 + 4) * u * of_scores
    own = (2.0**-8 + 4 * score + (2 + 2) * 2 * 8 * u + 16 * 3**0.5 * u) * magnitude
    first, second = own[:, -16:].view(-1, 8, 2).unbind(-1)  # of the pairs that are turned
    cos, sin = inputs.freqs_cos[0, :8].double().abs(), inputs.freqs_sin[0, :8].double().abs()
    turned = first * cos + second * sin, second * cos + first * sin
    own[:, -16:] = torch.stack(turned, dim=-1).flatten(1)
    rounded = own + spacing(attended[0].abs() + own, torch.bfloat16)
    torch.testing.assert_close(error[0], rounded, rtol=1e-9, atol=0)


def test_what_is_handed_on_by_hand(seed):
    """One element of each deviates: by how much of its bound. The scales are a quarter larger, so
    that an output reaches where bf16 is coarser."""
    inputs = drawn(seed)
    got = prefill_segments(*inputs.args(), window=inputs.window)
    want = {name: tensor.clone() for name, tensor in got.items()}
    got["scale"] *= 1.25
    u = 2.0**-24

    attended, error = attend(*inputs.args()[:12], window=inputs.window)
    got["o_packed"][1, 1, 5] += 1  # of group 1, token 1: head 4, column 5
    off = got["o_packed"][1, 1, 5].double() - attended[1, 4, 5]
    used = {"o_packed": off.abs() / error[1, 4, 5]}

    got["o_r"][2, 1, 3] += 1
    off = got["o_r"][2, 1, 3].double() - want["o_r"][2, 1, 3].double()
    magnitude = got["o_packed"][1, 2].double().abs() @ inputs.wo_a[1, 3].double().abs()
    used["o_r"] = off / (16 * 256**0.5 * u * magnitude + u * want["o_r"][2, 1, 3].abs())

    weights = inputs.wo_b.double() * inputs.wo_b_scale[:, None].double()
    o_r, before = (
        (of["codes"][1].double() * of["scale"][:, 1, None].double()).flatten() for of in (got, want)
    )
    out = want["attn_out"][1].double().abs()
    allowed = ((o_r - before) @ weights.T).abs() + 2 * (2 + 4) * u * (o_r.abs() @ weights.abs().T)
    step = spacing(out + allowed, torch.bfloat16)
    column = int((step - spacing(out, torch.bfloat16)).argmax())
    got["attn_out"][1, column] += 1
    off = got["attn_out"][1, column].double() - want["attn_out"][1, column].double()
    used["attn_out"] = off / (allowed + step)[column]
    assert step[column] > spacing(out, torch.bfloat16)[column]

    verdicts = judge_chain(inputs.args(), got, window=inputs.window, schedule="decoupled")
    for name, of_bound in used.items():
        assert verdicts[name].used == pytest.approx(float(of_bound), rel=1e-5), name


def test_waves_are_joined_along_their_tokens():
    waves = {
        "o_packed": [torch.ones(2, 3, 8), torch.ones(2, 1, 8)],
        "scale": [torch.ones(2, 3), torch.ones(2, 1)],
        "codes": [torch.ones(3, 2, 4), torch.ones(1, 2, 4)],
        "row_scale": [torch.ones(3), torch.ones(1)],
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in whole(waves).items()}
    assert shapes == dict(o_packed=(2, 4, 8), scale=(2, 4), codes=(4, 2, 4), row_scale=(4,))
    assert waves.keys() <= {*HANDED_ON}
