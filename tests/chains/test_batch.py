"""sparse_attn: a server's batches, against the raw entry, the oracle and themselves."""

import dataclasses
import inspect

import pytest
import torch

import children
from adversary import INT32_MAX, INT32_MIN, SMALL
from batches import (
    EXTREMES,
    check,
    check_rows,
    drawn_batch,
    hostile,
    on,
    run,
    same,
    slices_of_wider,
    wider,
)
from dsv4_kernels import (
    ContractError,
    SparseAttn,
    prefill_sparse_attn,
    sparse_attn,
    token_map,
)
from dsv4_kernels import device as devices
from dsv4_kernels.contract import Contract
from dsv4_kernels.device import MissingDependency
from dsv4_kernels.inputs.batch import Request, make_batch
from dsv4_kernels.inputs.prefill import make_inputs
from fences import Fences
from reference.batch import places

MIXED = (Request(100, 3, key=1), Request(7, 7, key=2), Request(61, 1, key=3), Request(46, 9, key=4))


@pytest.mark.parametrize(
    ("ratio", "listed"), [(0, False), (4, True), (4, False), (128, False), (3, True), (1, False)]
)
def test_kinds_of_layers(ratio, listed, seed, device):
    requests = (*MIXED, Request(300, 2, key=5))
    check(make_batch(SMALL, requests, ratio=ratio, listed=listed, seed=seed), device)


@pytest.mark.parametrize(("ratio", "window", "length"), [(0, 150, 300), (1, 8, 180), (4, 8, 300)])
def test_lanes_of_any_number_of_columns(ratio, window, length, seed, device):
    """A window and slots of a block and a tail, and of whole blocks, of tokens with few and all."""
    dims = dataclasses.replace(SMALL, window=window)
    requests = (Request(length, 2, key=1), Request(7, 7, key=2), Request(length // 2, 1, key=3))
    batch = make_batch(dims, requests, ratio=ratio, listed=False, seed=seed)
    check(batch, device, attention="lanes")


@pytest.mark.parametrize("pages", [(1, 1), (32, 64), (128, 32), (64, 1), (128, 128), (12, 5)])
def test_page_sizes_of_each_pool(pages, seed, device):
    check(make_batch(SMALL, MIXED, ratio=4, page_sizes=pages, gap=72, seed=seed), device)


def step(device):
    """Elements that pages are a multiple of apart."""
    return 8 if device.type == "cuda" else 1


@pytest.mark.parametrize("pages", [(1, 1), (16, 8), (12, 5)])
@pytest.mark.parametrize("gap", [1, 8, 63, 65, 1021])
def test_pages_any_number_of_elements_apart(gap, pages, seed, device):
    """The bytes of pools without gaps, with a window, with lists of rows, and with all slots."""
    options = dict(page_sizes=pages, seed=seed)
    for kind in (dict(ratio=4), dict(ratio=128, drafts=40), dict(ratio=3, listed=False)):
        dense = make_batch(SMALL, MIXED, **kind, **options)
        apart = make_batch(SMALL, MIXED, gap=gap * step(device), **kind, **options)
        assert apart.cmp_kv is not None
        for pool in (apart.ori_kv, apart.cmp_kv):
            assert pool.stride(0) == pool[0].numel() + gap * step(device)
        want = check(apart, device)
        assert same(run(dense, device), want)
        assert same(run(apart, device, attention="lanes"), run(dense, device, attention="lanes"))


@pytest.mark.parametrize("pool", ["ori", "cmp"])
def test_no_run_goes_from_a_page_to_the_next(pool, seed, device):
    """A request's pages one behind the other, each followed by others' memory."""
    request = (Request(120, 3, key=1),)
    batch = make_batch(SMALL, request, ratio=1, page_sizes=(8, 8), gap=step(device), seed=seed)
    pages, table = getattr(batch, f"{pool}_kv"), getattr(batch, f"{pool}_block_table")
    order = [*table[0, :15].tolist()]
    order += sorted({*range(len(pages))} - {*order})
    pages.copy_(pages[order])
    changed = dataclasses.replace(batch, **{f"{pool}_block_table": torch.arange(15).int()[None]})
    check(changed, device)


def test_a_batch_moves_with_its_strides(seed):
    batch = make_batch(SMALL, MIXED, ratio=4, drafts=40, gap=5, seed=seed)
    for name, there in vars(batch.to("meta")).items():
        if isinstance(there, torch.Tensor):
            here = getattr(batch, name)
            assert (there.shape, there.stride()) == (here.shape, here.stride()), name
            assert there.is_meta


def test_pools_of_two_layers_share_an_arena(seed, device):
    """As vllm-ascend's: one int8 tensor, a page of it a page of each pool, and bytes of others."""
    B, C = 32, SMALL.head_dim
    layers = [
        make_batch(SMALL, MIXED, ratio=4, page_sizes=(B, B), seed=seed + layer) for layer in (0, 1)
    ]
    pools = [(n, name) for n in (0, 1) for name in ("ori_kv", "cmp_kv")]
    sizes = [getattr(layers[n], name).shape[0] for n, name in pools]
    own = 2 * B * C  # bytes of a page of a pool, behind which a scale has some
    page_bytes = len(pools) * own + 26 * step(device)
    page_bytes -= page_bytes % (2 * step(device))
    arena = torch.full((page_bytes * max(sizes),), -1, dtype=torch.int8)
    for place, (n, name) in enumerate(pools):
        memory = arena.view(torch.bfloat16)[place * own // 2 :]
        shape = (sizes[place], B, 1, C)
        pool = memory.as_strided(shape, (page_bytes // 2, C, C, 1))
        layers[n] = dataclasses.replace(layers[n], **{name: pool.copy_(getattr(layers[n], name))})
    assert arena.view(torch.bfloat16).isnan().any()
    outs = [check(layer, device) for layer in layers]
    assert not same(*outs)


def test_what_int32_counts_of_a_pool(seed):
    """Elements from a page to the next, and rows of all pages with the number of each gap."""
    batch = make_batch(SMALL, MIXED, ratio=4, page_sizes=(16, 8), seed=seed).to("meta")

    def pool(pages, stride):
        rows = torch.empty_strided((1, 16, 1, 64), (1024, 64, 64, 1), device="meta")
        return rows.bfloat16().as_strided((pages, 16, 1, 64), (stride, 64, 64, 1))

    def said(pages, stride):
        given = dataclasses.replace(batch, ori_kv=pool(pages, stride))
        try:
            sparse_attn(*given.args(), **given.options())
        except (ContractError, MissingDependency) as error:  # nothing runs on meta tensors
            return str(error)
        return ""

    for pages, stride, contract in (
        (2, 2**31, "pages < 2**31 elements apart, got 2147483648 elements"),
        (2**31 // 17 + 1, 1025, "a pool of < 2**31 rows, got 2147483655 rows"),
        (2**31 // 17, 1025, "< 2**31 rows with cmp_kv, got 2147483"),
    ):
        assert f"sparse_attn: `ori_kv` must be {contract}" in said(pages, stride)
    for pages, stride in ((2, 2**31 - 1), (2**31 // 17 - 20, 1025)):
        assert said(pages, stride).startswith("no kernel runs on meta")


def test_a_table_is_garbage_behind_the_length_and_before_the_window(seed, device):
    batch = make_batch(SMALL, MIXED, ratio=4, page_sizes=(8, 8), seed=seed)
    want = check(batch, device)
    for entry in (0, -1, INT32_MAX, INT32_MIN, 3):
        table = batch.ori_block_table.clone()
        table[0, :9] = entry  # positions below 72 of a window from 74 on
        table[0, 13:] = entry
        assert same(run(dataclasses.replace(batch, ori_block_table=table), device), want)


def test_padding_of_a_graph(seed, device):
    """Requests of length 0 that have tokens, some that have none, and a capacity far above."""
    requests = (Request(0, 2), *MIXED, Request(0, 4), Request(50, 0, key=6), Request(-2, 1))
    check(make_batch(SMALL, requests, ratio=4, capacity=70, seed=seed), device, wave_tokens=16)


@pytest.mark.parametrize("wave_tokens", [1, 4, 7])
def test_a_request_ends_anywhere_in_a_wave(wave_tokens, seed, device):
    batch = make_batch(SMALL, MIXED, ratio=4, seed=seed)
    assert same(run(batch, device, wave_tokens=wave_tokens), run(batch, device))


@pytest.mark.parametrize("window", [128, 256])
def test_a_window_of_whole_blocks(window, seed, device):
    """As the models': the list begins where a block does, and is loaded in one stretch."""
    dims = dataclasses.replace(SMALL, window=window)
    check(make_batch(dims, MIXED, ratio=4, seed=seed), device)


def test_the_last_slots_without_a_list_lie_behind_index_topk(seed, device):
    """More slots than the list is wide, over two blocks of columns: the newest count."""
    batch = make_batch(SMALL, (Request(700, 2, key=1),), ratio=4, listed=False, seed=seed)
    want = check(batch, device)
    assert batch.cmp_kv is not None
    assert batch.cmp_block_table is not None
    changed = batch.cmp_kv.clone()
    page = int(batch.cmp_block_table[0, 174 // 32])
    changed[page, 174 % 32] += 1
    assert not same(run(dataclasses.replace(batch, cmp_kv=changed), device)[1:], want[1:])
    bounded = run(batch, device, max_seq_len=700)
    assert same(bounded, want)
    shorter = run(batch, device, max_seq_len=400)
    assert not same(shorter, want)


def test_draft_tokens_of_a_request_see_their_own_past(seed, device):
    """1 + 3 tokens: each as if it were the last."""
    for t in range(4):
        whole = make_batch(SMALL, (Request(44, 4, key=1),), ratio=4, seed=seed)
        alone = make_batch(SMALL, (Request(41 + t, 1, key=1),), ratio=4, seed=seed)
        assert same(run(whole, device)[t], run(alone, device)[0])


def test_alone_packed_chunked_and_step_by_step(seed, device):
    """From position 0, chunks at no multiple of the ratio or of a page."""
    length, make = 30, dict(ratio=4, page_sizes=(16, 4), seed=seed)
    want = run(make_batch(SMALL, (Request(length, length, key=9),), **make), device)
    other = (Request(33, 5, key=3),)
    packed = run(make_batch(SMALL, (*other, Request(length, length, key=9)), **make), device)
    assert same(packed[5:], want)
    for ends in ((7, 18, 30), tuple(range(1, 31))):
        parts, start = [], 0
        for end in ends:
            requests = (Request(end, end - start, key=9), *other)
            parts.append(run(make_batch(SMALL, requests, **make), device)[: end - start])
            start = end
        assert same(torch.cat(parts), want)


@pytest.mark.parametrize("pages", [(1, 1), (16, 8), (12, 5)])
@pytest.mark.parametrize(("drafts", "ratio"), [(40, 4), (128, 128), (130, 0), (31, 4)])
def test_drafts_list_the_rows_of_their_window(drafts, ratio, pages, seed, device):
    """The lists name positions behind the token's own too, in any order and with holes."""
    options = dict(ratio=ratio, drafts=drafts, page_sizes=pages, capacity=22, seed=seed)
    batch = make_batch(SMALL, MIXED, gap=136, **options)
    assert batch.listed is not None
    assert max(batch.listed[0]) == 99 > 97
    want = check(batch, device)
    assert batch.ori_indices is not None
    flat = dataclasses.replace(batch, ori_indices=batch.ori_indices[:, 0])
    assert same(run(flat, device, wave_tokens=7), want)
    table = torch.full_like(batch.ori_block_table, INT32_MAX)  # it is not read
    assert same(run(dataclasses.replace(batch, ori_block_table=table), device), want)


def test_a_row_of_drafts_beside_the_pool_is_dead(seed, device):
    """Below it, at its end, and wherever int32 reaches; between its pages lies NaN."""
    for pages in ((16, 8), (12, 5)):
        batch = make_batch(SMALL, MIXED, ratio=4, drafts=40, page_sizes=pages, gap=8, seed=seed)
        assert batch.ori_indices is not None
        want, dead = run(batch, device), batch.ori_indices < 0
        assert dead.any()
        rows = batch.ori_kv.shape[0] * pages[0]
        for value in (INT32_MIN, -2, rows, rows + 1, 2 * rows, 2**24 + 5, INT32_MAX):
            other = torch.where(dead, value, batch.ori_indices)
            assert same(run(dataclasses.replace(batch, ori_indices=other), device), want)


def test_drafts_that_list_the_window_are_the_window(seed, device):
    batch = make_batch(SMALL, MIXED, ratio=4, page_sizes=(16, 8), seed=seed)
    rows = torch.full((20, batch.window), -1, dtype=torch.int32)
    for t, (r, p) in enumerate(places(batch.query_start_loc, batch.seq_lens, 20)):
        for w, position in enumerate(range(p - batch.window + 1, p + 1)):
            if position >= 0:
                page = int(batch.ori_block_table[r, position // 16])
                rows[t, w] = page * 16 + position % 16
    assert same(run(dataclasses.replace(batch, ori_indices=rows), device), run(batch, device))


@pytest.mark.parametrize("pool", ["ori", "cmp"])
def test_dead_indices_and_lists_of_any_order(pool, seed, device):
    """The generator's lists hold holes, doubles and slots that are not visible; a shape of
    three dimensions is the same list."""
    batch = make_batch(SMALL, MIXED, ratio=4, seed=seed)
    want = check(batch, device)
    assert batch.cmp_indices is not None
    indices = batch.cmp_indices.clone()
    visible = torch.tensor(
        [(p + 1) // 4 for _, p in places(batch.query_start_loc, batch.seq_lens, 20)]
    )
    dead = (indices < 0) | (indices >= visible[:, None])
    assert dead.any()
    for value in (INT32_MIN, INT32_MAX, -1):
        other = torch.where(dead, value, indices)[:, None]
        assert same(run(dataclasses.replace(batch, cmp_indices=other), device), want)


def test_rope_tables_by_layout_and_dtype(seed, device):
    batch = make_batch(SMALL, MIXED, ratio=4, seed=seed)
    want = run(batch, device)
    half = {n: torch.cat([getattr(batch, n)[:, ::2]] * 2, 1) for n in ("rope_cos", "rope_sin")}
    assert same(run(dataclasses.replace(batch, **half), device, rope_layout="half"), want)
    assert not same(run(dataclasses.replace(batch, **half), device), want)
    four = {n: getattr(batch, n)[:, None, None] for n in half}
    assert same(run(dataclasses.replace(batch, **four), device), want)
    short = {n: getattr(batch, n).bfloat16() for n in half}
    got = run(dataclasses.replace(batch, **short), device)
    assert not same(got, want)
    assert (got - want).float().norm() < 0.02 * want.float().norm()


@pytest.mark.parametrize("wave_tokens", [128, 7, 1])
def test_rows_of_wider_tensors(wave_tokens, seed, device):
    """Queries of some of the heads, cos and sin in one table, lists in a longer one: as slices."""
    batch = make_batch(SMALL, MIXED, ratio=4, drafts=40, page_sizes=(16, 8), seed=seed)
    want = check(batch, device)
    slices = slices_of_wider(batch)
    forms = dict(rope_cos=(1, 2), rope_sin=(1, 2), cmp_indices=(1,), ori_indices=())
    for name, dims in forms.items():
        for at in dims:
            slices[name] = slices[name].unsqueeze(at)
    for name, value in slices.items():
        assert not value.is_contiguous(), name
        one = dataclasses.replace(batch, **{name: value})
        assert same(run(one, device, wave_tokens=wave_tokens), want), name
    got = run(dataclasses.replace(batch, **slices), device, wave_tokens=wave_tokens)
    assert same(got, want)


def test_the_tail_in_two_segments_changes_no_byte(seed, device):
    """Of both layouts of the tables, and where other memory lies between their rows."""
    batch = make_batch(SMALL, MIXED, ratio=4, seed=seed)
    want, two = run(batch, device), dict(attention="separate_tail")
    assert same(run(dataclasses.replace(batch, **slices_of_wider(batch)), device, **two), want)
    half = {n: torch.cat([getattr(batch, n)[:, ::2]] * 2, 1) for n in ("rope_cos", "rope_sin")}
    assert same(run(dataclasses.replace(batch, **half), device, rope_layout="half", **two), want)


def test_a_plan_takes_rows_of_any_stride(seed):
    """One after the other; none is copied, as a change in place shows."""
    batch = make_batch(SMALL, MIXED, ratio=4, seed=seed)
    plan = SparseAttn(*batch.args(), **batch.options())
    want = plan.run(*batch.args()).clone()
    apart = torch.cat([batch.q, torch.full_like(batch.q[:, :2], torch.nan)], dim=1)
    rest = batch.args()[1:]
    for _ in range(2):
        assert same(plan.run(apart[:, : SMALL.heads], *rest), want)
        assert same(plan.run(*batch.args()), want)
    apart[:, : SMALL.heads] *= 2
    assert not same(plan.run(apart[:, : SMALL.heads], *rest), want)
    into = apart.view(-1)[-128 - 20 * SMALL.hidden : -128].view(20, -1)  # its last rows
    with pytest.raises(ContractError, match="`out` must be memory apart from `q`"):
        plan.run(apart[:, : SMALL.heads], *rest, out=into)


@pytest.mark.parametrize(("name", "segment"), [("q", "qk"), ("freqs_cos", "finish")])
def test_attention_in_lanes_takes_rows_without_gaps(name, segment, seed):
    """Its tiles have rows of several tokens: it says so, and reads none of them wrong."""
    arguments = vars(make_inputs(SMALL, tokens=3, start=40, seed=seed))
    apart = wider(arguments[name].flatten(1), 0, 64).view_as(arguments[name])
    options = dict(window=SMALL.window, attention="lanes")
    names = inspect.signature(prefill_sparse_attn).parameters
    given = {key: value for key, value in arguments.items() if key in names} | {name: apart}
    with pytest.raises(ContractError, match=f"^{segment}: `{name}` must be contiguous"):
        prefill_sparse_attn(**given | options)


@pytest.mark.parametrize("wave_tokens", [128, 8])
def test_one_map_for_all_layers(wave_tokens, seed, device):
    batch = on(device, make_batch(SMALL, MIXED, ratio=4, capacity=24, seed=seed))
    mapped = token_map(batch.query_start_loc, batch.seq_lens, 24)
    assert list(zip(*(x.tolist() for x in mapped), strict=True)) == places(
        batch.query_start_loc, batch.seq_lens, 24
    )
    assert same(run(batch, device, token_map=mapped, wave_tokens=wave_tokens), run(batch, device))


@pytest.mark.parametrize("S", [0, 1, 5, 300])
def test_starts_and_lengths_of_any_bits(S, generator, device):
    """The first request that holds a token counts; sums never wrap."""
    for _ in range(4):
        picks = torch.randint(0, len(EXTREMES), (2, S + 1), generator=generator)
        near = torch.randint(-3, 20, (2, S + 1), generator=generator)
        extreme = torch.tensor(EXTREMES)[picks]
        drawn = torch.where(torch.rand(2, S + 1, generator=generator) < 0.4, extreme, near)
        starts, lengths = drawn[0].int(), drawn[1, :S].int()
        got = token_map(starts.to(device), lengths.to(device), 17)
        assert list(zip(*(x.tolist() for x in got), strict=True)) == places(starts, lengths, 17)


@pytest.mark.parametrize("pool", ["ori", "cmp"])
def test_a_page_beside_the_pool_is_dead(pool, seed, device):
    """Behind it and below it lies memory that is the pool's own allocation."""
    batch = make_batch(SMALL, MIXED, ratio=4, page_sizes=(16, 8), seed=seed)
    whole, table = getattr(batch, f"{pool}_kv"), getattr(batch, f"{pool}_block_table")
    inner = whole.nan_to_num(1.0)[1:-1]
    for entry in (-1, len(inner)):
        moved = torch.where(table == int(table[0, 4]), entry, table - 1)
        check_rows(
            dataclasses.replace(batch, **{f"{pool}_kv": inner, f"{pool}_block_table": moved}),
            device,
        )


@pytest.mark.parametrize("change", ["no token", "no request", "no page", "no entry", "no slot"])
def test_nothing_along_an_axis(change, seed, device):
    batch = make_batch(SMALL, MIXED, ratio=4, seed=seed)
    if change == "no token":
        names = ("q", "cmp_indices", "rope_cos", "rope_sin")
        batch = dataclasses.replace(batch, **{n: getattr(batch, n)[:0] for n in names})
        assert run(batch, device).shape == (0, SMALL.hidden)
        return
    if change == "no slot":
        assert batch.cmp_indices is not None
        batch = dataclasses.replace(batch, cmp_indices=batch.cmp_indices[:, :0])
        nothing = batch.query_start_loc.new_empty((20, 0))
        assert not run(dataclasses.replace(batch, ori_indices=nothing), device).any()
        without = dataclasses.replace(
            batch, cmp_kv=None, cmp_block_table=None, cmp_indices=None, compress_ratio=0
        )
        assert same(run(batch, device), run(without, device))
        return
    if change == "no request":
        names = {"ori_block_table": 0, "cmp_block_table": 0, "seq_lens": 0, "query_start_loc": 1}
        batch = dataclasses.replace(batch, **{n: getattr(batch, n)[:k] for n, k in names.items()})
    elif change == "no page":
        names = ("ori_kv", "cmp_kv")
        batch = dataclasses.replace(batch, **{n: getattr(batch, n)[:0] for n in names})
    else:
        names = ("ori_block_table", "cmp_block_table")
        batch = dataclasses.replace(batch, **{n: getattr(batch, n)[:, :0] for n in names})
    assert not run(batch, device).view(torch.int16).any()


@pytest.mark.parametrize("listed", [True, False])
def test_a_graph_replays_other_batches_of_its_capacity(listed, npu, seed):
    """Captured with 64 live tokens; then 0, 1, 17 and 64 in the same tensors."""
    make = dict(ratio=4, listed=listed, capacity=64, page_sizes=(16, 8), seed=seed)
    batches = [
        make_batch(SMALL, requests, **make)
        for requests in (
            [Request(40, 30, key=1), Request(100, 30, key=2), Request(8, 4, key=3)],
            [Request(0, 0), Request(0, 0), Request(0, 0)],
            [Request(90, 1, key=4), Request(0, 0), Request(0, 3)],
            [Request(30, 9, key=5), Request(7, 7, key=6), Request(77, 1, key=7)],
            [Request(61, 60, key=8), Request(99, 2, key=9), Request(9, 2, key=10)],
        )
    ]
    want = [run(batch) for batch in batches]
    names = ("q", "cmp_indices", "query_start_loc", "seq_lens", "rope_cos", "rope_sin")
    held = dataclasses.replace(
        batches[0],
        ori_kv=torch.full((24, 16, 1, 64), torch.nan, dtype=torch.bfloat16),
        cmp_kv=torch.full((24, 8, 1, 64), torch.nan, dtype=torch.bfloat16),
        ori_block_table=torch.full((3, 10), -1, dtype=torch.int32),
        cmp_block_table=torch.full((3, 10), -1, dtype=torch.int32),
        **{name: x.clone() for name in names if (x := getattr(batches[0], name)) is not None},
    )

    def rewrite(batch):
        for name in names:
            if getattr(batch, name) is not None:
                getattr(held, name).copy_(getattr(batch, name))
        for pool in ("ori", "cmp"):
            rows, table = getattr(batch, f"{pool}_kv"), getattr(batch, f"{pool}_block_table")
            getattr(held, f"{pool}_kv")[: len(rows)] = rows
            own = getattr(held, f"{pool}_block_table")
            own.fill_(-1)
            own[:, : table.shape[1]] = torch.where(table < len(rows), table, -1)

    rewrite(batches[0])
    plan = SparseAttn(*held.args(), **held.options(), wave_tokens=32)
    captured = plan.capture(*held.args())
    assert same(captured.attn_out, want[0])
    assert len(captured._graph.launches) == 2 * len(plan.nodes)
    for batch, expected in zip(batches[1:] + batches[:1], want[1:] + want[:1], strict=True):
        rewrite(batch)
        captured.attn_out.fill_(torch.nan)
        captured.replay()
        assert same(captured.attn_out, expected)


WRONG = [
    ("q", lambda x: x.float(), r"\[T, H, C\] bfloat16"),
    ("q", lambda x: x.transpose(0, 1).contiguous().transpose(0, 1), "contiguous along all but"),
    ("q", lambda x: wider(x.flatten(1), 0, 8).unflatten(1, (8, 64)), "blocks apart"),
    ("q", lambda x: x[:1].expand(20, -1, -1), "contiguous along all but"),
    ("rope_cos", lambda x: wider(x, 0, 8), "blocks apart"),
    ("rope_sin", lambda x: x.repeat(1, 2)[:, ::2], "contiguous along all but"),
    ("cmp_indices", lambda x: x.repeat(1, 2)[:, ::2], "contiguous along all but"),
    ("ori_kv", lambda x: x[:, :, :, :32], "C=64"),
    ("ori_kv", lambda x: x[:, ::2], "contiguous along all but the first axis"),
    ("ori_kv", lambda x: x[:, :0], "B >= 1"),
    ("ori_kv", lambda x: x.as_strided(x.shape, (32 * 64 - 1, 64, 64, 1)), "all but the first axis"),
    ("ori_block_table", lambda x: x.long(), "int32"),
    ("ori_block_table", lambda x: x[0], "S, "),
    ("cmp_kv", lambda x: None, "bfloat16"),
    ("cmp_block_table", lambda x: x[:-1], "S="),
    ("cmp_block_table", lambda x: x[:, ::2], "contiguous along all but the first axis"),
    ("cmp_indices", lambda x: x[:-1], "T="),
    ("cmp_indices", lambda x: x.long(), "int32"),
    ("ori_indices", lambda x: x[:-1], "T="),
    ("ori_indices", lambda x: x.long(), "int32"),
    ("ori_indices", lambda x: x[:, :, ::2], "contiguous"),
    ("ori_indices", lambda x: x.tolist(), "int32"),
    ("query_start_loc", lambda x: x[:-1], "S[+]1"),
    ("query_start_loc", lambda x: x.long(), "int32"),
    ("seq_lens", lambda x: x[:-1], "S="),
    ("attn_sink", lambda x: x[:-1], "H="),
    ("rope_cos", lambda x: x.double(), "float32|bfloat16"),
    ("rope_sin", lambda x: x[:, :8], "P="),
    ("wo_a", lambda x: x[..., :-1].contiguous(), "J="),
    ("wo_b", lambda x: x[:, :-1], "G[*]R"),
    ("wo_b_scale", lambda x: x[:-1], "D="),
]


@pytest.mark.parametrize(("name", "change", "contract"), WRONG)
def test_a_wrong_tensor_is_refused_by_name(name, change, contract, seed):
    drafts = 40 if name == "ori_indices" else None
    batch = make_batch(SMALL, MIXED, ratio=4, drafts=drafts, gap=72, seed=seed)
    changed = dataclasses.replace(batch, **{name: change(getattr(batch, name))})
    with pytest.raises(ContractError, match=rf"^sparse_attn: `{name}` must be .*({contract})"):
        sparse_attn(*changed.args(), **changed.options())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("compress_ratio", -1), ("compress_ratio", 4.0), ("window", 0), ("window", 2**30),
        ("max_seq_len", -1), ("rope_layout", "neox"), ("token_map", 3), ("wave_tokens", 0),
        ("out_dtype", torch.float16), ("tiles", {"nothing": None}), ("cmp_kv", None),
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused_by_name(name, value, seed):
    batch = make_batch(SMALL, MIXED, ratio=4, seed=seed)
    if name == "cmp_kv":  # what a ratio of 0 has no use for
        options = dict(compress_ratio=0, window=24)
    else:
        options = batch.options() | {name: value}
    with pytest.raises(ContractError, match=f"^sparse_attn: `{name}` must be "):
        sparse_attn(*batch.args(), **options)


def test_a_plan_keeps_its_kind(seed):
    batch = make_batch(SMALL, MIXED, ratio=4, page_sizes=(16, 8), seed=seed)
    plan = SparseAttn(*batch.args(), **batch.options())
    listless = dataclasses.replace(batch, cmp_indices=None)
    for wrong, name in (
        (make_batch(SMALL, MIXED, ratio=4, page_sizes=(8, 8), seed=seed), "ori_kv"),
        (make_batch(SMALL, MIXED, ratio=4, page_sizes=(16, 4), seed=seed), "cmp_kv"),
        (make_batch(SMALL, MIXED[:2], ratio=4, page_sizes=(16, 8), seed=seed), "q"),
        (listless, "cmp_indices"),
    ):
        with pytest.raises(ContractError, match=f"^sparse_attn: `{name}` must be "):
            plan.run(*wrong.args())
    narrow = SparseAttn(*listless.args(), **batch.options(), max_seq_len=50)
    assert narrow.run(*listless.args()).shape == (20, SMALL.hidden)
    with pytest.raises(ContractError, match="`token_map` must be given as for the plan"):
        plan.run(*batch.args(), token_map=token_map(batch.query_start_loc, batch.seq_lens, 20))
    drafts = make_batch(SMALL, MIXED, ratio=4, drafts=40, page_sizes=(16, 8), seed=seed)
    with pytest.raises(ContractError, match="`ori_indices` must be given as for the plan"):
        plan.run(*batch.args(), ori_indices=drafts.ori_indices)
    drafting = SparseAttn(*drafts.args(), **drafts.options())
    assert drafts.ori_indices is not None
    for wrong in (None, drafts.ori_indices[:, :, 8:].contiguous()):
        with pytest.raises(ContractError, match=r"`ori_indices` must be (given as|of the plan's)"):
            drafting.run(*drafts.args(), ori_indices=wrong)


def test_a_plan_runs_other_batches_of_its_capacity(seed):
    """Also with other strides, and with pages side by side."""
    make = dict(ratio=4, page_sizes=(16, 8), seed=seed)
    first = make_batch(SMALL, MIXED, gap=9, **make)
    plan = SparseAttn(*first.args(), **first.options())
    assert same(plan.run(*first.args()), run(first))
    second = make_batch(SMALL, (Request(200, 11, key=7), Request(9, 1, key=8)), capacity=20, **make)
    for other in (second, first, make_batch(SMALL, MIXED, gap=64, **make), first):
        assert same(plan.run(*other.args()), run(other))


def test_a_run_like_the_one_before_checks_no_tensor(seed, monkeypatch):
    batch = make_batch(SMALL, MIXED, ratio=4, gap=136, drafts=40, seed=seed)
    mapped = token_map(batch.query_start_loc, batch.seq_lens, 20)
    options = dict(ori_indices=batch.ori_indices, token_map=mapped)
    plan = SparseAttn(*batch.args(), **batch.options(), token_map=mapped)
    want = plan.run(*batch.args(), **options).clone()
    checked = []
    look = Contract.tensor
    monkeypatch.setattr(Contract, "tensor", lambda *a, **k: checked.append(a[1]) or look(*a, **k))
    assert batch.ori_indices is not None
    copies = dict(
        ori_indices=batch.ori_indices.clone(), token_map=(mapped[0].clone(), mapped[1].clone())
    )
    assert same(plan.run(*batch.args(), **copies), want)
    assert checked == []
    wider = dataclasses.replace(batch, ori_block_table=batch.ori_block_table.contiguous())
    assert same(plan.run(*wider.args(), **options), want)
    assert "ori_block_table" in checked


def fenced_batches(sharers: int, side: str, seed: int) -> None:
    """In a process of its own: an access beside a tensor ends it."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(8):
        wild = hostile(drawn_batch(generator), generator)
        listed = wild.cmp_indices is not None or wild.ori_indices is not None
        shared = dict(sharers=1 if listed else sharers)
        want = run(wild, **shared)
        fences = Fences(side)
        fenced = {}
        for name, value in vars(wild).items():
            if not isinstance(value, torch.Tensor) or not value.numel():
                continue
            size = 1 + sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True))
            memory = fences.copy(value.as_strided((size,), (1,)))
            fenced[name] = memory.as_strided(value.shape, value.stride(), memory.storage_offset())
        out = fences.empty(want.shape, want.dtype)
        got = run(dataclasses.replace(wild, **fenced), out=out, executor=fences.run, **shared)
        assert same(got, want)
    print("done")


@pytest.mark.skipif(devices.best().type != "cpu", reason="guard pages are memory of the host")
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("sharers", [1, 8])
def test_no_access_beside_a_tensor(sharers, side, seed):
    """Whatever the integers are; pools and tables end where their last page and row do."""
    child = children.Fork(__file__, f"fenced_batches({sharers}, {side!r}, {seed})")
    assert children.words(child, seconds=300)[-1] == "done"
