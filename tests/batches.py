"""A server's batches, drawn at random and held against the raw entry and the oracle."""

import dataclasses

import torch

from adversary import INT32_MAX, INT32_MIN, SMALL
from dsv4_kernels import prefill_sparse_attn, sparse_attn
from dsv4_kernels.inputs.batch import Request, make_batch
from reference.batch import as_raw, oracle, places

# Of rounding and INT8: a wrong row of 24 would be ten times as much.
ORACLE_ERROR = 0.02

# Of tokens in other blocks of columns: a code in 127 moves by one where rounding meets a tie.
SHARING_ERROR = 0.01

# Of a row, of powers of two, and of none, of both pools and of each: a page size is compiled in, so
# tests that could have any have these.
PAGES = ((1, 1), (32, 32), (16, 8), (12, 5))

EXTREMES = (INT32_MIN, INT32_MIN + 1, -1, 0, 1, 5, 2**24, INT32_MAX - 1, INT32_MAX)


def on(device, batch):
    """On the device with its strides; a CPU's as it is."""
    return batch if device.type == "cpu" else batch.to(device)


def run(batch, device=torch.device("cpu"), **options):
    batch = on(device, batch)
    return sparse_attn(*batch.args(), **batch.options(), **options).cpu()


def same(x, y):
    return torch.equal(x.view(torch.int16), y.view(torch.int16))


def near(got, want):
    """But for rounding, which flips a code here and there; dead tokens are zeros in both."""
    live = want.any(dim=1)
    assert not got[~live].any()
    error = (got - want)[live].float().norm(dim=1) / want[live].float().norm(dim=1)
    assert (error < SHARING_ERROR).all(), error


def check_rows(batch, device, **options):
    """The raw entry's bytes for the rows of the contract's words."""
    got = run(batch, device, **options)
    arguments, window = as_raw(*batch.args(), **batch.options())
    on_device = [x.to(device) if isinstance(x, torch.Tensor) else x for x in arguments]
    form = {name: options[name] for name in ("attention",) if name in options}
    assert same(got, prefill_sparse_attn(*on_device, window=window, **form).cpu())
    return got


def check(batch, device, **options):
    """The raw entry's bytes for the rows of the contract's words, exact zeros of dead tokens, and
    the oracle, which knows no page and no table."""
    got = check_rows(batch, device, **options)
    found = places(batch.query_start_loc, batch.seq_lens, len(got))
    live = torch.tensor([r >= 0 for r, _ in found], dtype=torch.bool)
    assert not got[~live].view(torch.int16).any()
    want = oracle(
        list(zip(batch.window_rows, batch.slot_rows, strict=True)), batch.q, batch.cmp_indices,
        *batch.args()[6:], compress_ratio=batch.compress_ratio, window=batch.window,
        listed=batch.listed,
    )  # fmt: skip
    error = (got.double() - want)[live].norm(dim=1) / want[live].norm(dim=1)
    assert (error < ORACLE_ERROR).all(), error
    return got


def hostile(batch, generator):
    """Values of any bits wherever an argument holds an integer."""
    changes = {}
    for name in (
        "ori_block_table", "cmp_block_table", "cmp_indices", "query_start_loc", "seq_lens",
        "ori_indices",
    ):  # fmt: skip
        value = getattr(batch, name)
        if value is None:
            continue
        picks = torch.randint(0, len(EXTREMES), value.shape, generator=generator)
        chosen = torch.rand(value.shape, generator=generator) < 0.2
        changes[name] = torch.where(chosen, torch.tensor(EXTREMES)[picks], value).int()
    return dataclasses.replace(batch, **changes)


def healed(batch):
    """The same batch with a number wherever memory is NaN: integers of any bits may name it."""
    floats = {
        name: value.nan_to_num(1.0)
        for name, value in vars(batch).items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    return dataclasses.replace(batch, **floats)


def drawn_batch(generator, step=1, pages=PAGES):
    """As servers make them: requests, layers, pages, lists, drafts, and a capacity.

    step: elements that pages are a multiple of apart. pages: their sizes are one of these.
    """

    def integer(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    requests = [
        Request(length := integer(0, 90), integer(0, min(length, 6) + 1), key=k)
        for k in range(integer(0, 5))
    ]
    live = sum(request.tokens for request in requests)
    return make_batch(
        SMALL, requests, ratio=(0, 4, 128, 3)[integer(0, 4)] if requests else 4,
        listed=None if integer(0, 2) else False, drafts=(None, None, 40)[integer(0, 3)],
        capacity=live + integer(0, 4),
        page_sizes=pages[integer(0, len(pages))],
        gap=(0, 1, 5, 8, SMALL.head_dim, 3 * SMALL.head_dim - 1)[integer(0, 6)] * step,
        seed=integer(0, 2**20),
    )  # fmt: skip


def wider(tensor, left, right):
    """The same values as columns of rows that hold NaN, or any bits, on both sides."""
    fill = torch.nan if tensor.is_floating_point() else INT32_MAX
    sides = [tensor.new_full((*tensor.shape[:-1], n), fill) for n in (left, right)]
    whole = torch.cat([sides[0], tensor, sides[1]], dim=-1)
    return whole[..., left : left + tensor.shape[-1]]


def slices_of_wider(batch):
    """{name: the same values as rows of a wider tensor}: queries of some of the heads, cos and sin
    in one table, lists in longer ones."""
    heads = batch.q.shape[1]
    lists = {"cmp_indices": (3, 2), "ori_indices": (0, 1)}
    return {
        "q": torch.cat([torch.full_like(batch.q, torch.nan), batch.q], dim=1)[:, heads:],
        "rope_cos": wider(batch.rope_cos, 0, 16),
        "rope_sin": wider(batch.rope_sin, 48, 16),
    } | {
        name: wider(getattr(batch, name), *sides)
        for name, sides in lists.items()
        if getattr(batch, name) is not None
    }
