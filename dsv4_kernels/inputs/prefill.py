"""Inputs of `prefill_sparse_attn` as a server would pass them.

A chunk of ``tokens`` tokens starts at absolute position ``start``; token t sits at p = start + t.
It attends to the last ``window`` positions up to p and to compressed slots, each of which stands
for ``ratio`` finished tokens: slot s exists for p as soon as s < (p + 1) // ratio.

    position < start    row (position mod window) of the ring, written by the chunks before
    position >= start   row (position - start) of the chunk's own KV

The caches are pages in a pool that other requests share: a block table is a random permutation,
never the identity, and some pages belong to nobody here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from dsv4_kernels.buffers import ARGUMENTS, PER_TOKEN
from dsv4_kernels.dims import LAYER_RATIOS, Dims
from dsv4_kernels.inputs.rope import MAX_POSITIONS, rope_tables
from dsv4_kernels.weights.rows import BLOCK_ELEMENTS, quantise_rows, row_blocks

SPARE_PAGES = 3  # pages of a pool that no table names; one would be enough to tell tables apart

# One head in 16 has no sink (-inf), the others a real one, as in the model: rare, and yet one in
# each 16 rows, the height of a cube tile.
SINKLESS_HEAD_STEP = 16


@dataclass(frozen=True)
class PrefillInputs:
    """The arguments of `prefill_sparse_attn`, by their names and in their order."""

    q: torch.Tensor  # [T, H, C] bf16
    ori_kv: torch.Tensor  # [pages, B, C] bf16
    ori_block_table: torch.Tensor  # [n] int32
    kv_overlay: torch.Tensor  # [T, C] bf16
    cmp_kv: torch.Tensor  # [pages, B, C] bf16
    cmp_block_table: torch.Tensor  # [m] int32
    cmp_sparse_indices: torch.Tensor  # [T, K] int32
    cmp_sparse_lens: torch.Tensor  # [T] int32
    attn_sink: torch.Tensor  # [H] fp32
    num_tokens: int  # live tokens, 0..T
    freqs_cos: torch.Tensor  # [T, P] bf16
    freqs_sin: torch.Tensor  # [T, P] bf16
    wo_a: torch.Tensor  # [G, R, J] bf16
    wo_b: torch.Tensor  # [D, G*R] int8
    wo_b_scale: torch.Tensor  # [D] fp32
    window: int  # rows of the ring; the one keyword argument

    def args(self) -> tuple[Any, ...]:
        """The positional arguments: ``prefill_sparse_attn(*x.args(), window=x.window)``."""
        return tuple(getattr(self, name) for name in ARGUMENTS)

    def rows(self, rows: Any) -> PrefillInputs:
        """A copy with these tokens' rows of what has one per token; rows: an index of tensors.

        The overlay stays whole, so that raw indices name what they did. That is no chunk to a
        kernel unless T stays, but the references compute every token by itself.
        """
        return replace(self, **{name: getattr(self, name)[rows].clone() for name in PER_TOKEN})

    def to(self, device: torch.device | str) -> PrefillInputs:
        """The same inputs on `device`."""
        tensors = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **tensors)


def make_inputs(
    dims: Dims,
    *,
    layer: str = "CSA",
    tokens: int = 128,
    capacity: int | None = None,
    start: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> PrefillInputs:
    """Draw the inputs of one chunk.

    The same seed gives the same bits on every device: all is drawn on the CPU, then moved. The
    sinks and weights are drawn first, so that chunks of one seed share them whatever their layer,
    start and length.

    Columns of an index row: the window in ascending position, then the compressed slots, then -1.
    SWA has none of the slots and an empty pool; CSA picks ``index_topk`` of them by random scores,
    best first; HCA takes all, ascending. K is window + index_topk for CSA and window + the slots
    that the last token of a full chunk sees for HCA.

    Rows past ``tokens`` are dead. They hold what a full chunk would have there, so their indices
    may name slots past the end of ``cmp_block_table``.

    Args:
        dims: sizes of the model.
        layer: "SWA", "CSA" or "HCA".
        tokens: live tokens, ``num_tokens``.
        capacity: T, rows of the chunk; ``tokens`` if not given.
        start: absolute position of token 0.
        seed: of the CPU generator that draws everything.
        device: where the tensors end up.

    Raises:
        ValueError: unknown layer, heads not a multiple of groups, a negative start or tokens,
            tokens > capacity, or positions that rope_tables does not tell apart.
    """
    capacity = tokens if capacity is None else capacity
    if layer not in LAYER_RATIOS:
        raise ValueError(f"`layer` must be one of {list(LAYER_RATIOS)}, got {layer!r}")
    if dims.heads % dims.groups:
        raise ValueError(
            f"`dims.heads` must be a multiple of `dims.groups`, got {dims.heads} and {dims.groups}"
        )
    if start < 0:
        raise ValueError(f"`start` must be a position >= 0, got {start}")
    if tokens < 0:
        raise ValueError(f"`tokens` must be >= 0, got {tokens}")
    if tokens > capacity:
        raise ValueError(f"`tokens` must be in 0..{capacity}, the capacity, got {tokens}")
    if start + capacity > MAX_POSITIONS:
        raise ValueError(
            f"`start` must leave all positions below {MAX_POSITIONS}, got {start} for a chunk of "
            f"{capacity}"
        )

    with torch.device("cpu"):  # whatever the caller's default device
        generator = torch.Generator().manual_seed(seed)
        ratio = LAYER_RATIOS[layer]
        slots = (start + tokens) // ratio if ratio else 0

        attn_sink = _randn((dims.heads,), generator)
        if dims.heads > 1:
            attn_sink[::SINKLESS_HEAD_STEP] = -torch.inf
        # A weight of variance 1/inputs keeps N(0, 1) activations at their size.
        wo_a = _normal(
            (dims.groups, dims.o_lora_rank, dims.group_inputs),
            generator,
            std=dims.group_inputs**-0.5,
        )
        wo_b, wo_b_scale = _draw_wo_b(dims, generator)

        # The model RMS-normalises both q and KV, hence N(0, 1).
        q = _normal((capacity, dims.heads, dims.head_dim), generator)
        kv_overlay = _normal((capacity, dims.head_dim), generator)
        ori_kv, ori_block_table = _paged_pool(dims.window, SPARE_PAGES, dims, generator)
        cmp_kv, cmp_block_table = _paged_pool(slots, SPARE_PAGES if ratio else 0, dims, generator)
        indices, lens = _draw_indices(dims, layer, start, capacity, generator)
        freqs_cos, freqs_sin = rope_tables(
            torch.arange(start, start + capacity), compress_ratio=ratio, rope_dim=dims.rope_dim
        )
    return PrefillInputs(
        q=q,
        ori_kv=ori_kv,
        ori_block_table=ori_block_table,
        kv_overlay=kv_overlay,
        cmp_kv=cmp_kv,
        cmp_block_table=cmp_block_table,
        cmp_sparse_indices=indices,
        cmp_sparse_lens=lens,
        attn_sink=attn_sink,
        num_tokens=tokens,
        freqs_cos=freqs_cos,
        freqs_sin=freqs_sin,
        wo_a=wo_a,
        wo_b=wo_b,
        wo_b_scale=wo_b_scale,
        window=dims.window,
    ).to(device)


def _randn(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """N(0, 1) in fp32, whatever the caller's default dtype."""
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def _normal(shape: tuple[int, ...], generator: torch.Generator, std: float = 1.0) -> torch.Tensor:
    """N(0, std**2) rounded to bf16; drawn in fp32, block by block to keep the fp32 copy small."""
    values = torch.empty(shape, dtype=torch.bfloat16)
    for block in values.view(-1).split(BLOCK_ELEMENTS):
        block.copy_(_randn(block.shape, generator).mul_(std))
    return values


def _draw_wo_b(dims: Dims, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """wo_b [D, G*R] int8 and wo_b_scale [D] fp32, quantised from N(0, 1/(G*R))."""
    columns = dims.groups * dims.o_lora_rank
    codes = torch.empty(dims.hidden, columns, dtype=torch.int8)
    scale = torch.empty(dims.hidden, dtype=torch.float32)
    for block in row_blocks(dims.hidden, columns):
        rows = block.stop - block.start
        weights = _randn((rows, columns), generator).mul_(columns**-0.5)
        codes[block], scale[block] = quantise_rows(weights)
    return codes, scale


def _paged_pool(
    rows: int, spare_pages: int, dims: Dims, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A pool [pages + spare, B, C] bf16 and the table [pages] int32 that finds ``rows`` rows in it.

    Pages that hold no row of ours, and the rest of the last page, hold rows of somebody else.
    """
    pages = -(-rows // dims.page_rows)
    pool = _normal((pages + spare_pages, dims.page_rows, dims.head_dim), generator)
    table = torch.randperm(pages + spare_pages, generator=generator)[:pages]
    if torch.equal(table, torch.arange(pages)):
        table = table + 1  # still pages of the pool, thanks to the spare ones
    return pool, table.to(torch.int32)


def _draw_indices(
    dims: Dims, layer: str, start: int, capacity: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw indices [T, K] int32 and lens [T] int32 of a full chunk."""
    window, ratio = dims.window, LAYER_RATIOS[layer]
    positions = torch.arange(start, start + capacity)
    window_used = (positions + 1).clamp(max=window)
    slots_seen = (positions + 1) // ratio if ratio else torch.zeros_like(positions)
    most_slots = (start + capacity) // ratio if ratio else 0
    most_picks = dims.index_topk if layer == "CSA" else most_slots
    picks_used = slots_seen.clamp(max=most_picks)

    indices = torch.full((capacity, window + most_picks), -1, dtype=torch.int32)
    columns = torch.arange(window)
    rows = max(1, BLOCK_ELEMENTS // max(indices.shape[1], most_slots))
    for first in range(0, capacity, rows):
        block = slice(first, first + rows)
        used = window_used[block, None]
        position = positions[block, None] - used + 1 + columns
        raw = torch.where(position < start, position % window, window + position - start)
        indices[block, :window] = torch.where(columns < used, raw, -1).to(torch.int32)

        if layer == "CSA":
            picks = _top_slots(slots_seen[block], dims.index_topk, generator)
        else:
            picks = torch.arange(int(slots_seen[block].max())).expand(len(used), -1)
        columns_of_picks = torch.arange(picks.shape[1])
        raw = torch.where(columns_of_picks < picks_used[block, None], window + capacity + picks, -1)
        indices[block].scatter_(1, used + columns_of_picks, raw.to(torch.int32))
    return indices, (window_used + picks_used).to(torch.int32)


def _top_slots(slots_seen: torch.Tensor, topk: int, generator: torch.Generator) -> torch.Tensor:
    """What an indexer picks, best score first.

    Args:
        slots_seen: [n] int64, slots that each row may pick from.

    Returns:
        [n, min(topk, max(slots_seen))] int64; only the first min(topk, slots_seen) of a row count.
    """
    most = int(slots_seen.max())
    scores = _randn((len(slots_seen), most), generator)
    scores.masked_fill_(torch.arange(most) >= slots_seen[:, None], -torch.inf)
    return scores.topk(min(topk, most), dim=1).indices
