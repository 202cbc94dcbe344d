"""What judges a chain's hand-overs sees a single wrong element in any of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from adversary import SMALL
from dsv4_kernels.chains.prefill import SCHEDULES
from dsv4_kernels.inputs.prefill import make_inputs
from reference import prefill_segments
from reference.bounds import Verdict
from reference.chain_bounds import HANDED_ON, code_steps, judge_chain, whole
from reference.oracle import attend

Buffers = dict[str, torch.Tensor]


def judged(
    seed: int, schedule: str = "decoupled", change: Callable[[Buffers], None] = lambda got: None
) -> dict[str, Verdict]:
    """Verdicts on the reference's own hand-overs, with something wrong in them."""
    inputs = make_inputs(SMALL, tokens=4, start=60, seed=seed)
    inputs.cmp_sparse_lens[3] = 0
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


@pytest.mark.parametrize(
    ("want", "got", "steps"),
    [
        (63.49, 63.49, 0),
        (63.4, 63.6, 1),  # a boundary at 63.5 lies between
        (63.6, 63.4, 1),
        (63.4, 63.45, 0),
        (10.0, 12.6, 3),  # boundaries at 10.5, 11.5 and 12.5
        (63.5, 63.5, 1),  # a tie
        (-20.4, -20.6, 1),
    ],
)
def test_steps_are_boundaries_in_between(want, got, steps):
    """The amax is 127, so that o_r is on the scale of the codes."""
    x, y = (torch.tensor([[[127.0, v]]]) for v in (want, got))
    found = code_steps(y, x, torch.round(x).to(torch.int8), by_token=False)
    assert found[0, 0].tolist() == [0, steps]


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


def test_the_error_of_attention_is_of_its_rounding_s_size(seed):
    """One slot: its row comes out as it is, P = 1 and no sum; 100 scores of 400: their error rules.

    Two bounds by hand: HALF_BF16 and a spacing of the row, with a few fp32 roundings; and at least
    four errors of a score, each above 400 spacings of fp32.
    """
    inputs = make_inputs(SMALL, tokens=1, start=60, seed=seed)
    inputs.attn_sink[:] = -torch.inf
    inputs.cmp_sparse_lens[:] = 1
    attended, error = attend(*inputs.args()[:12], window=inputs.window)
    assert (error <= (2.0**-8 + 2.0**-7 + 2.0**-12) * 2 * attended.abs().amax()).all()
    assert (error >= 2.0**-8 * attended.abs()).all()
    inputs.q.mul_(100)
    _, louder = attend(*inputs.args()[:12], window=inputs.window)
    assert (louder.amax() - error.amax()) > 4 * 100 * 2.0**-24 * attended.abs().amax()


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
