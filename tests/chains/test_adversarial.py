"""What other servers' attention got wrong, a case a test.

In tests/chains/test_batch.py: a table's garbage behind the length and before the window, a request
that ends anywhere in a wave, the last slots behind index_topk, draft tokens of one request.
"""

import dataclasses

import pytest
import torch

from adversary import SMALL
from batches import check, run, same
from dsv4_kernels.inputs.batch import Request, make_batch
from reference.batch import places

TWO = (Request(100, 3, key=1), Request(61, 4, key=2))


def two(seed, **options):
    """A batch of TWO by themselves."""
    return make_batch(SMALL, TWO, ratio=4, page_sizes=(16, 8), seed=seed, **options)


@pytest.mark.parametrize("pool", ["ori", "cmp"])
def test_page_zero_is_a_pad_of_one_request_and_live_of_another(pool, seed, device):
    """As vLLM's null page, were it somebody's: the first request's newest rows lie there."""
    batch = two(seed)
    B, slots = {"ori": (16, 100), "cmp": (8, 100 // 4)}[pool]
    rows, table = getattr(batch, f"{pool}_kv").clone(), getattr(batch, f"{pool}_block_table")
    newest = (slots - 1) // B
    old, table = int(table[0, newest]), table.clone()
    rows[[0, old]] = rows[[old, 0]]
    table = torch.where(table == 0, -7, table)
    table = torch.where(table == old, 0, table)
    table = torch.where(table == -7, old, table)
    counts = [-(-slots // B), -(-(61 if pool == "ori" else 15) // B)]
    for r, count in enumerate(counts):
        table[r, count:] = 0  # what pads
    changed = {f"{pool}_kv": rows, f"{pool}_block_table": table}
    assert same(check(dataclasses.replace(batch, **changed), device), run(batch, device))
    assert table[0, newest] == 0


def test_a_length_of_zero_in_a_graph_s_batch(seed, device):
    """Its tokens are dead, those of its neighbours as if it were not there."""
    padded = (TWO[0], Request(0, 3), TWO[1], Request(0, 2))
    batch = make_batch(SMALL, padded, ratio=4, page_sizes=(16, 8), seed=seed)
    for table in (batch.ori_block_table, batch.cmp_block_table):
        assert table is not None
        table[[1, 3]] = 0  # vLLM's null page
    got = check(batch, device)
    assert same(got[[0, 1, 2, 6, 7, 8, 9]], run(two(seed), device))
    assert not got[[3, 4, 5, 10, 11]].view(torch.int16).any()


def listing(batch, change):
    """The batch with every token's list changed; change: of the token's visible slots' count."""
    assert batch.cmp_indices is not None
    lists = torch.full_like(batch.cmp_indices, -1)
    for t, (_, p) in enumerate(places(batch.query_start_loc, batch.seq_lens, len(lists))):
        own = change((p + 1) // 4)
        lists[t, : len(own)] = torch.tensor(own)
    return dataclasses.replace(batch, cmp_indices=lists)


def test_a_slot_that_is_listed_twice_counts_twice(seed, device):
    batch = two(seed)
    once = check(listing(batch, lambda n: [n - 1, 3]), device)
    twice = check(listing(batch, lambda n: [n - 1, 3, n - 1]), device)
    assert (once != twice).any(dim=1).all()


def test_a_list_in_any_order(seed, device):
    """Up, down and mixed: the oracle's, whose sum has no order."""
    batch = two(seed)
    check(listing(batch, lambda n: list(range(n))), device)
    check(listing(batch, lambda n: list(range(n))[::-1]), device)
    check(listing(batch, lambda n: [k * 7 % n for k in range(n)] if n % 7 else [n - 1, 0]), device)


def test_a_slot_that_is_not_visible_yet_is_dead(seed, device):
    """The next slot, the request's last, and one behind its pages: as holes in the same places."""
    batch = two(seed)
    want = check(listing(batch, lambda n: [0, -1, n - 1, -1, -1]), device)
    assert same(run(listing(batch, lambda n: [0, n, n - 1, n + 1, 10**6]), device), want)


@pytest.mark.parametrize("start", [1, 3, 5, 17, 30])
def test_a_chunk_that_begins_at_no_multiple_of_ratio_or_page(start, seed, device):
    """The rows of one prefill from 0."""
    make = dict(ratio=4, page_sizes=(16, 4), seed=seed)
    whole = run(make_batch(SMALL, (Request(40, 40, key=9),), **make), device)
    got = check(make_batch(SMALL, (Request(40, 40 - start, key=9),), **make), device)
    assert same(got, whole[start:])


@pytest.mark.parametrize("gap", [1, SMALL.head_dim, 1000])
def test_foreign_nan_between_pages_is_never_read(gap, seed, device):
    """Whole rows of it or less; the bytes are those without a gap."""
    if device.type == "cuda":
        gap *= 8  # a GPU loads 16 bytes at once
    batch = two(seed, gap=gap)
    assert batch.ori_kv.stride(0) == 16 * SMALL.head_dim + gap
    assert same(check(batch, device), run(two(seed), device))


def test_more_requests_than_live_ones(seed, device):
    """Rows of lengths and tables that nothing belongs to, before, between and behind."""
    idle = (Request(50, 0, key=5), Request(0, 0), Request(-3, 0))
    requests = (*idle, TWO[0], *idle * 90, TWO[1], *idle)
    got = check(make_batch(SMALL, requests, ratio=4, page_sizes=(16, 8), seed=seed), device)
    assert same(got, run(two(seed), device))


def test_a_capacity_far_above_the_live_tokens(seed, device):
    """Of waves that are dead in part and in whole; queries behind the live ones are NaN."""
    batch = two(seed, capacity=300)
    assert batch.q[7:].isnan().all()
    got = check(batch, device, wave_tokens=32)
    assert same(got[:7], run(two(seed), device))
    assert not got[7:].view(torch.int16).any()
