"""Contracts that a server would never send on purpose, over memory that is NaN where it is dead."""

from __future__ import annotations

import dataclasses

import torch

from dsv4_kernels.dims import Dims
from dsv4_kernels.inputs.prefill import PrefillInputs, make_inputs

# Sizes that no tile divides, two groups, a page size that divides nothing.
SMALL = Dims(
    heads=8,
    head_dim=64,
    rope_dim=16,
    groups=2,
    o_lora_rank=40,
    hidden=72,
    window=24,
    index_topk=30,
    page_rows=16,
)
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


def adversarial_inputs(
    dims: Dims = SMALL,
    *,
    T: int = 9,
    K: int = 133,
    num_tokens: int | None = None,
    ori_entries: int = 2,
    cmp_entries: int = 3,
    generator: torch.Generator,
    device: torch.device,
) -> PrefillInputs:
    """Random indices of every kind, broken tables, and NaN in all memory that no live slot names.

    Rows of indices mix ring, overlay and compressed slots with holes, duplicates, places just past
    each range and the extremes of int32; lengths include 0, negative and more than K.
    """
    num_tokens = T - 1 if num_tokens is None else num_tokens
    base = make_inputs(
        dims, layer="SWA", tokens=T, seed=int(torch.randint(2**31, (), generator=generator))
    )
    B, window = dims.page_rows, dims.window

    def table(entries: int, pages: int) -> torch.Tensor:
        drawn = torch.randperm(pages, generator=generator)[:entries].to(torch.int32)
        broken = torch.tensor([-1, pages, INT32_MAX, INT32_MIN], dtype=torch.int32)
        if entries > 1:  # one entry of the table names no page
            drawn[-1] = broken[torch.randint(4, (), generator=generator)]
        return drawn

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).bfloat16()

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, max(high, low + 1), shape, generator=generator)

    ori_pages = ori_entries + 2 if ori_entries else 0
    cmp_pages = cmp_entries + 2 if cmp_entries else 0
    kinds = torch.stack(
        [
            integers(0, window, T, K),
            integers(window, window + T, T, K),
            integers(window + T, window + T + cmp_entries * B, T, K),
            integers(window + T, window + T + (cmp_entries + 2) * B, T, K),
            torch.full((T, K), -1),
            torch.full((T, K), INT32_MAX),
            torch.full((T, K), INT32_MIN),
            integers(window, window + 2, T, K),  # duplicates
        ]
    )
    weights = torch.tensor([4.0, 4, 6, 1, 2, 0.5, 0.5, 1])
    drawn = torch.multinomial(weights, T * K + 1, replacement=True, generator=generator)
    choice = drawn[1:].view(1, T, K)
    lens = integers(0, K + 1, T)
    if T > 3:
        lens[1], lens[2], lens[3] = K + 7, 0, -3

    inputs = dataclasses.replace(
        base,
        ori_kv=normal(ori_pages, B, dims.head_dim),
        ori_block_table=table(ori_entries, ori_pages),
        cmp_kv=normal(cmp_pages, B, dims.head_dim),
        cmp_block_table=table(cmp_entries, cmp_pages),
        cmp_sparse_indices=kinds.gather(0, choice)[0].to(torch.int32),
        cmp_sparse_lens=lens.to(torch.int32),
        num_tokens=num_tokens,
    )
    poison_dead_memory(inputs)
    return inputs.to(device)


def live_row(inputs: PrefillInputs, t: int, k: int) -> tuple[str, int] | None:
    """The pool and row that slot (t, k) names, straight from the words of spec section 4."""
    T, B = inputs.kv_overlay.shape[0], inputs.ori_kv.shape[1]
    if t >= inputs.num_tokens or k >= max(0, int(inputs.cmp_sparse_lens[t])):
        return None
    raw = int(inputs.cmp_sparse_indices[t, k])
    if raw < 0:
        return None
    if inputs.window <= raw < inputs.window + T:
        row = raw - inputs.window
        return ("kv_overlay", row) if row < inputs.num_tokens else None
    if raw < inputs.window:
        pool, table, slot = "ori_kv", inputs.ori_block_table, raw
    else:
        pool, table, slot = "cmp_kv", inputs.cmp_block_table, raw - inputs.window - T
    if slot // B >= len(table):
        return None
    page = int(table[slot // B])
    if not 0 <= page < getattr(inputs, pool).shape[0]:
        return None
    return pool, page * B + slot % B


def poison_dead_memory(inputs: PrefillInputs) -> None:
    """NaN, in place, in every KV row that no live slot names and every row of a dead token."""
    T, K = inputs.cmp_sparse_indices.shape
    live = {live_row(inputs, t, k) for t in range(T) for k in range(K)}
    for name in ("ori_kv", "kv_overlay", "cmp_kv"):
        rows = getattr(inputs, name).flatten(0, -2)
        dead = [row for row in range(rows.shape[0]) if (name, row) not in live]
        rows[dead] = torch.nan
    for name in ("q", "freqs_cos", "freqs_sin"):
        getattr(inputs, name)[inputs.num_tokens :] = torch.nan
    P = inputs.freqs_cos.shape[1]
    inputs.freqs_cos[:, P // 2 :] = torch.nan  # only the first half of a table is used
    inputs.freqs_sin[:, P // 2 :] = torch.nan
    dead_tokens = inputs.cmp_sparse_indices[inputs.num_tokens :]
    dead_tokens.fill_(INT32_MAX)


def healed(inputs: PrefillInputs) -> PrefillInputs:
    """The same contract with a number wherever dead memory was NaN."""
    floats = {
        name: torch.where(value.isnan(), 3.0, value)
        for name, value in vars(inputs).items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    return dataclasses.replace(inputs, **floats)


def with_pages_permuted(inputs: PrefillInputs, generator: torch.Generator) -> PrefillInputs:
    """The same contract with every physical page somewhere else; entries that name none stay."""
    moved = {}
    for pool in ("ori", "cmp"):
        pages, table = getattr(inputs, f"{pool}_kv"), getattr(inputs, f"{pool}_block_table")
        place = torch.randperm(len(pages), generator=generator).to(table)
        inside = (table >= 0) & (table < len(pages))
        moved[f"{pool}_kv"] = torch.empty_like(pages).index_copy_(0, place.long(), pages)
        moved[f"{pool}_block_table"] = table.clone().masked_scatter_(inside, place[table[inside]])
    return dataclasses.replace(inputs, **moved)
