"""resolve_slots: the words of the contract for any index and any table; blocks, runs, sharers."""

import dataclasses

import pytest
import torch

from adversary import SMALL, adversarial_inputs, live_row
from against import check_segment, run_kernel
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments.resolve_slots import ResolveSlotsTiles

NEG = -3.4028234663852886e38

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


def named_rows(inputs, t):
    """Of the live blocks of token t, in their order: the pool and row of each column, or None."""
    K = inputs.cmp_sparse_indices.shape[1]
    named = [live_row(inputs, t, k) for k in range(K)]
    named += [None] * (-K % 128)
    blocks = [named[k : k + 128] for k in range(0, len(named), 128)]
    return [row for block in blocks if any(block) for row in block]


def number(inputs, named):
    """The row's number, by the words of the public function."""
    if named is None:
        return -1
    T, B = len(inputs.kv_overlay), inputs.ori_kv.shape[1]
    overlay = len(inputs.ori_kv) * B + 1
    return {"ori_kv": 0, "kv_overlay": overlay, "cmp_kv": overlay + T + 1}[named[0]] + named[1]


def check(named, poison, **options):
    return check_segment("resolve_slots", named, poison, **options)


def one_row(raw, device, seed, start=200, dims=SMALL):
    """Three tokens that name these slots, over memory where a border hides behind nothing."""
    inputs = make_inputs(dims, tokens=3, start=start, seed=seed, device=device)
    row = torch.tensor(raw, dtype=torch.int32, device=device)
    return dataclasses.replace(
        inputs,
        cmp_sparse_indices=row.expand(3, -1).contiguous(),
        cmp_sparse_lens=torch.full_like(inputs.cmp_sparse_lens, len(raw)),
    )


@pytest.mark.parametrize(
    ("T", "K", "num_tokens"),
    [(9, 133, 8), (1, 1, 1), (5, 128, 0), (6, 129, 6), (3, 257, 1), (0, 5, 0)],
)
def test_bytes(T, K, num_tokens, generator, device, poison):
    inputs = adversarial_inputs(T=T, K=K, num_tokens=num_tokens, generator=generator, device=device)
    got = check(slots(inputs), poison)
    for t in range(T):
        want = torch.tensor([number(inputs, row) for row in named_rows(inputs, t)])
        live = len(want)
        assert int(got["live_blocks"][t]) * 128 == live
        assert got["rows"][t, :live].tolist() == want.tolist()
        assert got["bias"][t, :live].tolist() == torch.where(want >= 0, 0.0, NEG).tolist()
        assert int(got["live_slots"][t]) == int((want >= 0).sum())


@pytest.mark.parametrize(("ori_entries", "cmp_entries"), [(0, 3), (2, 0), (0, 0)])
def test_empty_tables_and_pools(ori_entries, cmp_entries, generator, device, poison):
    inputs = adversarial_inputs(
        ori_entries=ori_entries, cmp_entries=cmp_entries, generator=generator, device=device
    )
    check(slots(inputs), poison)


@pytest.mark.parametrize("page_rows", [1, 12, 16, 128])
@pytest.mark.parametrize("window", [1, 24, 200])
def test_any_page_size_and_window(page_rows, window, generator, device, poison):
    dims = dataclasses.replace(SMALL, page_rows=page_rows, window=window)
    inputs = adversarial_inputs(
        dims, ori_entries=-(-window // page_rows), generator=generator, device=device
    )
    check(slots(inputs), poison)


def test_the_borders_of_every_range(device, seed, poison):
    """The first and last row of ring, overlay and compressed slots, and the first slot past all."""
    overlay, compressed = SMALL.window, SMALL.window + 3
    inputs = one_row([0], device, seed)
    end = compressed + SMALL.page_rows * len(inputs.cmp_block_table)
    assert SMALL.page_rows * len(inputs.ori_block_table) > overlay  # the last page has more rows
    borders = [0, overlay - 1, overlay, compressed - 1, compressed, end - 1, end]
    inputs = one_row(borders, device, seed)
    got = check(slots(inputs), poison)["rows"][0]
    ring = len(inputs.ori_kv) * SMALL.page_rows
    assert got[2:4].tolist() == [ring + 1, ring + 3]
    assert got[6] == -1
    assert (got[:6] >= 0).all()


@pytest.mark.parametrize("pool", ["ori", "cmp"])
@pytest.mark.parametrize("beside", ["before", "after"])
def test_a_page_beside_the_pool_is_dead(pool, beside, device, seed, poison):
    inputs = make_inputs(SMALL, tokens=3, start=200, seed=seed, device=device)
    pages, table = getattr(inputs, f"{pool}_kv"), getattr(inputs, f"{pool}_block_table")
    entries = torch.full_like(table, -1 if beside == "before" else len(pages))
    before = check(slots(inputs), poison)["live_slots"]
    after = check(slots(inputs, **{f"{pool}_block_table": entries}), poison)["live_slots"]
    assert (after < before).all()


def test_tables_shorter_than_what_is_named(generator, device, poison):
    """A window of two pages behind a table of one: the ring's last rows are dead."""
    inputs = adversarial_inputs(ori_entries=1, cmp_entries=1, generator=generator, device=device)
    ring = inputs.cmp_sparse_indices[: inputs.num_tokens]
    assert ((ring >= SMALL.page_rows) & (ring < SMALL.window)).any()
    check(slots(inputs), poison)


@pytest.mark.parametrize("cmp_entries", [7, 8])
@pytest.mark.parametrize("table_entries", [1, 2, 4])
def test_a_table_by_pieces_changes_no_byte(table_entries, cmp_entries, generator, device, poison):
    """Of 8 entries the last piece is whole: nothing behind it says that a page is none."""
    inputs = adversarial_inputs(cmp_entries=cmp_entries, generator=generator, device=device)
    rows = inputs.window + inputs.q.shape[0]
    behind = rows + cmp_entries * inputs.cmp_kv.shape[1]  # the first slot behind the table
    inputs.cmp_sparse_indices[0, :2] = torch.tensor([behind, behind - 1])
    inputs.cmp_sparse_lens[0], inputs.cmp_block_table[-1] = 2, 0
    check(slots(inputs), poison, tiles=ResolveSlotsTiles(table_entries=table_entries))


def test_a_wave_is_its_rows_of_the_chunk(generator, device, poison):
    inputs = adversarial_inputs(T=9, num_tokens=7, generator=generator, device=device)
    whole = check(slots(inputs), poison)
    for first, last in [(0, 4), (4, 8), (8, 9)]:
        got = check(wave(inputs, first, last), poison)
        for t in range(last - first):
            live = int(whole["live_blocks"][first + t]) * 128
            assert int(got["live_blocks"][t]) * 128 == live
            assert torch.equal(got["rows"][t, :live], whole["rows"][first + t, :live])


def test_dead_tokens_are_dead_whatever_they_name(generator, device, poison):
    got = check(dead_tokens_that_name_live_rows(generator, device), poison)
    assert (got["live_slots"][2:] == 0).all()
    assert (got["live_blocks"][2:] == 0).all()
    assert (got["live_slots"][:2] > 0).any()


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_a_dead_block_is_left_out(dead, generator, device, poison):
    inputs = adversarial_inputs(T=3, K=400, num_tokens=3, generator=generator, device=device)
    inputs.cmp_sparse_lens.fill_(400)
    inputs.cmp_sparse_indices[:, dead * 128 :][:, :128] = -1
    got = check(slots(inputs), poison)
    assert (got["live_blocks"] == 3).all()


def test_runs_by_hand(device, seed, poison):
    """Compressed slots of a page of 16 rows behind 3 rows of the overlay."""
    first = SMALL.window + 3
    whole = list(range(first, first + 16))
    broken = [first + k for k in (0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 15, 1, 2, 3)]
    again = [first + k for k in (0, 1, 2, 3, 4, 9, 10, 11, 12, 13, 14, 15, 12, 13, 14, 15)]
    five = [first + k for k in (0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)]
    hole = [*whole[:7], *[-1] * 9]
    named = one_row([*whole, *five, *broken, *again, *hole, *[-1] * 16], device, seed)
    got = check(slots(named), poison)
    assert got["runs"][0, :6].tolist() == [16, 5, 0, 0, 7, 16]


def test_row_0_behind_a_dead_column_is_a_break(device, seed, poison):
    inputs = one_row([-1, *range(15)], device, seed)
    table = torch.zeros_like(inputs.ori_block_table)
    got = check(slots(inputs, ori_block_table=table), poison)
    assert got["rows"][0, :2].tolist() == [-1, 0]
    assert got["runs"][0, 0] == 1


def test_row_0_alone_keeps_a_block_alive(device, seed, poison):
    inputs = one_row([0], device, seed)
    table = torch.zeros_like(inputs.ori_block_table)
    got = check(slots(inputs, ori_block_table=table), poison)
    assert (got["live_blocks"] == 1).all()


def test_no_run_goes_from_one_pool_into_another(device, seed, poison):
    """The ring's last row, then the overlay's first: neighbours in no memory."""
    dims = dataclasses.replace(SMALL, window=16)
    inputs = one_row([*range(1, 16), 16], device, seed, dims=dims)
    changes = {
        "ori_kv": inputs.ori_kv[:1].contiguous(),
        "ori_block_table": torch.zeros_like(inputs.ori_block_table[:1]),
    }
    got = check(slots(inputs, **changes), poison)
    assert got["rows"][0, 14:16].tolist() == [15, 17]
    assert got["runs"][0, 0] == 15


@pytest.mark.parametrize(
    ("K", "KP"),
    [(5, 128), (128, 128), (129, 144), (144, 144), (145, 160), (192, 192), (193, 256), (300, 384)],
)
def test_the_tail_of_a_row(K, KP, generator, device, poison):
    """A tail where one of 16, 32 or 64 columns is enough behind a single block."""
    inputs = adversarial_inputs(T=9, K=K, num_tokens=8, generator=generator, device=device)
    for sharers in (1, 4):
        assert check(slots(inputs, tail=16, sharers=sharers), poison)["rows"].shape[1] == KP


@pytest.mark.parametrize("K", [133, 190])
@pytest.mark.parametrize("dead", [slice(0, 128), slice(128, None)])
def test_a_tail_behind_a_dead_block_is_a_block(dead, K, generator, device, poison):
    inputs = adversarial_inputs(T=9, K=K, num_tokens=9, generator=generator, device=device)
    inputs.cmp_sparse_indices[:] = torch.arange(K, device=device) % 20
    inputs.cmp_sparse_lens.fill_(K)
    inputs.cmp_sparse_indices[3:6, dead] = -1
    got = check(slots(inputs, tail=16), poison)
    assert got["live_blocks"].tolist() == [2, 2, 2, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("layer", ["SWA", "CSA"])
def test_flash_windows_are_runs(layer, device, seed, poison):
    inputs = make_inputs(
        PRESETS["FLASH"], layer=layer, tokens=16, start=4000, seed=seed, device=device
    )
    runs = check(slots(inputs), poison)["runs"]
    assert (runs[:, :8] > 0).float().mean() > 0.9


@pytest.mark.parametrize("sharers", [2, 8])
def test_sharers_have_one_row_of_rows(sharers, generator, device, poison):
    """Equal columns, each live for some of the tokens; a last tile that is not full."""
    inputs = adversarial_inputs(T=11, K=300, num_tokens=10, generator=generator, device=device)
    inputs.cmp_sparse_lens.fill_(300)
    indices = inputs.cmp_sparse_indices
    for u in range(0, 11, sharers):
        indices[u : u + sharers] = indices[u].clone()
    indices[torch.rand(11, 300, generator=generator).to(device) < 0.4] = -1
    got = check(slots(inputs, sharers=sharers), poison)
    assert got["rows"].shape == (-(-11 // sharers), 384)


def test_a_broken_promise_names_rows_of_some_sharer(generator, device, poison):
    inputs = adversarial_inputs(T=8, num_tokens=8, generator=generator, device=device)
    got = run_kernel("resolve_slots", slots(inputs, sharers=8), poison)
    named = {number(inputs, live_row(inputs, t, k)) for t in range(8) for k in range(133)}
    assert len(named) > 8
    live = int(got["live_blocks"][0]) * 128
    assert set(got["rows"][0, :live].tolist()) <= named
