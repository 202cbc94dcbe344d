"""How the tasks of a launch are numbered, for segments that number them alike."""

from __future__ import annotations

import triton
import triton.language as tl

from dsv4_kernels.contract import Contract


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
