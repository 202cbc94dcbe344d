"""sparse_attn with KV moved once for neighbouring tokens of a request."""

import dataclasses

import pytest
import torch

from adversary import INT32_MAX, INT32_MIN, SMALL
from batches import check, healed, hostile, near, on, run, same
from dsv4_kernels import (
    ContractError,
    SparseAttn,
    grouped_o_proj,
    sparse_attn_heads,
    token_map,
)
from dsv4_kernels import device as devices
from dsv4_kernels.buffers import most_tiles
from dsv4_kernels.chains import ops  # noqa: F401 - registers torch.ops.dsv4
from dsv4_kernels.inputs.batch import Request, make_batch
from dsv4_kernels.segments.shared_requests import SHARED_REQUESTS
from dsv4_kernels.segments.tile_map import TILE_MAP
from reference.batch import places
from reference.compare import compare
from reference.tile_map import room
from reference.tile_map import tile_map as reference_map

# Prefill, drafts, decode, dead requests between, and one from its first token on.
MIXED = (
    Request(100, 19, key=1), Request(0, 2), Request(61, 1, key=2), Request(9, 9, key=3),
    Request(46, 3, key=4), Request(0, 0), Request(3, 3, key=5),
)  # fmt: skip
LIVE = 19 + 2 + 1 + 9 + 3 + 3

FORMS = ["lanes"] if devices.best().type == "cuda" else ["fused", "lanes"]
forms = pytest.mark.parametrize("attention", FORMS)
sharers = pytest.mark.parametrize("X", [2, 4, 8])


def mixed(ratio, seed, page_sizes=(12, 5), **options):
    options |= dict(ratio=ratio, listed=False, page_sizes=page_sizes, seed=seed)
    return make_batch(SMALL, MIXED, **options)


@forms
@sharers
@pytest.mark.parametrize("ratio", [0, 1, 3, 4, 128])
def test_kinds_of_layers(ratio, X, attention, seed, device):
    """The bytes of the raw entry, whose rows the contract's words name: fewer than 128 columns are
    one block for it too, and their order is theirs."""
    batch = mixed(ratio, seed, capacity=LIVE + 3, gap=8)
    shared = run(batch, device, attention=attention, sharers=X)
    alone = check(batch, device, attention=attention)
    near(shared, alone)
    if ratio != 1:
        assert same(shared, alone)


@forms
@sharers
def test_segments_against_their_references(X, attention, seed, device):
    """Tiles, rows and biases to the byte, over three waves that cut requests."""
    batch = on(device, mixed(3, seed, capacity=LIVE + 3, gap=8))
    own = {"tile_map": TILE_MAP, "shared_requests": SHARED_REQUESTS}
    seen = []

    def executor(nodes, waves):
        for node in nodes:
            node.run(waves)
            if segment := own.get(node.name):
                buffers = waves[node.wave]
                taken, made = segment.inputs_of(buffers), segment.outputs_of(buffers)
                for verdict in compare(node.name, taken, made):
                    assert verdict.holds, str(verdict)
                seen.append(node.name)

    run(batch, device, attention=attention, sharers=X, wave_tokens=15, executor=executor)
    assert seen.count("tile_map") == seen.count("shared_requests") == 3


@forms
@pytest.mark.parametrize("wave_tokens", [1, 5, 8, 16])
def test_a_token_has_its_bytes_in_any_wave(wave_tokens, attention, seed, device):
    for ratio in (0, 1, 3):
        batch = mixed(ratio, seed)
        options = dict(attention=attention, sharers=8)
        want = run(batch, device, **options)
        assert same(run(batch, device, wave_tokens=wave_tokens, **options), want)


@forms
@sharers
@pytest.mark.parametrize("window", [24, 125, 256])
def test_alone_packed_chunked_and_step_by_step(window, X, attention, seed, device):
    """Of more columns than a block, in which tiles cut at other tokens would begin elsewhere."""
    dims, options = dataclasses.replace(SMALL, window=window), dict(attention=attention, sharers=X)
    length, last = 301, 22
    make = dict(ratio=3, listed=False, page_sizes=(12, 5), seed=seed)
    whole = (Request(length, last, key=9),)
    want = run(make_batch(dims, whole, **make), device, **options)
    other = (Request(33, 5, key=3), Request(8, 2, key=4))
    packed = run(make_batch(dims, (*other, *whole, *other), **make), device, **options)
    assert same(packed[7 : 7 + last], want)
    for sizes in ((3, 9, 10), (1,) * last):
        parts, end = [], length - last
        for size in sizes:
            end += size
            batch = make_batch(dims, (Request(end, size, key=9), *other), **make)
            parts.append(run(batch, device, **options)[:size])
        assert same(torch.cat(parts), want)


@pytest.mark.skipif(devices.best().type == "cuda", reason="one_kernel is CUDA's default")
def test_operators_share(seed, device):
    """Of batches of any number of requests, in a workspace each; heads and their projection."""
    dims = dataclasses.replace(SMALL, window=125)
    for requests in (MIXED, (*MIXED, Request(0, 0)), MIXED[:2]):
        batch = make_batch(dims, requests, ratio=3, listed=False, capacity=LIVE, seed=seed)
        options = batch.options() | dict(sharers=8)
        want = run(batch, device, sharers=8)
        assert not same(run(batch, device), want)  # rounded otherwise
        assert same(torch.ops.dsv4.sparse_attn(*on(device, batch).args(), **options).cpu(), want)
        given = on(device, batch).args()
        for heads in (sparse_attn_heads, torch.ops.dsv4.sparse_attn_heads):
            packed, live = heads(*given[:11], groups=SMALL.groups, **options)
            got = grouped_o_proj(packed, *given[11:], live_slots=live)
            assert same(got.cpu(), want)


@pytest.mark.skipif("fused" not in FORMS, reason="CUDA has no room for KV that stays")
def test_a_tail_in_two_segments_has_the_bytes_of_one(seed, device):
    batch = mixed(3, seed)
    one, two = (
        run(batch, device, attention=form, sharers=8) for form in ("fused", "separate_tail")
    )
    assert same(one, two)


@forms
def test_the_longest_request_bounds_the_columns(attention, seed, device):
    """Of a tile as of a token, whatever the lengths are."""
    batch = mixed(1, seed)
    options = dict(attention=attention, max_seq_len=40)
    near(run(batch, device, sharers=8, **options), run(batch, device, **options))


@forms
def test_pages_may_lie_anywhere(attention, seed, device):
    """And a table is garbage behind the length and before the window."""
    batch = mixed(3, seed, page_sizes=(8, 8))
    want = run(batch, device, attention=attention, sharers=8)
    order = torch.randperm(len(batch.ori_kv), generator=torch.Generator().manual_seed(seed))
    moved = torch.where(
        (batch.ori_block_table >= 0) & (batch.ori_block_table < len(order)),
        order.argsort()[batch.ori_block_table.clamp(0, len(order) - 1).long()].int(),
        batch.ori_block_table,
    )
    for entry in (0, -1, INT32_MAX, INT32_MIN, 3):
        table = moved.clone()
        table[0, :7] = entry  # positions below 56 of a window from 58 on
        table[0, 13:] = entry
        other = dataclasses.replace(batch, ori_kv=batch.ori_kv[order], ori_block_table=table)
        assert same(run(other, device, attention=attention, sharers=8), want)


@forms
def test_nan_stays_in_its_request(attention, seed, device):
    """A row that only one token of a tile may see reaches its neighbours, and no other request."""
    batch = mixed(0, seed, page_sizes=(1, 1))
    want = run(batch, device, attention=attention, sharers=8)
    table = batch.ori_block_table
    row = int(table[0, 99])  # of the newest position of the first request, 96..99 a tile
    spoilt = batch.ori_kv.clone()
    spoilt[row] = torch.nan
    got = run(dataclasses.replace(batch, ori_kv=spoilt), device, attention=attention, sharers=8)
    assert got[18].isnan().all()
    assert same(got[19:], want[19:])
    assert same(got[:15], want[:15])  # 81..95, of earlier tiles


@pytest.mark.parametrize("attention", FORMS)
def test_integers_of_any_bits(attention, generator, device):
    """The result is that of tokens by themselves, whatever the starts and lengths are."""
    for seed in range(6):
        batch = mixed(3, seed, gap=8)
        wild = healed(hostile(batch, generator))
        got = run(wild, device, attention=attention, sharers=4, wave_tokens=16)
        near(got, run(wild, device, attention=attention))


@sharers
@pytest.mark.parametrize("S", [0, 1, 3, 40])
def test_tiles_of_any_map(S, X, generator, device):
    """Of starts and lengths of any bits; then of requests and positions that are no batch's."""
    for wild in (False, True):
        for _ in range(4):
            starts = torch.randint(-3, 40, (S + 1,), generator=generator).int()
            lengths = torch.randint(-3, 60, (S,), generator=generator).int()
            mapped = places(starts, lengths, 37)
            r, p = torch.tensor(mapped, dtype=torch.int32).reshape(-1, 2).T.contiguous()
            if wild:
                r = torch.randint(-1, S + 1, (37,), generator=generator).int()
                p = torch.randint(-1, 3, (37,), generator=generator).int()
            given = dict(request=r.to(device), position=p.to(device), seq_lens=lengths.to(device))
            made = TILE_MAP(None, **given, sharers=X, **dict.fromkeys(TILE_MAP.writes))
            got = dict(zip(TILE_MAP.writes, made, strict=True))
            for verdict in compare("tile_map", given | dict(sharers=X), got):
                assert verdict.holds, str(verdict)


def test_the_room_for_tiles_is_what_they_take():
    for N in range(1, 40):
        for S in range(7):
            for X in (2, 4, 8):
                assert most_tiles(N, X, S) == room(N, S, X)
    request = torch.arange(8).div(2, rounding_mode="floor").int()
    position = torch.tensor([7, 8] * 4).int()  # of each request the last of a tile and a first
    first, _, count, _ = reference_map(request, position, torch.zeros(4), 8)
    assert int(count) == len(first) == most_tiles(8, 8, 4) == 8


@forms
@pytest.mark.parametrize("wave_tokens", [128, 8])
def test_one_map_for_all_layers(wave_tokens, attention, seed, device):
    batch = on(device, mixed(128, seed))
    mapped = token_map(batch.query_start_loc, batch.seq_lens, LIVE)
    options = dict(attention=attention, sharers=8)
    got = run(batch, device, token_map=mapped, wave_tokens=wave_tokens, **options)
    assert same(got, run(batch, device, **options))


@pytest.mark.parametrize("attention", ["fused", "lanes"])
def test_a_graph_replays_other_batches_of_its_capacity(attention, npu, seed):
    make = dict(ratio=0, capacity=48, page_sizes=(16, 8), seed=seed)
    batches = [
        make_batch(SMALL, requests, **make)
        for requests in (
            [Request(40, 25, key=1), Request(90, 20, key=2), Request(8, 3, key=3)],
            [Request(0, 0), Request(0, 0), Request(0, 0)],
            [Request(60, 1, key=4), Request(0, 0), Request(0, 3)],
            [Request(61, 40, key=8), Request(9, 2, key=9), Request(9, 2, key=10)],
        )
    ]
    options = dict(attention=attention, sharers=8)
    want = [run(batch, **options) for batch in batches]
    names = ("q", "query_start_loc", "seq_lens", "rope_cos", "rope_sin")
    held = dataclasses.replace(
        batches[0],
        ori_kv=torch.full((24, 16, 1, 64), torch.nan, dtype=torch.bfloat16),
        ori_block_table=torch.full((3, 10), -1, dtype=torch.int32),
        **{name: getattr(batches[0], name).clone() for name in names},
    )

    def rewrite(batch):
        for name in names:
            getattr(held, name).copy_(getattr(batch, name))
        held.ori_kv[: len(batch.ori_kv)] = batch.ori_kv
        table = batch.ori_block_table
        held.ori_block_table.fill_(-1)
        held.ori_block_table[:, : table.shape[1]] = torch.where(
            table < len(batch.ori_kv), table, -1
        )

    rewrite(batches[0])
    plan = SparseAttn(*held.args(), **held.options(), wave_tokens=20, **options)
    captured = plan.capture(*held.args())
    for batch, expected in zip(batches[1:] + batches[:1], want[1:] + want[:1], strict=True):
        rewrite(batch)
        captured.attn_out.fill_(torch.nan)
        captured.replay()
        assert same(captured.attn_out, expected)


def test_a_plan_has_room_for_its_requests(seed):
    """Fewer are a batch of its own; more have more tiles than it has room for."""
    none = (Request(0, 0),) * 4
    make = dict(ratio=0, capacity=LIVE, seed=seed)
    plan_of = make_batch(SMALL, (*MIXED, *none), **make)
    options = dict(attention=FORMS[-1], sharers=8)
    plan = SparseAttn(*plan_of.args(), **plan_of.options(), **options)
    fewer = make_batch(SMALL, MIXED[:4], **make)
    assert same(plan.run(*fewer.args()), run(fewer, **options))
    more = make_batch(SMALL, (*MIXED, *none, Request(0, 0)), **make)
    with pytest.raises(ContractError, match="`seq_lens` must be of at most the plan's size, S=11"):
        plan.run(*more.args())


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        (dict(ratio=4), {}, "1 with cmp_indices, a token's own, got 8"),
        (dict(ratio=0, drafts=40), {}, "1 with ori_indices, a token's own, got 8"),
        (dict(ratio=0), dict(attention="one_kernel"), "1 for one_kernel, which copies no KV, got"),
        (dict(ratio=0), dict(sharers=3), "a power of two in 1..8, got 3"),
        (dict(ratio=0), dict(sharers=0), "an integer in 1..8, got 0"),
        (dict(ratio=0), dict(sharers="8"), "an integer in 1..8, got '8'"),
    ],
    ids=["lists", "drafts", "one_kernel", "3", "0", "text"],
)
def test_what_cannot_be_shared_is_refused(layer, options, message, seed, device):
    batch = make_batch(SMALL, MIXED, seed=seed, **layer)
    with pytest.raises(ContractError, match=f"^sparse_attn: `sharers` must be {message}"):
        run(batch, device, **dict(attention="lanes", sharers=8) | options)
