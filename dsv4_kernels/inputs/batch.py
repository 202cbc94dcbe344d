"""Inputs of `sparse_attn`, drawn as a server would pass them: requests in a batch, paged.

    requests = [Request(length=300, tokens=4), Request(length=1000, tokens=200)]
    batch = make_batch(dims, requests, ratio=4, seed=0)
    sparse_attn(*batch.args(), **batch.options())

Memory that no live column names is foreign: NaN between the pages and behind a request's end, and
table entries of any bits behind its last page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from dsv4_kernels.buffers import span
from dsv4_kernels.dims import Dims
from dsv4_kernels.inputs.prefill import make_inputs

SPARE_PAGES = 2  # pages that no table names; one would do

# What servers leave in tables where nothing is: vLLM's null page, SGLang's none, and old bits.
_FOREIGN_ENTRIES = (0, -1, 2**31 - 1, -(2**31), 1)


@dataclass(frozen=True)
class Request:
    """length: KV positions with this step's; tokens: of this step, the last of them; key: what its
    content is drawn from. A request with tokens and length 0 is a graph's padding."""

    length: int
    tokens: int
    key: int = 0


@dataclass(frozen=True)
class BatchInputs:
    """The arguments of `sparse_attn` by their names and in their order, and what they were made
    of: window_rows and slot_rows, the KV of every request by position and by slot; listed, of each
    token the positions that ori_indices names."""

    q: torch.Tensor
    ori_kv: torch.Tensor
    ori_block_table: torch.Tensor
    cmp_kv: torch.Tensor | None
    cmp_block_table: torch.Tensor | None
    cmp_indices: torch.Tensor | None
    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    attn_sink: torch.Tensor
    rope_cos: torch.Tensor
    rope_sin: torch.Tensor
    wo_a: torch.Tensor
    wo_b: torch.Tensor
    wo_b_scale: torch.Tensor
    compress_ratio: int
    window: int
    window_rows: tuple[torch.Tensor, ...]  # of a request [length, C] bf16
    slot_rows: tuple[torch.Tensor, ...]  # [length // ratio, C] bf16
    ori_indices: torch.Tensor | None = None
    listed: tuple[tuple[int, ...], ...] | None = None

    def args(self) -> tuple[Any, ...]:
        """The positional arguments."""
        return tuple(getattr(self, field.name) for field in fields(self)[:14])

    def options(self) -> dict[str, Any]:
        """The keyword arguments that have no default, the window, and drafts' lists of rows."""
        drafts = {} if self.ori_indices is None else dict(ori_indices=self.ori_indices)
        return dict(compress_ratio=self.compress_ratio, window=self.window) | drafts

    def to(self, device: torch.device | str) -> BatchInputs:
        """The same inputs on `device`, with the same strides."""
        tensors = {k: _to(v, device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **tensors)


def make_batch(
    dims: Dims,
    requests: Sequence[Request],
    *,
    ratio: int,
    listed: bool | None = None,
    capacity: int | None = None,
    drafts: int | None = None,
    page_sizes: tuple[int, int] = (32, 32),
    gap: int = 0,
    seed: int = 0,
) -> BatchInputs:
    """Draw a batch, on the CPU. A request's rows are drawn from its key, those of a token from its
    position too: they are the same in any batch and any step of one seed.

    Args:
        dims: sizes of the model; index_topk is the width of the list.
        requests: in the order of the batch.
        ratio: positions per compressed slot, 0 for none.
        listed: whether cmp_indices is given; for a ratio of 4 by default.
        capacity: T; the tokens of the requests if None.
        drafts: W, if ori_indices is given: the window before a request's tokens of this step and
            all of these, whatever the token's place among them.
        page_sizes: of the window's pool and of the compressed one.
        gap: elements of NaN from the end of a page to the next, as where pools share an arena.
        seed: of the generators.
    """
    live = sum(request.tokens for request in requests)
    T = live if capacity is None else capacity
    listed = ratio == 4 if listed is None else listed
    generator = torch.Generator().manual_seed(seed)
    weights = make_inputs(dims, layer="SWA", tokens=1, seed=seed)
    starts = torch.tensor([0, *(request.tokens for request in requests)]).cumsum(0)

    q = torch.full((T, dims.heads, dims.head_dim), torch.nan, dtype=torch.bfloat16)
    cos, sin = (torch.full((T, dims.rope_dim), torch.nan) for _ in range(2))
    indices = torch.zeros((T, dims.index_topk), dtype=torch.int32)
    window_rows, slot_rows = [], []
    positions: list[tuple[int, ...]] = [()] * T
    owner = [-1] * T
    for request, start in zip(requests, starts.tolist(), strict=False):
        key = seed * 1009 + request.key
        length = max(request.length, 0)
        slots = length // ratio if ratio else 0
        for rows, count, salt in ((window_rows, length, 0), (slot_rows, slots, 1)):
            own = torch.Generator().manual_seed(2 * key + salt)
            rows.append(torch.randn(count, dims.head_dim, generator=own).bfloat16())
        for t in range(start, start + request.tokens):
            position = request.length - start - request.tokens + t
            if position < 0:
                continue
            token = torch.Generator().manual_seed(key * 65537 + position)
            q[t] = torch.randn(dims.heads, dims.head_dim, generator=token).bfloat16()
            angle = torch.rand(dims.rope_dim // 2, generator=token) * 6.0
            cos[t], sin[t] = (f(angle).repeat_interleave(2) for f in (torch.cos, torch.sin))
            if drafts is not None:
                first = max(length - request.tokens - dims.window, 0)
                seen = torch.arange(length)[first:][-drafts:] if drafts else torch.arange(0)
                order = torch.randperm(len(seen), generator=token)
                positions[t], owner[t] = tuple(seen[order].tolist()), len(window_rows) - 1
            if ratio:
                indices[t] = _list_of((position + 1) // ratio, dims.index_topk, token)

    ori = _paged(window_rows, page_sizes[0], gap, dims.head_dim, generator)
    ori_indices = None
    if drafts is not None:
        ori_indices = _physical(positions, owner, ori[1], page_sizes[0], drafts, generator)
    cmp = (None, None)
    if ratio:
        cmp = _paged(slot_rows, page_sizes[1], gap, dims.head_dim, generator)
    return BatchInputs(
        q=q, ori_kv=ori[0], ori_block_table=ori[1], cmp_kv=cmp[0], cmp_block_table=cmp[1],
        cmp_indices=indices if listed else None, query_start_loc=starts.int(),
        seq_lens=torch.tensor([r.length for r in requests], dtype=torch.int32),
        attn_sink=weights.attn_sink, rope_cos=cos, rope_sin=sin, wo_a=weights.wo_a,
        wo_b=weights.wo_b, wo_b_scale=weights.wo_b_scale, compress_ratio=ratio,
        window=dims.window, window_rows=tuple(window_rows), slot_rows=tuple(slot_rows),
        ori_indices=ori_indices, listed=None if drafts is None else tuple(positions),
    )  # fmt: skip


def _list_of(visible: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Slots as an indexer lists them: most visible, in any order, holes, one twice, and some that
    are not visible yet."""
    drawn = torch.randint(0, max(visible, 1), (width,), generator=generator)
    distinct = torch.randperm(max(visible, 1), generator=generator)[:width]
    drawn[: len(distinct)] = distinct
    kind = torch.rand(width, generator=generator)
    drawn = torch.where(kind < 0.1, -1, drawn)
    drawn = torch.where(kind > 0.95, visible, drawn)
    return drawn.int()


def _physical(
    listed: Sequence[Sequence[int]],
    owner: Sequence[int],
    table: torch.Tensor,
    B: int,
    width: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """[T, 1, width], as vLLM's: rows of the pool for positions of each token's request, in their
    order, from anywhere in the row on; none elsewhere."""
    rows = torch.full((len(listed), 1, width), -1, dtype=torch.int32)
    for t, seen in enumerate(listed):
        places = torch.randperm(width, generator=generator)[: len(seen)].sort().values
        for place, position in zip(places.tolist(), seen, strict=True):
            rows[t, 0, place] = int(table[owner[t], position // B]) * B + position % B
    return rows


def _paged(
    rows: Sequence[torch.Tensor], B: int, gap: int, C: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A pool [pages, B, 1, C] that begins and has its pages `gap` elements behind others' memory,
    and a table that is a slice of a wider."""
    counts = [-(-len(r) // B) for r in rows]
    pages = sum(counts) + SPARE_PAGES
    stride = B * C + gap
    memory = torch.full((gap + pages * stride,), torch.nan, dtype=torch.bfloat16)
    pool = memory[gap:].as_strided((pages, B, C), (stride, C, 1))
    place = torch.randperm(pages, generator=generator)
    columns = max(counts, default=0) + 2
    foreign = torch.tensor(_FOREIGN_ENTRIES)
    picks = torch.randint(len(foreign), (len(rows), columns + 3), generator=generator)
    table = foreign[picks].int()
    taken = 0
    for r, (own, count) in enumerate(zip(rows, counts, strict=True)):
        for page in range(count):
            physical = int(place[taken + page])
            part = own[page * B : (page + 1) * B]
            pool[physical, : len(part)] = part
            table[r, page] = physical
        taken += count
    return pool.unsqueeze(2), table[:, :columns]


def _to(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """On the device with its strides, which `to` keeps only where nothing lies between rows."""
    memory = tensor.as_strided((span(tensor),), (1,)).to(device)
    return memory.as_strided(tensor.shape, tensor.stride())
