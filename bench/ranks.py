"""What a rank moves and multiplies under tensor parallelism, by counts: ``python -m bench.ranks``.

A rank has its share of heads and groups; KV, tables and indices are every rank's. Bytes are those
that the chain as one cannot avoid (`costs.chain_cost`), each input and its fp32 part once; what is
sent is a ring's, of parts in fp32. No time is derived.
"""

from __future__ import annotations

import dataclasses

import torch
from rich.console import Console
from rich.table import Table

from bench.costs import POOLS, chain_cost
from dsv4_kernels.buffers import ARGUMENTS, BUFFERS, shapes
from dsv4_kernels.dims import PRESETS, Dims
from dsv4_kernels.inputs.prefill import PrefillInputs
from dsv4_kernels.segments.cost import size

SIZES = (1, 2, 4, 8)
TOKENS = 128  # the seed's prefill chunk
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class RankCost:
    """Of one rank among `size`: bytes, and FLOP.

    weights: wo_a, wo_b, its scales and the sinks. shared: KV that every rank gathers, with tables
    and indices. moved: all that the chain moves at the least. sent: to the other ranks, in an
    all-reduce; a reduce-scatter sends half.
    """

    size: int
    heads: int
    groups: int
    weights: int
    shared: int
    moved: int
    sent: int
    flop: int


def rank_cost(dims: Dims, size_: int, tokens: int = TOKENS) -> RankCost:
    """Counted on shapes alone, every column of a CSA layer live."""
    rank = dims.of_rank(size_)
    inputs = _shapes_of(rank, tokens)
    live_keys = tokens * dims.index_columns
    cost = chain_cost(inputs, live_keys)
    part = tokens * dims.hidden * 4
    rounded = tokens * dims.hidden * 2
    weights = (inputs.wo_a, inputs.wo_b, inputs.wo_b_scale, inputs.attn_sink)
    lookups = (
        inputs.ori_block_table, inputs.cmp_block_table, inputs.cmp_sparse_indices,
        inputs.cmp_sparse_lens, inputs.freqs_cos, inputs.freqs_sin,
    )  # fmt: skip
    pools = sum(size(getattr(inputs, name)) for name in POOLS)
    return RankCost(
        size_,
        rank.heads,
        rank.groups,
        weights=sum(map(size, weights)),
        shared=sum(map(size, lookups)) + min(pools, live_keys * dims.head_dim * 2),
        moved=cost.bytes if size_ == 1 else cost.bytes - rounded + part,
        sent=2 * (size_ - 1) * part // size_,
        flop=cost.bf16_flop + cost.int8_flop,
    )


def table(preset: str) -> Table:
    """A row per number of ranks."""
    printed = Table(
        title=f"a rank of {preset}, CSA, {TOKENS} tokens: counted, in MiB; no time is derived"
    )
    for heading in ("ranks", "heads", "groups", "weights", "every rank's", "all moved", "sent"):
        printed.add_column(heading, justify="right")
    printed.add_column("GFLOP", justify="right")
    for size_ in SIZES:
        cost = rank_cost(PRESETS[preset], size_)
        mib = (f"{n / MIB:.1f}" for n in (cost.weights, cost.shared, cost.moved, cost.sent))
        printed.add_row(
            *map(str, (cost.size, cost.heads, cost.groups)), *mib, f"{cost.flop / 1e9:.1f}"
        )
    return printed


def _shapes_of(dims: Dims, tokens: int) -> PrefillInputs:
    """Arguments without memory, of a chunk whose slots all lie in pages of their own."""
    ring = -(-dims.window // dims.page_rows)
    slots = -(-tokens * dims.index_topk // dims.page_rows)
    sizes = dims.letters() | dict(
        N=tokens, T=tokens, K=dims.index_columns, ori_pages=ring, ori_entries=ring,
        cmp_pages=slots, cmp_entries=slots,
    )  # fmt: skip
    tensors = {
        name: torch.empty(extent, dtype=BUFFERS[name].dtype, device="meta")  # type: ignore[arg-type]
        for name, extent in shapes([n for n in ARGUMENTS if n != "num_tokens"], sizes).items()
    }
    return PrefillInputs(**tensors, num_tokens=tokens, window=dims.window)


if __name__ == "__main__":
    for preset in PRESETS:
        Console(width=110).print(table(preset))
