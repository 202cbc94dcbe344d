"""The chain's two halves: the whole's bytes, fp32 parts, and what they refuse."""

import pytest
import torch

from adversary import SMALL, adversarial_inputs
from dsv4_kernels import (
    ContractError,
    PrefillSparseAttn,
    grouped_o_proj,
    prefill_sparse_attn,
    prefill_sparse_attn_heads,
)
from dsv4_kernels.inputs.prefill import make_inputs

HEADS = slice(0, 12)  # the arguments of attention, of the chain's fifteen


def halves(inputs, *, wave_tokens=128, schedule="decoupled", **projection):
    o_packed, live_slots = prefill_sparse_attn_heads(
        *inputs.args()[HEADS], groups=inputs.wo_a.shape[0], window=inputs.window,
        wave_tokens=wave_tokens,
    )  # fmt: skip
    assert o_packed.shape == (inputs.wo_a.shape[0], inputs.q.shape[0], inputs.wo_a.shape[2])
    return grouped_o_proj(
        o_packed, *inputs.args()[12:], live_slots=live_slots, wave_tokens=wave_tokens,
        schedule=schedule, **projection,
    )  # fmt: skip


@pytest.mark.parametrize("schedule", ["decoupled", "row_barrier"])
@pytest.mark.parametrize("wave_tokens", [4, 128])
def test_the_halves_give_the_whole_s_bytes(schedule, wave_tokens, generator, device, poison):
    inputs = adversarial_inputs(generator=generator, device=device)  # dead rows and NaN around
    inputs.wo_b_scale[3] = torch.nan
    want = prefill_sparse_attn(*inputs.args(), window=inputs.window, schedule=schedule)
    with poison.allocations():
        got = halves(inputs, wave_tokens=wave_tokens, schedule=schedule)
    assert torch.equal(got.view(torch.int16), want.view(torch.int16))
    assert not want[-1].view(torch.int16).any()  # num_tokens < T


@pytest.mark.parametrize("num_tokens", [0, 3, 9])
def test_rows_past_the_live_tokens_are_zeros(num_tokens, seed, device, poison):
    """Though they name rows of KV as a full chunk's would."""
    inputs = make_inputs(SMALL, tokens=num_tokens, capacity=9, start=40, seed=seed).to(device)
    with poison.allocations():
        o_packed, live_slots = prefill_sparse_attn_heads(
            *inputs.args()[HEADS], groups=2, window=inputs.window, wave_tokens=2
        )
    assert not o_packed[:, num_tokens:].view(torch.int16).any()
    assert not live_slots[num_tokens:].any()


def test_without_live_slots_all_count(device, seed):
    inputs = make_inputs(SMALL, tokens=5, start=40, seed=seed).to(device)
    o_packed, live_slots = prefill_sparse_attn_heads(
        *inputs.args()[HEADS], groups=2, window=inputs.window
    )
    assert (live_slots > 0).all()
    out = torch.empty(5, SMALL.hidden, dtype=torch.bfloat16, device=device)
    assert grouped_o_proj(o_packed, *inputs.args()[12:], out=out) is out
    assert out.equal(prefill_sparse_attn(*inputs.args(), window=inputs.window))


@pytest.mark.parametrize("schedule", ["decoupled", "row_barrier"])
def test_fp32_parts_round_to_the_whole(schedule, device, seed):
    """By every way to ask for them."""
    inputs = make_inputs(SMALL, tokens=5, start=40, seed=seed).to(device)
    named = dict(window=inputs.window, schedule=schedule)
    want = prefill_sparse_attn(*inputs.args(), **named)
    part = prefill_sparse_attn(*inputs.args(), **named, out_dtype=torch.float32)
    assert part.dtype == torch.float32
    assert part.bfloat16().equal(want)
    assert not part.equal(want.float())
    assert halves(inputs, schedule=schedule, out_dtype=torch.float32).equal(part)
    out = torch.empty_like(part)
    plan = PrefillSparseAttn(*inputs.args(), **named, out_dtype=torch.float32)
    assert plan.run(*inputs.args(), out=out).equal(part)
    assert plan.run(*inputs.args()).equal(part)


def test_what_the_halves_refuse(device, seed):
    inputs = make_inputs(SMALL, tokens=3, start=40, seed=seed).to(device)
    heads, weights = inputs.args()[HEADS], inputs.args()[12:]
    o_packed, _ = prefill_sparse_attn_heads(*heads, groups=2, window=inputs.window)
    for wrong, message in (
        (dict(groups=3), "`groups` must be a divisor of H=8, got 3"),
        (dict(groups=0), "`groups` must be an integer >= 1, got 0"),
        (dict(groups=2, out=o_packed[:1]), r"`out` must be \[G=2, T=3, J=256\] bfloat16"),
        (dict(groups=2, wave_tokens=0), "`wave_tokens` must be"),
    ):
        with pytest.raises(ContractError, match=f"^prefill_sparse_attn_heads: {message}"):
            prefill_sparse_attn_heads(*heads, window=inputs.window, **wrong)
    leaf = torch.empty(3, SMALL.hidden, dtype=torch.bfloat16, device=device, requires_grad=True)
    for wrong, message in (
        (dict(out_dtype=torch.float16), "`out_dtype` must be torch.bfloat16 or torch.float32"),
        (dict(out=leaf), "`out` must be a tensor that may be written"),
        (dict(live_slots=torch.ones(4, dtype=torch.int32)), r"`live_slots` must be \[T=3\] int32"),
        (dict(schedule=["decoupled"]), "`schedule` must be one of decoupled, row_barrier"),
    ):
        with pytest.raises(
            ContractError, match=f"^(grouped_o_proj|prefill_sparse_attn): {message}"
        ):
            grouped_o_proj(o_packed, *weights, **wrong)
    with pytest.raises(ContractError, match="`out_dtype` must be torch"):
        prefill_sparse_attn(*inputs.args(), window=inputs.window, out_dtype=torch.float16)


def test_an_output_over_an_argument_is_refused(device, seed):
    """The waves behind would read what the first have written."""
    inputs = make_inputs(SMALL, tokens=4, start=40, seed=seed).to(device)
    heads, weights = inputs.args()[HEADS], inputs.args()[12:]
    before = inputs.q.clone()
    over = inputs.q.view(-1).view(2, 4, -1)  # [G, T, J]: the same elements
    with pytest.raises(ContractError, match="`out` must be memory apart from `q`, got an overlap"):
        prefill_sparse_attn_heads(*heads, groups=2, window=inputs.window, out=over)
    lens = inputs.cmp_sparse_lens
    with pytest.raises(ContractError, match="`live_slots` must be memory apart from `cmp_sparse_l"):
        prefill_sparse_attn_heads(*heads, groups=2, window=inputs.window, live_slots=lens)
    assert torch.equal(inputs.q, before)
    o_packed, _ = prefill_sparse_attn_heads(*heads, groups=2, window=inputs.window)
    out = o_packed.view(-1)[: 4 * SMALL.hidden].view(4, SMALL.hidden)
    with pytest.raises(ContractError, match="`out` must be memory apart from `o_packed`"):
        grouped_o_proj(o_packed, *weights, out=out)
