"""o[t, h, c] = sum_k p[t, h, k] * kv[u, k, c]     bf16 x bf16 -> fp32, over the live blocks

The third lane: pure cube. All blocks are added up in L0C, so that o is written once, and nothing
of it per block. What leaves is final: p was normalised before. The columns that are not rotated
are rounded to bf16 on their way out, the rope columns stay fp32 for `finish`, which rounds once.

Columns are tiles of powers of two, C/2, C/4, .. and the P of the rope, each with an accumulator of
its own: one that is stored in two ways would pass through a vector core, and so would a store that
sorts heads by group. That is why o_heads lies token by token. Of short rows - a block, or one and
a tail - KV stays in L1 for all that share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import triton
import triton.language as tl

from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.cost import Cost, attention_flop, moved_of_heads
from dsv4_kernels.segments.inverse_rope import MIN_ROPE_DIM
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.slots import (
    BLOCK_COLUMNS,
    bind_sharers,
    check_blocks,
    columns_at_a_time,
    is_short,
    tile_pointers,
)
from dsv4_kernels.segments.tasks import rows_at, rows_of_a_task, rows_task, rows_tasks, tile_count
from dsv4_kernels.segments.tiles import FRACTAL, Budget, Core, Tiles, extent


@dataclass(frozen=True, kw_only=True)
class PvTiles(Tiles):
    """block_r: rows of a task at most; two tokens of FLASH that share their KV. accumulator:
    elements of o that a task adds up; 32768 fp32 are the 128 KiB of L0C, FLASH's 64 heads whole
    and half the columns of PRO's 128, which read P twice rather than KV. Of short rows as many
    at a time as that leaves whole. task_r: rows of a task of short ones, fewest_r: rows at a time
    at least, as qk's."""

    core: ClassVar[Core] = "AIC"
    block_r: int = extent(128, low=FRACTAL, beside=("C", BLOCK_COLUMNS))
    task_r: int = extent(512, low=FRACTAL)
    fewest_r: int = extent(FRACTAL, low=FRACTAL, beside=("C", BLOCK_COLUMNS))
    accumulator: int = extent(2**15, low=FRACTAL * FRACTAL)

    @classmethod
    def cuda(cls) -> PvTiles:
        """64 rows are the least that wgmma takes. 64 x 256 fp32 are 64 accumulator registers a
        thread of 8 warps; KV of 256 columns is 64 KiB, P 16 KiB: two stages fit."""
        return cls(block_r=64, fewest_r=64, accumulator=2**14, num_warps=8, num_stages=2)

    def widths(self, sizes: Mapping[str, int]) -> tuple[int, int]:
        """Rows and columns of a task: no more than eight times the rope, whose columns are then
        what is left of a half, a quarter and an eighth."""
        rows = max(rows_of_a_task(sizes, self.block_r), self.fewest_r)
        columns = max(min(sizes["C"], self.accumulator // rows, 8 * sizes["P"]), sizes["P"])
        return rows, columns

    def short_widths(self, sizes: Mapping[str, int]) -> tuple[int, int, int]:
        """Likewise of short rows: those of a task, those at a time, columns."""
        most = max(min(sizes["C"], 8 * sizes["P"]), sizes["P"])
        whole = min(self.block_r, max(self.accumulator // most, FRACTAL))
        rows = max(rows_of_a_task(sizes, whole), self.fewest_r)
        columns = max(min(most, self.accumulator // rows), sizes["P"])
        return max(rows_of_a_task(sizes, self.task_r), rows), rows, columns

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """P and V doubled in L1, once for the columns with the rope and once for others; o."""
        rows, columns = self.short_widths(sizes)[1:] if is_short(sizes) else self.widths(sizes)
        of_a_part = 2 * 2 * columns_at_a_time(sizes) * (rows + columns)
        return Budget(l1=of_a_part * (1 if columns == sizes["C"] else 2), l0c=4 * rows * columns)


@triton.jit
def _parts(
    rows_ptr,  # [n, 1]
    WIDTH: tl.constexpr,
    LAST: tl.constexpr,
):
    """Where WIDTH columns lie, of KV or of o: a half, a quarter, an eighth, the last LAST."""
    half, quarter = tl.arange(0, WIDTH // 2), tl.arange(0, WIDTH // 4)
    eighth, last = tl.arange(0, WIDTH // 8), tl.arange(0, LAST)
    quarter_ptr = rows_ptr + WIDTH // 2 + quarter[None, :]
    eighth_ptr = rows_ptr + WIDTH // 4 * 3 + eighth[None, :]
    last_ptr = rows_ptr + WIDTH - LAST + last[None, :]
    return rows_ptr + half[None, :], quarter_ptr, eighth_ptr, last_ptr


@triton.jit
def _store(
    out_rows_ptr,  # [BLOCK_R, 1]
    rope_rows_ptr,  # [BLOCK_R, 1]
    o_half,
    o_quarter,
    o_eighth,
    o_last,
    inside,  # [BLOCK_R, 1] bool
    WIDTH: tl.constexpr,
    LAST: tl.constexpr,
    ROPE: tl.constexpr,
):
    """WIDTH columns of o, those that there are; for ROPE the last LAST in fp32 to rope_rows."""
    half_ptr, quarter_ptr, eighth_ptr, last_ptr = _parts(out_rows_ptr, WIDTH, LAST)
    if LAST <= WIDTH // 2:
        tl.store(half_ptr, o_half.to(tl.bfloat16), mask=inside)
    if LAST <= WIDTH // 4:
        tl.store(quarter_ptr, o_quarter.to(tl.bfloat16), mask=inside)
    if LAST <= WIDTH // 8:
        tl.store(eighth_ptr, o_eighth.to(tl.bfloat16), mask=inside)
    if ROPE:
        tl.store(rope_rows_ptr + tl.arange(0, LAST)[None, :], o_last, mask=inside)
    else:
        tl.store(last_ptr, o_last.to(tl.bfloat16), mask=inside)


@triton.jit
def _columns(
    p_rows_ptr,
    kv_ptr,
    out_rows_ptr,
    rope_rows_ptr,
    blocks,
    inside,  # [BLOCK_R, 1] bool
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ROPE: tl.constexpr,
):
    """WIDTH columns of o for BLOCK_R rows."""
    k = tl.arange(0, BLOCK_K)
    o_half = tl.zeros((BLOCK_R, WIDTH // 2), tl.float32)
    o_quarter = tl.zeros((BLOCK_R, WIDTH // 4), tl.float32)
    o_eighth = tl.zeros((BLOCK_R, WIDTH // 8), tl.float32)
    o_last = tl.zeros((BLOCK_R, LAST), tl.float32)
    for b in range(blocks):
        p = tl.load(p_rows_ptr + b * BLOCK_K + k[None, :], mask=inside, other=0.0)
        v_ptr = kv_ptr + b * BLOCK_K * C + k[:, None] * C
        half_ptr, quarter_ptr, eighth_ptr, last_ptr = _parts(v_ptr, WIDTH, LAST)
        if LAST <= WIDTH // 2:
            o_half = tl.dot(p, tl.load(half_ptr), o_half)
        if LAST <= WIDTH // 4:
            o_quarter = tl.dot(p, tl.load(quarter_ptr), o_quarter)
        if LAST <= WIDTH // 8:
            o_eighth = tl.dot(p, tl.load(eighth_ptr), o_eighth)
        o_last = tl.dot(p, tl.load(last_ptr), o_last)
    _store(
        out_rows_ptr, rope_rows_ptr, o_half, o_quarter, o_eighth, o_last, inside, WIDTH, LAST, ROPE
    )


@kernel
def _pv_kernel(
    p_ptr,  # [N, H, KP] bf16
    kv_ptr,  # [U, KP, C] bf16
    live_blocks_ptr,  # [U] int32
    tile_first_ptr,  # [U] int32; of a batch, as the next two, else None
    tile_tokens_ptr,  # [U] int32
    tile_count_ptr,  # int32
    o_heads_ptr,  # [N, G, J] bf16
    o_rope_ptr,  # [N, H, P] fp32
    N,
    KP,
    H: tl.constexpr,
    C: tl.constexpr,
    P: tl.constexpr,
    X: tl.constexpr,
    BLOCK_R: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # One task: WIDTH columns of rows that share their KV.
    ROW_TILES: tl.constexpr = (X * H + BLOCK_R - 1) // BLOCK_R
    PARTS: tl.constexpr = C // WIDTH
    r = tl.arange(0, BLOCK_R)
    tiles = tl.minimum(KP, 1) * tile_count(N, tile_count_ptr, X)  # none without columns
    tasks = tiles * ROW_TILES * PARTS
    for task in range(tl.program_id(0), tasks, tl.num_programs(0)):
        part = task % PARTS
        u, first, inside = rows_task(
            task // PARTS, N, tile_first_ptr, tile_tokens_ptr, H, X, ROW_TILES, BLOCK_R
        )
        # At least once: an accumulator that never ran is not zero on Ascend, nor is one that is
        # fed from a masked load of nothing. `finish` clears what a dead block then leaves here.
        blocks = tl.maximum(tl.minimum(tl.load(live_blocks_ptr + u), KP // BLOCK_K), 1)
        p_rows_ptr = p_ptr + first * KP + r[:, None].to(tl.int64) * KP
        tile_ptr = kv_ptr + u * KP * C
        o_rows_ptr = o_heads_ptr + first * C + r[:, None] * C
        rope_rows_ptr = o_rope_ptr + first * P + r[:, None] * P
        if PARTS == 1:
            _columns(
                p_rows_ptr, tile_ptr, o_rows_ptr, rope_rows_ptr, blocks, inside,
                C, WIDTH, P, BLOCK_R, BLOCK_K, True,
            )  # fmt: skip
        else:
            if part == PARTS - 1:
                _columns(
                    p_rows_ptr, tile_ptr + (C - WIDTH), o_rows_ptr + (C - WIDTH), rope_rows_ptr,
                    blocks, inside, C, WIDTH, P, BLOCK_R, BLOCK_K, True,
                )  # fmt: skip
            else:
                _columns(
                    p_rows_ptr, tile_ptr + part * WIDTH, o_rows_ptr + part * WIDTH, rope_rows_ptr,
                    blocks, inside, C, WIDTH, WIDTH, BLOCK_R, BLOCK_K, False,
                )  # fmt: skip


@triton.jit
def _short_columns(
    p_rows_ptr,
    kv_ptr,
    out_rows_ptr,
    rope_rows_ptr,
    rows,
    tails,
    KP: tl.constexpr,
    C: tl.constexpr,
    P: tl.constexpr,
    WIDTH: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ROPE: tl.constexpr,
):
    """WIDTH columns of o for all rows of a task, whose KV stays: a block and, if tails is 1, a
    tail, which is added to accumulators that hold a sum already."""
    TAIL: tl.constexpr = KP - BLOCK_K
    k, r = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_R)[:, None]
    v_ptr = kv_ptr + k[:, None] * C
    half_ptr, quarter_ptr, eighth_ptr, last_ptr = _parts(v_ptr, WIDTH, LAST)
    v_last = tl.load(last_ptr)
    if LAST <= WIDTH // 2:
        v_half = tl.load(half_ptr)
    if LAST <= WIDTH // 4:
        v_quarter = tl.load(quarter_ptr)
    if LAST <= WIDTH // 8:
        v_eighth = tl.load(eighth_ptr)
    if TAIL > 0:
        tail = tl.arange(0, TAIL)
        there = (tail < tails * TAIL)[:, None]
        t_ptr = kv_ptr + BLOCK_K * C + tail[:, None] * C
        half_ptr, quarter_ptr, eighth_ptr, last_ptr = _parts(t_ptr, WIDTH, LAST)
        t_last = tl.load(last_ptr, mask=there, other=0.0)
        if LAST <= WIDTH // 2:
            t_half = tl.load(half_ptr, mask=there, other=0.0)
        if LAST <= WIDTH // 4:
            t_quarter = tl.load(quarter_ptr, mask=there, other=0.0)
        if LAST <= WIDTH // 8:
            t_eighth = tl.load(eighth_ptr, mask=there, other=0.0)
    for r0 in range(0, rows, BLOCK_R):
        inside = r0 + r < rows
        p_tile_ptr = p_rows_ptr + (r0 + r) * KP
        p = tl.load(p_tile_ptr + k[None, :], mask=inside, other=0.0)
        o_last = tl.dot(p, v_last)
        o_half, o_quarter, o_eighth = o_last, o_last, o_last
        if LAST <= WIDTH // 2:
            o_half = tl.dot(p, v_half)
        if LAST <= WIDTH // 4:
            o_quarter = tl.dot(p, v_quarter)
        if LAST <= WIDTH // 8:
            o_eighth = tl.dot(p, v_eighth)
        if TAIL > 0:
            for _ in range(tails):
                p_tail = tl.load(p_tile_ptr + BLOCK_K + tail[None, :], mask=inside, other=0.0)
                o_last = tl.dot(p_tail, t_last, o_last)
                if LAST <= WIDTH // 2:
                    o_half = tl.dot(p_tail, t_half, o_half)
                if LAST <= WIDTH // 4:
                    o_quarter = tl.dot(p_tail, t_quarter, o_quarter)
                if LAST <= WIDTH // 8:
                    o_eighth = tl.dot(p_tail, t_eighth, o_eighth)
        _store(
            out_rows_ptr + (r0 + r) * C, rope_rows_ptr + (r0 + r) * P, o_half, o_quarter, o_eighth,
            o_last, inside, WIDTH, LAST, ROPE,
        )  # fmt: skip


@kernel
def _pv_short_kernel(
    p_ptr,  # [N, H, KP] bf16
    kv_ptr,  # [U, KP, C] bf16
    live_blocks_ptr,  # [U] int32
    tile_first_ptr,  # [U] int32; of a batch, as the next two, else None
    tile_tokens_ptr,  # [U] int32
    tile_count_ptr,  # int32
    o_heads_ptr,  # [N, G, J] bf16
    o_rope_ptr,  # [N, H, P] fp32
    N,
    H: tl.constexpr,
    KP: tl.constexpr,
    C: tl.constexpr,
    P: tl.constexpr,
    X: tl.constexpr,
    TASK_R: tl.constexpr,
    BLOCK_R: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # One task: WIDTH columns of TASK_R rows that share their KV, BLOCK_R at a time.
    TASKS: tl.constexpr = (X * H + TASK_R - 1) // TASK_R
    PARTS: tl.constexpr = C // WIDTH
    tasks = tile_count(N, tile_count_ptr, X) * TASKS * PARTS
    for task in range(tl.program_id(0), tasks, tl.num_programs(0)):
        part = task % PARTS
        u, first, rows = rows_at(
            task // PARTS, N, tile_first_ptr, tile_tokens_ptr, H, X, TASKS, TASK_R
        )
        tails = tl.minimum(tl.maximum(tl.load(live_blocks_ptr + u) - 1, 0), 1)
        p_rows_ptr = p_ptr + first * KP
        v_rows_ptr = kv_ptr + u * KP * C
        o_rows_ptr = o_heads_ptr + first * C
        rope_rows_ptr = o_rope_ptr + first * P
        if PARTS == 1:
            _short_columns(
                p_rows_ptr, v_rows_ptr, o_rows_ptr, rope_rows_ptr, rows, tails,
                KP, C, P, WIDTH, P, BLOCK_R, BLOCK_K, True,
            )  # fmt: skip
        else:
            column = part * WIDTH
            if part == PARTS - 1:
                _short_columns(
                    p_rows_ptr, v_rows_ptr + column, o_rows_ptr + column, rope_rows_ptr, rows,
                    tails, KP, C, P, WIDTH, P, BLOCK_R, BLOCK_K, True,
                )  # fmt: skip
            else:
                _short_columns(
                    p_rows_ptr, v_rows_ptr + column, o_rows_ptr + column, rope_rows_ptr, rows,
                    tails, KP, C, P, WIDTH, WIDTH, BLOCK_R, BLOCK_K, False,
                )  # fmt: skip


def _check(contract: Contract, groups: int, rope_dim: int, sharers: int = 1) -> None:
    bind_sharers(contract, sharers)
    H, C = contract["H"], contract["C"]
    check_blocks(contract, "kv")
    contract.power_of_two("C", "kv", low=FRACTAL)
    groups = contract.integer("groups", groups, 1)
    contract.require(H % groups == 0, "groups", f"a divisor of H={H}", str(groups))
    rope_dim = contract.integer("rope_dim", rope_dim, MIN_ROPE_DIM, C)
    contract.sizes.update(G=groups, P=rope_dim, J=H // groups * C)
    contract.power_of_two("P", "rope_dim")


def _launch(contract: Contract, target: Target, tiles: PvTiles) -> Launch:
    N, KP, H, C, P, X = (contract[letter] for letter in ("N", "KP", "H", "C", "P", "X"))
    constants = dict(H=H, C=C, P=P, X=X, BLOCK_K=BLOCK_COLUMNS, **tiles.options(target))
    if is_short(contract.sizes):
        task_rows, rows, columns = tiles.short_widths(contract.sizes)
        return Launch(
            _pv_short_kernel,
            target.grid("cube", rows_tasks(contract, task_rows) * (C // columns)),
            ("p", "kv", "live_blocks", *tile_pointers(contract), "o_heads", "o_rope", N),
            dict(KP=KP, TASK_R=task_rows, BLOCK_R=rows, WIDTH=columns, **constants),
        )
    rows, columns = tiles.widths(contract.sizes)
    return Launch(
        _pv_kernel,
        target.grid("cube", rows_tasks(contract, rows) * (C // columns)),
        ("p", "kv", "live_blocks", *tile_pointers(contract), "o_heads", "o_rope", N, KP),
        dict(BLOCK_R=rows, WIDTH=columns, **constants),
    )


def _cost(tensors: Mapping[str, torch.Tensor], live_keys: int | None = None) -> Cost:
    N, H, KP = tensors["p"].shape
    keys, C = N * KP if live_keys is None else live_keys, tensors["kv"].shape[2]
    bytes_moved = moved_of_heads("nope", "o_heads")(tensors).bytes
    return Cost(bytes_moved, bf16_flop=attention_flop(keys, H, C) // 2)


SEGMENT = Segment(
    "pv", PvTiles, reads=("p", "kv", "live_blocks"), writes=("o_heads", "o_rope"),
    numbers=("groups", "rope_dim", "sharers"), check=_check, launch=_launch, cost=_cost,
)  # fmt: skip


def pv(
    p: torch.Tensor,  # [N, H, KP] bf16
    kv: torch.Tensor,  # [U, KP, C] bf16
    live_blocks: torch.Tensor,  # [U] int32
    *,
    groups: int,
    rope_dim: int,
    sharers: int = 1,
    o_heads: torch.Tensor | None = None,
    o_rope: torch.Tensor | None = None,
    tiles: PvTiles | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output of attention, from normalised P.

    Args:
        p, kv: as `softmax` and gather_kv write them; KP is a multiple of 128, or 144, 160 or 192.
        live_blocks: how many blocks of a tile of X tokens to add up; later ones are not read. What
            a tile with none gets is not defined: `finish` makes zeros of it.
        groups: G, a divisor of H.
        rope_dim: P, a power of two up to C.
        sharers: X, as resolve_slots takes it. A row of KV that is NaN or Inf reaches all X tokens.

    Returns (o_heads [N, G, J] bf16 without its rope columns, which `finish` writes; o_rope
    [N, H, P] fp32). Raises ContractError.
    """
    return SEGMENT(
        tiles, p=p, kv=kv, live_blocks=live_blocks, groups=groups, rope_dim=rope_dim,
        sharers=sharers, o_heads=o_heads, o_rope=o_rope,
    )  # fmt: skip
