"""The chain's two halves: the whole's bytes, fp32 parts, and what they refuse."""

import dataclasses

import pytest
import torch

from adversary import SMALL, adversarial_inputs
from dsv4_kernels import (
    ContractError,
    PrefillSparseAttn,
    grouped_o_proj,
    prefill_sparse_attn,
    prefill_sparse_attn_heads,
    sparse_attn,
    sparse_attn_heads,
    token_map,
)
from dsv4_kernels import device as devices
from dsv4_kernels.inputs.batch import Request, make_batch
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments.segment import Launch

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
    T, H, C = inputs.q.shape
    memory = inputs.q.new_zeros(12, H, C)
    apart = memory[: 2 * T : 2].copy_(inputs.q)  # rows 0, 2, 4 and 6
    given = (apart, *heads[1:])
    with pytest.raises(ContractError, match="`out` must be memory apart from `q`, got an overlap"):
        prefill_sparse_attn_heads(
            *given, groups=2, window=inputs.window, out=memory[6:10].view(over.shape)
        )
    assert torch.equal(apart, before)
    prefill_sparse_attn_heads(
        *given, groups=2, window=inputs.window, out=memory[7:11].view(over.shape)
    )
    o_packed, _ = prefill_sparse_attn_heads(*heads, groups=2, window=inputs.window)
    out = o_packed.view(-1)[: 4 * SMALL.hidden].view(4, SMALL.hidden)
    with pytest.raises(ContractError, match="`out` must be memory apart from `o_packed`"):
        grouped_o_proj(o_packed, *weights, out=out)


# Prefill, a step of decode, drafts, what pads a graph; tokens of no request behind them.
REQUESTS = (
    Request(100, 3, key=1), Request(0, 2), Request(61, 1, key=3), Request(46, 9, key=4)
)  # fmt: skip
CAPACITY = 19


def batch_halves(batch, *, wave_tokens=128, schedule="decoupled", out_dtype=None, **options):
    G, _, J = batch.wo_a.shape
    o_packed, live_slots = sparse_attn_heads(
        *batch.args()[:11], groups=G, wave_tokens=wave_tokens, **batch.options(), **options
    )
    assert o_packed.shape == (G, batch.q.shape[0], J)
    return grouped_o_proj(
        o_packed, *batch.args()[11:], live_slots=live_slots, wave_tokens=wave_tokens,
        schedule=schedule, out_dtype=out_dtype or torch.bfloat16,
    )  # fmt: skip


@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("schedule", ["decoupled", "row_barrier"])
@pytest.mark.parametrize("wave_tokens", [4, 128])
@pytest.mark.parametrize("ratio", [0, 4, 128])
def test_the_halves_of_a_batch(ratio, wave_tokens, schedule, out_dtype, seed, device, poison):
    """`sparse_attn`'s bytes; exact zeros of what is dead, whatever the weights hold."""
    batch = make_batch(
        SMALL, (*REQUESTS, Request(300, 2, key=5)), ratio=ratio, capacity=CAPACITY, gap=72,
        seed=seed,
    ).to(device)  # fmt: skip
    batch.wo_b_scale[3] = torch.nan
    named = dict(schedule=schedule, out_dtype=out_dtype)
    want = sparse_attn(*batch.args(), **batch.options(), **named)
    with poison.allocations():
        got = batch_halves(batch, wave_tokens=wave_tokens, **named)
    assert got.dtype == want.dtype == out_dtype
    assert torch.equal(got.view(torch.int8), want.view(torch.int8))
    dead = [3, 4, 17, 18]
    assert not got[dead].view(torch.int8).any()
    assert got[[0, 5, 16]].view(torch.int8).any(1).all()


@pytest.mark.parametrize(
    "options",
    [
        dict(rope_layout="half"),
        dict(softmax_scale=0.3),
        dict(max_seq_len=48, cmp_indices=None),
        dict(ori_indices=[[5, -1, 31, 0, 2]]),
        dict(token_map=True),
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_heads_of_a_batch_take_every_option(options, seed, device):
    batch = make_batch(SMALL, REQUESTS, ratio=4, capacity=CAPACITY, seed=seed).to(device)
    options = dict(options)
    if "ori_indices" in options:
        rows = torch.tensor(options["ori_indices"], dtype=torch.int32, device=device)
        options["ori_indices"] = rows.repeat(CAPACITY, 1)
    if "cmp_indices" in options:
        batch = dataclasses.replace(batch, cmp_indices=options.pop("cmp_indices"))
    if "token_map" in options:  # of another step: it is the map that counts
        other = dataclasses.replace(batch, seq_lens=batch.seq_lens - 5)
        plain = sparse_attn(*other.args(), **other.options())
        options["token_map"] = token_map(batch.query_start_loc, batch.seq_lens - 5, CAPACITY)
    else:
        plain = sparse_attn(*batch.args(), **batch.options(), **options)
    got = batch_halves(batch, wave_tokens=7, **options)
    assert torch.equal(got, plain)
    assert not torch.equal(got, batch_halves(batch))


def test_heads_replay_another_batch_in_place(seed, monkeypatch):
    """What a capture would have recorded, launched again on other counts in the same tensors."""
    drawn = [
        make_batch(SMALL, requests, ratio=4, capacity=CAPACITY, page_sizes=(128, 128), seed=seed)
        for requests in (
            REQUESTS,
            (Request(0, 0), Request(77, 1, key=7), Request(90, 8, key=8), Request(-1, 3)),
            (Request(0, 0),) * 4,
        )
    ]
    held = drawn[0]
    recorded, launch = [], Launch.__call__

    def noted(self, buffers):
        recorded.append((self, buffers))
        launch(self, buffers)

    want = [batch_halves(batch) for batch in drawn]
    with monkeypatch.context() as patch:
        patch.setattr(Launch, "__call__", noted)
        out = batch_halves(held)
    assert torch.equal(out, want[0])
    for batch, expected in zip(drawn[1:], want[1:], strict=True):
        for name in (
            "q", "ori_kv", "ori_block_table", "cmp_kv", "cmp_block_table", "cmp_indices",
            "query_start_loc", "seq_lens", "rope_cos", "rope_sin",
        ):  # fmt: skip
            own, new = getattr(held, name), getattr(batch, name)
            if name.endswith(("kv", "table")):
                own.fill_(-1)
                own = own[tuple(slice(n) for n in new.shape)]
            own.copy_(new)
        out.fill_(torch.nan)
        with devices.launching(out.device):
            for launched, buffers in recorded:
                launch(launched, buffers)
        assert torch.equal(out, expected)


def test_what_the_heads_of_a_batch_refuse(device, seed):
    batch = make_batch(SMALL, REQUESTS, ratio=4, capacity=CAPACITY, seed=seed).to(device)
    given, before = batch.args()[:11], batch.q.clone()
    packed = torch.empty(2, CAPACITY, 256, dtype=torch.bfloat16, device=device)
    over = batch.q.view(-1).view(2, CAPACITY, -1)  # [G, T, J]: the same elements
    for wrong, message in (
        (dict(groups=3), "`groups` must be a divisor of H=8, got 3"),
        (dict(groups=0), "`groups` must be an integer >= 1, got 0"),
        (dict(compress_ratio=-1), "`compress_ratio` must be an integer"),
        (dict(window=0), "`window` must be an integer"),
        (dict(max_seq_len=-1), "`max_seq_len` must be an integer"),
        (dict(wave_tokens=0), "`wave_tokens` must be an integer >= 1, got 0"),
        (dict(rope_layout="neox"), "`rope_layout` must be one of interleaved, half"),
        (dict(token_map=3), "`token_map` must be "),
        (dict(tiles=dict(nothing=None)), "`tiles` must be one of"),
        (dict(compress_ratio=0), "`cmp_kv` must be None for compress_ratio=0"),
        (dict(out=packed[:1]), r"`out` must be \[G=2, T=19, J=256\] bfloat16"),
        (dict(out=over), "`out` must be memory apart from `q`, got an overlap"),
        (dict(live_slots=batch.seq_lens), r"`live_slots` must be \[T=19\] int32"),
    ):
        with pytest.raises(ContractError, match=f"^(sparse_attn|sparse_attn_heads): {message}"):
            sparse_attn_heads(*given, **(dict(groups=2, **batch.options()) | wrong))
    for place, change, message in (
        (0, lambda x: x.float(), r"`q` must be \[T, H, C\] bfloat16"),
        (2, lambda x: x.long(), "`ori_block_table` must be "),
        (6, lambda x: x[:-1], "`query_start_loc` must be "),
        (8, lambda x: x[:-1], r"`attn_sink` must be \[H=8\]"),
        (9, lambda x: x[:, :8], "`rope_"),
    ):
        wrong = (*given[:place], change(given[place]), *given[place + 1 :])
        with pytest.raises(ContractError, match=f"^sparse_attn_heads: {message}"):
            sparse_attn_heads(*wrong, groups=2, **batch.options())
    assert torch.equal(batch.q.view(torch.int16), before.view(torch.int16))


def test_heads_of_an_odd_width_are_refused(seed):
    inputs = make_inputs(SMALL, tokens=3, start=40, seed=seed)
    batch = make_batch(SMALL, REQUESTS, ratio=0, seed=seed)
    wrong = [
        x[..., :48].contiguous() if n in (0, 1, 3, 4) else x
        for n, x in enumerate(inputs.args()[HEADS])
    ]
    with pytest.raises(ContractError, match=r"^prefill_sparse_attn_heads: `q` must be C a power"):
        prefill_sparse_attn_heads(*wrong, groups=2, window=inputs.window)
    wrong = [
        x[..., :48].contiguous() if n in (0, 1) else x for n, x in enumerate(batch.args()[:11])
    ]
    with pytest.raises(ContractError, match=r"^sparse_attn_heads: `q` must be C a power"):
        sparse_attn_heads(*wrong, groups=2, **batch.options())
