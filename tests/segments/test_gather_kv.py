"""gather_kv: the same bytes as the words of the contract, for any index and any table."""

import dataclasses

import pytest
import torch

from adversary import SMALL, adversarial_inputs, live_row
from against import check_segment, run_kernel
from dsv4_kernels import gather_kv
from dsv4_kernels.inputs.prefill import make_inputs
from poison import Poison

SLOTS = (
    "ori_kv", "ori_block_table", "kv_overlay", "cmp_kv", "cmp_block_table",
    "cmp_sparse_indices", "cmp_sparse_lens", "num_tokens", "window",
)  # fmt: skip


def slots(inputs, **changes):
    return {name: getattr(inputs, name) for name in SLOTS} | changes


def wave(inputs, first, last=None):
    """The slots of tokens first .. last-1 of the chunk, to its end if None."""
    return slots(
        inputs,
        cmp_sparse_indices=inputs.cmp_sparse_indices[first:last],
        cmp_sparse_lens=inputs.cmp_sparse_lens[first:last],
        first_token=first,
    )


def dead_tokens_that_name_live_rows(generator, device):
    """Tokens 4 .. 8 of a chunk; of its tokens only those up to 5 are live."""
    inputs = adversarial_inputs(T=9, num_tokens=6, generator=generator, device=device)
    inputs.cmp_sparse_indices[6:] = inputs.cmp_sparse_indices[:3]
    inputs.cmp_sparse_lens[6:] = inputs.cmp_sparse_indices.shape[1]
    return wave(inputs, 4)


@pytest.mark.parametrize(
    ("T", "K", "num_tokens"),
    [(9, 133, 8), (1, 1, 1), (5, 128, 0), (6, 129, 6), (3, 257, 1), (0, 5, 0)],
)
def test_bytes(T, K, num_tokens, generator, device, poison):
    inputs = adversarial_inputs(T=T, K=K, num_tokens=num_tokens, generator=generator, device=device)
    got = check_segment("gather_kv", slots(inputs), poison)["kv"]
    for t in range(T):
        for k in range(got.shape[1]):
            named = live_row(inputs, t, k) if k < K else None
            want = 0 if named is None else getattr(inputs, named[0]).flatten(0, -2)[named[1]]
            assert torch.equal(got[t, k], torch.zeros_like(got[t, k]) + want), (t, k, named)


@pytest.mark.parametrize("page_rows", [1, 12, 16, 128])
@pytest.mark.parametrize("window", [1, 24, 200])
def test_any_page_size_and_window(page_rows, window, generator, device, poison):
    dims = dataclasses.replace(SMALL, page_rows=page_rows, window=window)
    inputs = adversarial_inputs(
        dims, ori_entries=-(-window // page_rows), generator=generator, device=device
    )
    check_segment("gather_kv", slots(inputs), poison)


@pytest.mark.parametrize(("ori_entries", "cmp_entries"), [(0, 3), (2, 0), (0, 0)])
def test_empty_tables_and_pools(ori_entries, cmp_entries, generator, device, poison):
    inputs = adversarial_inputs(
        ori_entries=ori_entries, cmp_entries=cmp_entries, generator=generator, device=device
    )
    check_segment("gather_kv", slots(inputs), poison)


def test_the_borders_of_every_range(device, seed, poison):
    """The first and last row of ring, overlay and compressed slots, and the first slot past all,
    with nothing broken behind a border that could hide where it is."""
    inputs = make_inputs(SMALL, tokens=3, start=200, seed=seed, device=device)
    overlay, compressed = SMALL.window, SMALL.window + 3
    end = compressed + SMALL.page_rows * len(inputs.cmp_block_table)
    assert SMALL.page_rows * len(inputs.ori_block_table) > overlay  # the last page has more rows
    borders = [0, overlay - 1, overlay, compressed - 1, compressed, end - 1, end]
    row = torch.tensor(borders, dtype=torch.int32, device=device)
    named = slots(
        inputs,
        cmp_sparse_indices=row.expand(3, -1).contiguous(),
        cmp_sparse_lens=torch.full_like(inputs.cmp_sparse_lens, len(borders)),
    )
    got = check_segment("gather_kv", named, poison)["kv"][0]
    assert torch.equal(got[2], inputs.kv_overlay[0])
    assert torch.equal(got[3], inputs.kv_overlay[2])
    assert (got[6] == 0).all()


@pytest.mark.parametrize("pool", ["ori", "cmp"])
@pytest.mark.parametrize("beside", ["before", "after"])
def test_a_page_beside_the_pool_is_dead(pool, beside, device, seed, poison):
    """There is memory on both sides, and it is NaN."""
    inputs = make_inputs(SMALL, tokens=3, start=200, seed=seed, device=device)
    pages, table = getattr(inputs, f"{pool}_kv"), getattr(inputs, f"{pool}_block_table")
    memory = torch.full_like(torch.cat([pages[:1], pages, pages[:1]]), torch.nan)
    memory[1:-1] = pages
    entries = torch.full_like(table, -1 if beside == "before" else len(pages))
    changes = {f"{pool}_kv": memory[1:-1], f"{pool}_block_table": entries}
    got = check_segment("gather_kv", slots(inputs, **changes), poison)["kv"]
    assert got.isfinite().all()


def test_tables_shorter_than_what_is_named(generator, device, poison):
    """A window of two pages behind a table of one: the ring's last rows are dead."""
    inputs = adversarial_inputs(ori_entries=1, cmp_entries=1, generator=generator, device=device)
    ring = inputs.cmp_sparse_indices[: inputs.num_tokens]
    assert ((ring >= SMALL.page_rows) & (ring < SMALL.window)).any()
    check_segment("gather_kv", slots(inputs), poison)


def test_a_pool_of_more_elements_than_int32_counts(device, seed, poison):
    """4 GiB of addresses, of which one page is ever touched."""
    inputs = make_inputs(SMALL, tokens=1, start=100, seed=seed, device=device)
    B, C = SMALL.page_rows, SMALL.head_dim
    last = 2**31 // (B * C)
    cmp_kv = torch.empty(last + 1, B, C, dtype=torch.bfloat16, device=device)
    cmp_kv[last] = inputs.cmp_kv[0]
    wide = slots(
        inputs,
        cmp_kv=cmp_kv,
        cmp_block_table=torch.tensor([last], dtype=torch.int32, device=device),
        cmp_sparse_indices=SMALL.window + 1 + torch.arange(B, device=device).int()[None],
        cmp_sparse_lens=torch.tensor([B], dtype=torch.int32, device=device),
    )
    got = check_segment("gather_kv", wide, poison)["kv"]
    assert torch.equal(got[0, :B], inputs.cmp_kv[0])


def test_dead_tokens_are_dead_whatever_they_name(generator, device, poison):
    dead = dead_tokens_that_name_live_rows(generator, device)
    assert (check_segment("gather_kv", dead, poison)["kv"][2:] == 0).all()


def test_a_wave_is_its_rows_of_the_chunk(generator, device, poison):
    inputs = adversarial_inputs(T=9, num_tokens=7, generator=generator, device=device)
    whole = gather_kv(**slots(inputs))
    for first, last in [(0, 4), (4, 8), (8, 9)]:
        got = check_segment("gather_kv", wave(inputs, first, last), poison)["kv"]
        assert torch.equal(got, whole[first:last])


def test_flash_size(device, seed, poison: Poison):
    from dsv4_kernels.dims import PRESETS

    inputs = make_inputs(PRESETS["FLASH"], tokens=16, start=5000, seed=seed, device=device)
    check_segment("gather_kv", slots(inputs), poison)


def test_output_given_is_used(generator, device, poison):
    inputs = adversarial_inputs(T=3, K=5, generator=generator, device=device)
    kv = poison.tensor(3, 128, SMALL.head_dim, dtype=torch.bfloat16)
    assert gather_kv(**slots(inputs), kv=kv) is kv
    assert torch.equal(kv, run_kernel("gather_kv", slots(inputs), poison)["kv"])
