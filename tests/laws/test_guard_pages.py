"""The whole chain with every tensor against a page that no access survives.

Each tensor - inputs, output, workspace - sits in a mapping of its own between two PROT_NONE pages,
once with its last byte and once with its first byte at one of them: a kernel that reads or writes
one byte beside a tensor dies. So the chain runs in a process of its own, and the index values are
the worst that a caller can pass.
"""

from __future__ import annotations

import ctypes
import mmap
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from against import FORMS
from children import Ended, Fork
from dsv4_kernels import device as devices
from dsv4_kernels import prefill_sparse_attn
from dsv4_kernels.dims import Dims
from dsv4_kernels.inputs.prefill import make_inputs
from fences import Fences, protect

pytestmark = pytest.mark.skipif(
    devices.best().type != "cpu", reason="guard pages are memory of the host"
)

Arguments = dict[str, Any]

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

# No size is a multiple of its tile, the page size no power of two.
RAGGED = Dims(
    heads=6, head_dim=16, rope_dim=16, groups=2, o_lora_rank=10, hidden=12,
    window=11, index_topk=7, page_rows=3,
)  # fmt: skip
# Every tile is full: the last element of a tensor is the last lane of a tile. A page of the pools
# is 4 KiB.
EVEN = Dims(
    heads=32, head_dim=32, rope_dim=16, groups=4, o_lora_rank=256, hidden=512,
    window=128, index_topk=128, page_rows=64,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    dims: Dims
    capacity: int = 5
    num_tokens: int = 3
    columns: int | None = None  # K; as many as the layer has if None
    pages: bool = True  # False: pools and tables are empty
    wave_tokens: int = 128


CASES = {
    "ragged": Case(RAGGED),
    "all tokens live": Case(RAGGED, num_tokens=5),
    "K = 1": Case(RAGGED, columns=1),
    "K = 133": Case(RAGGED, columns=133),
    "no pages": Case(RAGGED, pages=False),
    "one token": Case(RAGGED, capacity=1, num_tokens=1, columns=129),
    "no live token": Case(RAGGED, num_tokens=0),
    "waves": Case(RAGGED, num_tokens=5, columns=133, wave_tokens=2),
    "two token tiles": Case(RAGGED, capacity=131, num_tokens=130),
    "even": Case(EVEN, capacity=8, num_tokens=8),
    "even, dead tail": Case(EVEN, capacity=8, num_tokens=3),
    "even, dead half": Case(EVEN, capacity=128, num_tokens=64),
    "a full token tile": Case(EVEN, capacity=128, num_tokens=128, columns=128),
}


# Tokens that are said to share KV: columns of the hostile indices name other rows for each of them,
# or none for some, and no capacity but 8 and 128 is whole tiles.
BROKEN_PROMISES: tuple[Arguments, ...] = (
    dict(attention="fused", sharers=4),
    dict(attention="lanes", sharers=8),
    dict(attention="one_kernel", sharers=2),
)


def hostile_arguments(case: Case, generator: torch.Generator) -> Arguments:
    """Arguments of `prefill_sparse_attn` whose values are wrong in every way a value can be."""
    dims, T = case.dims, case.capacity
    inputs = make_inputs(dims, tokens=case.num_tokens, capacity=T, start=500)
    arguments = dict(vars(inputs))
    if not case.pages:
        for pool in ("ori", "cmp"):
            arguments[f"{pool}_kv"] = arguments[f"{pool}_kv"][:0]
            arguments[f"{pool}_block_table"] = arguments[f"{pool}_block_table"][:0]
    tables = [arguments[f"{pool}_block_table"] for pool in ("ori", "cmp")]
    for pool, table in zip(("ori", "cmp"), tables, strict=True):
        pages = arguments[f"{pool}_kv"].shape[0]
        bad = [INT32_MIN, -1, pages, INT32_MAX]
        sprinkle(table, bad, 0.3, generator)

    # Both sides of each border of the raw index contract, then whatever int32 can hold.
    overlay, slots = dims.window, dims.window + T
    ends = [overlay, overlay + case.num_tokens, slots]
    ends += [dims.page_rows * len(tables[0]), slots + dims.page_rows * len(tables[1])]
    bad = [end + step for end in ends for step in (-1, 0, 1)]
    bad += [INT32_MIN, INT32_MIN + 1, -1, 2**30, INT32_MAX - 1, INT32_MAX]
    K = case.columns or dims.index_columns
    indices = torch.randint(0, 2 * max(ends), (T, K), generator=generator, dtype=torch.int32)
    sprinkle(indices, bad, 0.5, generator)
    lens = torch.full((T,), K, dtype=torch.int32)
    sprinkle(lens, [INT32_MIN, -1, 0, 1, K - 1, K + 1, INT32_MAX], 0.5, generator)
    lens[0] = INT32_MAX
    return arguments | dict(cmp_sparse_indices=indices, cmp_sparse_lens=lens)


def sprinkle(
    tensor: torch.Tensor, values: list[int], share: float, generator: torch.Generator
) -> None:
    """Replace a share of the elements by values of the list."""
    picks = torch.randint(0, len(values), tensor.shape, generator=generator)
    chosen = torch.rand(tensor.shape, generator=generator) < share
    drawn = torch.tensor(values, dtype=torch.int64)[picks]
    tensor.copy_(torch.where(chosen, drawn, tensor.to(torch.int64)).to(torch.int32))


def same_bytes(x: torch.Tensor, y: torch.Tensor) -> bool:
    return torch.equal(x.view(torch.uint8), y.view(torch.uint8))


def run_chain(arguments: Arguments, **options: Any) -> torch.Tensor:
    return prefill_sparse_attn(**arguments, **options)


def run_fenced(names: Iterable[str], side: str, seed: int) -> None:
    """Body of the process: every case fenced, its output compared with that of plain tensors."""
    for name in names:
        print(f"{name}, fence {side}", flush=True)
        case = CASES[name]
        arguments = hostile_arguments(case, torch.Generator().manual_seed(seed))
        fences = Fences(side)
        tensors = {k: v for k, v in arguments.items() if isinstance(v, torch.Tensor)}
        fenced = {k: fences.copy(v) for k, v in tensors.items()}
        for form in (*FORMS.values(), *BROKEN_PROMISES):
            tile = int(form.get("sharers", 1))
            wave_tokens = -(-case.wave_tokens // tile) * tile
            options: Arguments = dict(form, wave_tokens=wave_tokens, groups_per_launch=1)
            expected = run_chain(arguments, **options)
            out = fences.empty(expected.shape, expected.dtype)
            run_chain(arguments | fenced, out=out, executor=fences.run, **options)
            assert same_bytes(out, expected), (name, form)
        for argument, tensor in tensors.items():
            assert same_bytes(fenced[argument], tensor), f"{name}: `{argument}` was written"
    print("done", flush=True)


def run_with_dead_rows_fenced(seed: int) -> None:
    """Body of the process: pool pages that no live slot names are PROT_NONE themselves, and so are
    the overlay's dead rows."""
    case = CASES["even, dead half"]
    dims, T, live = case.dims, case.capacity, case.num_tokens
    row_bytes = dims.head_dim * torch.bfloat16.itemsize
    assert dims.page_rows * row_bytes == mmap.PAGESIZE
    assert live * row_bytes == mmap.PAGESIZE == (T - live) * row_bytes
    arguments = hostile_arguments(case, torch.Generator().manual_seed(seed))
    expected = run_chain(arguments)

    fences = Fences("before")
    fenced = dict(arguments)
    fenced["kv_overlay"] = fences.copy(arguments["kv_overlay"])
    protect(fenced["kv_overlay"].data_ptr() + live * row_bytes, mmap.PAGESIZE)
    bounds = {"ori": (0, dims.window), "cmp": (dims.window + T, INT32_MAX)}
    for pool, (low, high) in bounds.items():
        fenced[f"{pool}_kv"] = copy = fences.copy(arguments[f"{pool}_kv"])
        table = arguments[f"{pool}_block_table"].tolist()
        named = set()
        for t in range(live):
            usable = max(0, int(arguments["cmp_sparse_lens"][t]))
            row = arguments["cmp_sparse_indices"][t, :usable].tolist()
            logical = {(raw - low) // dims.page_rows for raw in row if low <= raw < high}
            named |= {table[page] for page in logical if page < len(table)}
        dead = set(range(len(copy))) - named
        assert dead, f"{pool}: every page is named"
        assert len(dead) < len(copy), f"{pool}: no page is named"
        for page in dead:
            protect(copy.data_ptr() + page * mmap.PAGESIZE, mmap.PAGESIZE)
    assert same_bytes(run_chain(fenced), expected)
    print("done", flush=True)


def overrun(side: str) -> None:
    """Body of the process: touch the first byte beside a fenced tensor."""
    tensor = Fences(side).empty((3,), torch.bfloat16)
    beside = tensor.data_ptr() + (tensor.nbytes if side == "after" else -1)
    print("alive", flush=True)
    ctypes.string_at(beside, 1)
    print("done", flush=True)


def in_a_process(call: str) -> Ended:
    return Fork(__file__, call).end(seconds=300)


def assert_survived(process: Ended) -> None:
    lines = process.stdout.splitlines()
    where = f"after {lines[-3:]}\n{process.stderr}"
    assert process.returncode == 0, where
    assert lines[-1] == "done", where


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_fence_kills_who_touches_it(side: str) -> None:
    process = in_a_process(f"overrun({side!r})")
    assert process.stdout.split() == ["alive"]
    assert process.returncode == -signal.SIGSEGV


@pytest.mark.parametrize("side", ["before", "after"])
def test_nothing_is_touched_beside_any_tensor(side: str, seed: int) -> None:
    assert_survived(in_a_process(f"run_fenced({list(CASES)}, {side!r}, {seed})"))


def test_dead_rows_are_not_read(seed: int) -> None:
    assert_survived(in_a_process(f"run_with_dead_rows_fenced({seed})"))
