"""Segment 1: which row each slot names, which of them are live (spec section 4), and in which runs
the rows can be moved."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from reference.bounds import Bound, Inputs, Outputs
from reference.slots import named_rows

BLOCK_COLUMNS = 128  # K is padded to whole blocks of the attention
RUN_COLUMNS = 16
POOL_GAP = 1  # between the numbers of two pools: no run goes from one into the other
NEG = -3.4028234663852886e38  # the lowest finite fp32


def resolve_slots(
    ori_kv: torch.Tensor,  # [pages, B, C] bf16
    ori_block_table: torch.Tensor,  # [n] int32
    kv_overlay: torch.Tensor,  # [T, C] bf16
    cmp_kv: torch.Tensor,  # [pages, B, C] bf16
    cmp_block_table: torch.Tensor,  # [m] int32
    cmp_sparse_indices: torch.Tensor,  # [N, K] int32
    cmp_sparse_lens: torch.Tensor,  # [N] int32
    num_tokens: int,
    *,
    window: int = 128,
    first_token: int = 0,
    sharers: int = 1,
    tail: int = BLOCK_COLUMNS,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(rows [U, KP] int32, bias [N, KP] fp32, runs [U, KP/16] int32, live_blocks [U] int32,
    live_slots [N] int32) as dsv4_kernels.resolve_slots says.

    A tile's blocks with a live slot stand first; the others are dead in all columns.
    """
    live, pool, row = named_rows(
        ori_kv, ori_block_table, kv_overlay, cmp_kv, cmp_block_table,
        cmp_sparse_indices, cmp_sparse_lens, num_tokens, window, first_token,
    )  # fmt: skip
    bases = torch.tensor([0, *pool_bases(ori_kv, kv_overlay)])
    return laid_out(torch.where(live, bases[pool] + row, -1), sharers, tail)


def laid_out(
    named: torch.Tensor,  # [N, K] int64, -1 where dead
    sharers: int = 1,
    tail: int = BLOCK_COLUMNS,
    tiles: Sequence[slice] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The rows of tokens' columns as every resolver writes them; tiles: tokens of each, where they
    are not those of `sharers` from the first on."""
    N, K = named.shape
    if tiles is None:
        tiles = [slice(first, first + sharers) for first in range(0, N, sharers)]
    KP, U = padded(K, tail), len(tiles)
    named = torch.nn.functional.pad(named, (0, KP - K), value=-1)
    rows = torch.full((U, KP), -1)
    bias = torch.full((N, KP), NEG)
    live_blocks = torch.zeros(U, dtype=torch.int32)
    for u, tokens in enumerate(tiles):
        tile = named[tokens].split(BLOCK_COLUMNS, dim=1)
        for j, block in enumerate(block for block in tile if (block >= 0).any()):
            columns = slice(j * BLOCK_COLUMNS, (j + 1) * BLOCK_COLUMNS)
            dead = rows[u, columns].shape[0] - block.shape[1]
            block = torch.nn.functional.pad(block, (0, dead), value=-1)
            rows[u, columns] = block.amax(dim=0)
            bias[tokens, columns] = torch.where(block >= 0, 0.0, NEG)
            live_blocks[u] = j + 1
    live_slots = (named >= 0).sum(dim=1, dtype=torch.int32)
    return rows.int(), bias, _runs(rows), live_blocks, live_slots


def padded(K: int, tail: int) -> int:
    """KP: whole blocks; with a tail, one and 16, 32 or 64 columns where that holds K."""
    if tail < BLOCK_COLUMNS < K <= BLOCK_COLUMNS * 3 // 2:
        return BLOCK_COLUMNS + next(n for n in (16, 32, 64) if n >= K - BLOCK_COLUMNS)
    return -(-K // BLOCK_COLUMNS) * BLOCK_COLUMNS


def pool_bases(ori_kv: torch.Tensor, kv_overlay: torch.Tensor) -> tuple[int, int]:
    """The numbers of the first row of the overlay and of the compressed pool."""
    overlay = ori_kv.shape[0] * ori_kv.shape[1] + POOL_GAP
    return overlay, overlay + kv_overlay.shape[0] + POOL_GAP


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """The same bytes, and none behind the live blocks."""
    because = "row numbers, 0, NEG and counts: the same bytes"
    live = want["live_blocks"].long() * BLOCK_COLUMNS
    dead = torch.arange(want["rows"].shape[1]) >= live[:, None]  # [U, KP]
    of_token = dead.repeat_interleave(inputs.get("sharers", 1), dim=0)
    left = {"rows": dead, "runs": dead[:, ::RUN_COLUMNS], "bias": of_token[: len(want["bias"])]}
    return {name: Bound(0.0, because, left=left.get(name)) for name in want}


def _runs(rows: torch.Tensor) -> torch.Tensor:
    """Of every 16 columns: 16 where the rows follow each other or all are dead, n where the first n
    do and the others do, else 0."""
    runs = torch.zeros(len(rows), rows.shape[1] // RUN_COLUMNS, dtype=torch.int32)
    for u, row in enumerate(rows.tolist()):
        for r in range(runs.shape[1]):
            run = row[r * RUN_COLUMNS : (r + 1) * RUN_COLUMNS]
            pairs = enumerate(itertools.pairwise(run), start=1)
            breaks = [k for k, (a, b) in pairs if b != (a + 1 if a >= 0 else -1)]
            runs[u, r] = (RUN_COLUMNS, *breaks)[len(breaks)] if len(breaks) < 2 else 0
    return runs
