"""How the tasks of a launch are numbered, for segments that number them alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import triton
import triton.language as tl

from dsv4_kernels.contract import Contract
from dsv4_kernels.segments.tiles import FRACTAL


@triton.jit
def matmul_task(
    task,
    first_group,
    token_tiles,
    COLUMN_TILES: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """A (BLOCK_T, BLOCK_N) tile of one group: its group, first token and first column. Token tiles
    vary fastest and share weights."""
    g = (first_group + task // (COLUMN_TILES * token_tiles)).to(tl.int64)
    t0 = task % token_tiles * BLOCK_T
    n0 = task // token_tiles % COLUMN_TILES * BLOCK_N
    return g, t0, n0


def matmul_tasks(contract: Contract, columns: int, block_t: int, block_n: int) -> int:
    """How many such tiles the groups of a launch have, each with so many columns."""
    tiles = triton.cdiv(columns, block_n) * triton.cdiv(contract["N"], block_t)
    return len(contract.groups) * tiles


FEW_TOKENS = 64  # that a tile of 256 columns has room for: 64 KiB of L0C, which two tasks share


def tile_of_few(
    contract: Contract, columns: int, cores: int, widths: Sequence[int] = (256, 128)
) -> tuple[int, int]:
    """Rows and columns of a matmul's tile where its tokens are few, in one tile of 16, 32 or 64.

    A task then reads the activations of all tokens and its columns' weights, once: N + width rows.
    Of the widths, what leaves the busiest core fewer of them; of equals the wider, which moves
    less in all. Not of 64: at N = 8 activations would add an eighth to the weights, although
    a rank of one group leaves most cores idle with 128.
    """
    N = contract["N"]

    def busiest(width: int) -> int:
        tasks = len(contract.groups) * triton.cdiv(columns, width)
        return triton.cdiv(tasks, cores) * (N + width)

    return max(FRACTAL, triton.next_power_of_2(N)), min(widths, key=busiest)


@triton.jit
def heads_task(task, first_group, group_count, HEAD_TILES: tl.constexpr, BLOCK_H: tl.constexpr):
    """BLOCK_H heads of a group of a token: the token, the group, and the heads' places in it."""
    token_group = task // HEAD_TILES
    t = (token_group // group_count).to(tl.int64)
    g = first_group + token_group % group_count
    return t, g, task % HEAD_TILES * BLOCK_H + tl.arange(0, BLOCK_H)


def heads_tasks(contract: Contract, block_h: int) -> int:
    """How many such tiles the groups of a launch have, over all tokens."""
    heads_per_group = contract["H"] // contract["G"]
    return contract["N"] * len(contract.groups) * triton.cdiv(heads_per_group, block_h)


@triton.jit
def tile_count(N, tile_count_ptr, X: tl.constexpr):
    """Tiles of tokens that share their KV; one behind the other where no pointer says which."""
    if tile_count_ptr is None:
        return tl.cdiv(N, X)
    else:
        return tl.load(tile_count_ptr)


@triton.jit
def shared_rows(u, N, tile_first_ptr, tile_tokens_ptr, H: tl.constexpr, X: tl.constexpr):
    """Of the rows - heads of one token after the other - a tile's first, and how many it has."""
    if tile_first_ptr is None:
        return u * (X * H), tl.minimum(X, N - u * X) * H
    else:
        first = tl.load(tile_first_ptr + u).to(tl.int64)
        return first * H, tl.load(tile_tokens_ptr + u) * H


@triton.jit
def rows_task(
    task,
    N,
    tile_first_ptr,
    tile_tokens_ptr,
    H: tl.constexpr,
    X: tl.constexpr,
    ROW_TILES: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """BLOCK_R of the rows that share a tile's KV: the tile, the first row of all, and which of the
    rows there are, [BLOCK_R, 1]."""
    u = (task // ROW_TILES).to(tl.int64)
    r0 = task % ROW_TILES * BLOCK_R
    first, rows = shared_rows(u, N, tile_first_ptr, tile_tokens_ptr, H, X)
    inside = r0 + tl.arange(0, BLOCK_R) < rows
    return u, first + r0, inside[:, None]


@triton.jit
def rows_at(
    task,
    N,
    tile_first_ptr,
    tile_tokens_ptr,
    H: tl.constexpr,
    X: tl.constexpr,
    TASKS: tl.constexpr,
    TASK_R: tl.constexpr,
):
    """TASK_R of those rows: the tile, the first row of all, and how many there are, if any."""
    u = (task // TASKS).to(tl.int64)
    r0 = task % TASKS * TASK_R
    first, rows = shared_rows(u, N, tile_first_ptr, tile_tokens_ptr, H, X)
    return u, first + r0, tl.minimum(rows - r0, TASK_R)


def rows_of_a_task(sizes: Mapping[str, int], most: int) -> int:
    """Rows of such a task: those that share KV, in whole fractals, but no more than `most`."""
    shared = triton.next_power_of_2(sizes["X"] * sizes["H"])
    return min(max(shared, FRACTAL), most)


def rows_tasks(contract: Contract, rows: int) -> int:
    """How many such tasks a wave has."""
    return contract["U"] * triton.cdiv(contract["X"] * contract["H"], rows)
