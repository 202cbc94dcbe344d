"""Attention in one kernel: rows gathered inside, an online softmax, heads packed as they leave.

    S[h, k] = (sum_c q[t, h, c] * row[k, c]) * scale + bias[t, k]      by steps of 64 columns
    m' = max(m, max_k S),  a = exp(m - m'),  P = exp(S - m')
    l = a*l + sum_k P (fp32 P),  o = o*a + bf16(P) . row
    n = o / (l + exp(sink[h] - m)), its last P columns turned back as inverse_rope does
    o_packed[g, t, (h mod H/G)*C + c] = bf16(n[h, c]),  g = h div (H/G)

The form of CUDA: registers hold o of 64 heads from the first column to the last, and a row goes
from its pool to shared memory. No KV is copied and nothing is written per block: a token of FLASH
moves its K rows, q and its packed heads, 512 KiB at 384 columns. Not on Ascend, see `NOT_ON`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import triton
import triton.language as tl

from dsv4_kernels.buffers import BLOCK
from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.cost import Cost, attention_flop, size
from dsv4_kernels.segments.inverse_rope import MIN_ROPE_DIM, pairs_of, turned_back
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.qk_softmax_pv import bind_scale
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.slots import (
    BLOCK_COLUMNS,
    NEG,
    POOL_GAP,
    bind_sharers,
    check_pool,
    check_whole_blocks,
    live_columns,
    page_block,
    page_blocks,
    pool_rows,
    row_offset,
)
from dsv4_kernels.segments.tiles import FRACTAL, Core, Tiles, extent

# Columns of a step of the softmax: part of the numerics, so no tile. 64 rows of 512 bf16 are
# 64 KiB, which shared memory holds twice beside as much of q.
STEP = 64

NOT_ON = {"npu": "an Ascend cube hands o to a vector core at every step of an online softmax"}


@dataclass(frozen=True, kw_only=True)
class AttendRowsTiles(Tiles):
    """block_h: heads of a task, which share its rows. 32 on a CPU, whose small ranks pad less."""

    core: ClassVar[Core] = "MIX"
    block_h: int = extent(32, beside=("C",))

    @classmethod
    def cuda(cls) -> AttendRowsTiles:
        """64 heads, the least that wgmma takes: q is 64 KiB and the rows of two steps are 128 KiB,
        192 of 227. PRO's second 64 heads find the rows in L2. A rank of fewer heads keeps the 64:
        bound by its rows, it multiplies zeros.

        8 warps: 64 x 512 fp32 is 128 registers a thread, of 255. Three stages: the numbers of a
        step's rows are loaded while those of the step before are being followed."""
        return cls(block_h=64, num_warps=8, num_stages=3)


@triton.jit
def _rows(
    row,  # [STEP] int32
    ori_kv_ptr,
    kv_overlay_ptr,
    cmp_kv_ptr,
    ori_rows,
    ori_page_rows,
    ori_page_blocks,
    chunk_tokens,
    cmp_rows,
    cmp_page_rows,
    cmp_page_blocks,
    C: tl.constexpr,
    PAGE_BLOCK: tl.constexpr,
    GAP: tl.constexpr,
    APART: tl.constexpr,
    ONE_LOAD: tl.constexpr,
):
    """The KV rows of these numbers, zeros where one names none: [STEP, C] bf16."""
    c = tl.arange(0, C)
    overlay_base = ori_rows + GAP
    cmp_base = overlay_base + chunk_tokens + GAP
    in_ring, in_overlay = row < overlay_base, row < cmp_base
    held = tl.where(in_ring, ori_rows, tl.where(in_overlay, chunk_tokens, cmp_rows))
    of_pool = row - tl.where(in_ring, 0, tl.where(in_overlay, overlay_base, cmp_base))
    live = (row >= 0) & (of_pool < held)
    of_pool = tl.where(live, of_pool, 0)
    at = of_pool.to(tl.int64) * C
    if APART:
        # The chunk's own rows are one page.
        page_rows = tl.where(in_overlay, chunk_tokens + 1, cmp_page_rows)
        page_rows = tl.where(in_ring, ori_page_rows, page_rows)
        page_blocks = tl.where(in_ring, ori_page_blocks, cmp_page_blocks)
        at = row_offset(of_pool, page_rows, page_blocks, PAGE_BLOCK, C)
    if ONE_LOAD:
        pool_ptr = tl.where(in_ring, ori_kv_ptr, tl.where(in_overlay, kv_overlay_ptr, cmp_kv_ptr))
        return tl.load((pool_ptr + at)[:, None] + c[None, :], mask=live[:, None], other=0.0)
    else:  # the front half of the CPU path takes no pointer that is one of several
        in_cmp = live & (row >= cmp_base)
        in_overlay = live & in_overlay & (row >= overlay_base)
        in_ring = live & in_ring
        ori_ptr = ori_kv_ptr + tl.where(in_ring, at, 0)
        kv = tl.load(ori_ptr[:, None] + c[None, :], mask=in_ring[:, None], other=0.0)
        overlay_ptr = kv_overlay_ptr + tl.where(in_overlay, at, 0)
        of_overlay = tl.load(overlay_ptr[:, None] + c[None, :], mask=in_overlay[:, None], other=0.0)
        cmp_ptr = cmp_kv_ptr + tl.where(in_cmp, at, 0)
        of_cmp = tl.load(cmp_ptr[:, None] + c[None, :], mask=in_cmp[:, None], other=0.0)
        kv = tl.where(in_overlay[:, None], of_overlay, kv)
        return tl.where(in_cmp[:, None], of_cmp, kv)


@kernel
def _attend_rows_kernel(
    q_ptr,  # [N, H, C] bf16
    ori_kv_ptr,  # [ori_pages, ori_B, C] bf16
    kv_overlay_ptr,  # [T, C] bf16
    cmp_kv_ptr,  # [cmp_pages, cmp_B, C] bf16
    rows_ptr,  # [U, KP] int32
    bias_ptr,  # [N, KP] fp32
    live_blocks_ptr,  # [U] int32
    live_slots_ptr,  # [N] int32
    attn_sink_ptr,  # [H] fp32
    freqs_cos_ptr,  # [N, P] bf16 or fp32
    freqs_sin_ptr,  # [N, P] bf16 or fp32
    o_packed_ptr,  # [G, N, J] bf16
    softmax_scale,
    q_blocks,  # from a token's row to the next, in blocks of BLOCK; likewise below
    cos_blocks,
    sin_blocks,
    ori_rows,
    ori_page_rows,
    ori_page_blocks,
    chunk_tokens,
    cmp_rows,
    cmp_page_rows,
    cmp_page_blocks,
    N,
    KP,
    H: tl.constexpr,
    G: tl.constexpr,
    C: tl.constexpr,
    P: tl.constexpr,
    X: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STEP: tl.constexpr,
    PAGE_BLOCK: tl.constexpr,
    LOWEST: tl.constexpr,
    GAP: tl.constexpr,
    APART: tl.constexpr,
    ONE_LOAD: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # One program a task, BLOCK_H heads of a token: a loop over tasks would want registers of its
    # own, and none is left.
    HG: tl.constexpr = H // G
    HEAD_TILES: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    c = tl.arange(0, C)
    k = tl.arange(0, STEP)
    p = tl.arange(0, P)
    task = tl.program_id(0)
    t = (task // HEAD_TILES).to(tl.int64)
    u = t // X
    h = task % HEAD_TILES * BLOCK_H + tl.arange(0, BLOCK_H)
    in_heads = h < H
    q_rows_ptr = q_ptr + t * q_blocks * BLOCK + h[:, None] * C
    q = tl.load(q_rows_ptr + c[None, :], mask=in_heads[:, None], other=0.0)

    m = tl.full((BLOCK_H,), LOWEST, tl.float32)
    l = tl.zeros((BLOCK_H,), tl.float32)
    o = tl.zeros((BLOCK_H, C), tl.float32)
    columns = live_columns(tl.load(live_blocks_ptr + u), KP, BLOCK_K)
    for k0 in range(0, columns, STEP):
        row = tl.load(rows_ptr + u * KP + k0 + k)
        bias = tl.load(bias_ptr + t * KP + k0 + k)
        kv = _rows(
            row, ori_kv_ptr, kv_overlay_ptr, cmp_kv_ptr, ori_rows, ori_page_rows, ori_page_blocks,
            chunk_tokens, cmp_rows, cmp_page_rows, cmp_page_blocks, C, PAGE_BLOCK, GAP, APART,
            ONE_LOAD,
        )  # fmt: skip
        scores = tl.dot(q, tl.trans(kv)) * softmax_scale + bias[None, :]
        m_step = tl.max(scores, axis=1)
        # Not tl.maximum, whose care for NaN is seven instructions: it is in the sum anyway.
        m_new = tl.where(m_step > m, m_step, m)
        old = tl.exp(m - m_new)
        e = tl.exp(scores - m_new[:, None])
        l = old * l + tl.sum(e, axis=1)
        o = tl.dot(e.to(tl.bfloat16), kv, o * old[:, None])
        m = m_new

    sink = tl.load(attn_sink_ptr + h, mask=in_heads, other=0.0)
    denominator = l + tl.exp(sink - m)
    alive = tl.load(live_slots_ptr + t) > 0
    n = tl.where(alive, o / denominator[:, None], 0.0)

    g = (h // HG).to(tl.int64)
    packed_rows_ptr = o_packed_ptr + ((g * N + t) * HG + h % HG)[:, None] * C
    nope = in_heads[:, None] & (c < C - P)[None, :]
    tl.store(packed_rows_ptr + c[None, :], n.to(tl.bfloat16), mask=nope)
    # The rope columns by themselves: of the C/P parts of a head all but the last add zeros.
    of_rope = tl.where((c >= C - P)[None, :], n, 0.0)
    x = tl.sum(tl.reshape(of_rope, (BLOCK_H, C // P, P)), axis=1)
    cos_ptr = freqs_cos_ptr + t * cos_blocks * BLOCK
    sin_ptr = freqs_sin_ptr + t * sin_blocks * BLOCK
    even, odd = pairs_of(x, P, BLOCK_H)
    y = turned_back(even, odd, cos_ptr, sin_ptr, P, INTERLEAVED)
    y = tl.where(alive, y, 0.0).to(tl.bfloat16)
    tl.store(packed_rows_ptr + (C - P + p)[None, :], y, mask=in_heads[:, None])


def _check(
    contract: Contract, groups: int, softmax_scale: float | None = None, sharers: int = 1
) -> None:
    bind_sharers(contract, sharers)
    H, C, P = (contract[letter] for letter in ("H", "C", "P"))
    check_whole_blocks(contract, "rows")
    contract.power_of_two("C", "q", low=FRACTAL)
    for name in ("ori", "cmp"):
        check_pool(contract, name)
    contract.power_of_two("P", "freqs_cos", low=MIN_ROPE_DIM)
    contract.require(P <= C, "freqs_cos", f"[N, P] with P <= C={C}", f"P = {P}")
    groups = contract.integer("groups", groups, 1)
    contract.require(H % groups == 0, "groups", f"a divisor of H={H}", str(groups))
    contract.sizes.update(G=groups, J=H // groups * C)
    bind_scale(contract, softmax_scale)


def _launch(
    contract: Contract, target: Target, tiles: AttendRowsTiles, interleaved: bool = False
) -> Launch:
    N, KP, H, G, C, P, X = (contract[letter] for letter in ("N", "KP", "H", "G", "C", "P", "X"))
    ori, cmp = (
        (*pool_rows(contract, name), page_blocks(contract, target, name)) for name in ("ori", "cmp")
    )
    # Where nothing lies between pages, a row's number is its place, and no register holds a page's.
    apart = ori[1] > contract["ori_B"] or cmp[1] > contract["cmp_B"]
    # All rows of an empty pool are dead, but the clamped address that their lanes read must exist.
    held = {"ori_kv": ori[0], "kv_overlay": contract["T"], "cmp_kv": cmp[0]}
    pools = (name if rows else "q" for name, rows in held.items())
    return Launch(
        _attend_rows_kernel,
        (N * triton.cdiv(H, tiles.block_h),),
        (
            "q", *pools, "rows", "bias", "live_blocks", "live_slots", "attn_sink", "freqs_cos",
            "freqs_sin", "o_packed", contract["softmax_scale"], contract["q_stride"] // BLOCK,
            contract["freqs_cos_stride"] // BLOCK, contract["freqs_sin_stride"] // BLOCK,
            *ori, contract["T"], *cmp, N, KP,
        ),
        dict(
            H=H, G=G, C=C, P=P, X=X, BLOCK_H=tiles.block_h, BLOCK_K=BLOCK_COLUMNS, STEP=STEP,
            PAGE_BLOCK=page_block(contract, target), LOWEST=NEG, GAP=POOL_GAP,
            APART=apart, ONE_LOAD=target.kind == "cuda", INTERLEAVED=interleaved, BLOCK=BLOCK,
            **tiles.options(target),
        ),
        beside=(dict(APART=not apart),),  # the next batch's pools may lie otherwise
    )  # fmt: skip


def _cost(tensors: Mapping[str, torch.Tensor], live_keys: int | None = None) -> Cost:
    """Of the pools the rows that are gathered, and no more than there are."""
    sizes = {name: size(tensor) for name, tensor in tensors.items()}
    pools = sum(sizes.pop(name) for name in ("ori_kv", "kv_overlay", "cmp_kv"))
    _, H, C = tensors["q"].shape
    gathered = tensors["rows"].numel() if live_keys is None else live_keys
    keys = tensors["bias"].numel() if live_keys is None else live_keys
    row = C * tensors["q"].element_size()
    moved = sum(sizes.values()) + min(pools, gathered * row)
    return Cost(moved, bf16_flop=attention_flop(keys, H, C))


SEGMENT = Segment(
    "attend_rows", AttendRowsTiles,
    reads=(
        "q", "ori_kv", "kv_overlay", "cmp_kv", "rows", "bias", "live_blocks", "live_slots",
        "attn_sink", "freqs_cos", "freqs_sin",
    ),
    writes=("o_packed",), numbers=("groups", "softmax_scale", "sharers"), check=_check,
    launch=_launch, cost=_cost, not_on=NOT_ON,
)  # fmt: skip

# Of tables that servers hold, as inverse_rope's.
INTERLEAVED = replace(SEGMENT, launch=functools.partial(_launch, interleaved=True))


def attend_rows(
    q: torch.Tensor,  # [N, H, C] bf16
    ori_kv: torch.Tensor,  # [pages, B1, C] bf16
    kv_overlay: torch.Tensor,  # [T, C] bf16
    cmp_kv: torch.Tensor,  # [pages, B2, C] bf16
    rows: torch.Tensor,  # [U, KP] int32
    bias: torch.Tensor,  # [N, KP] fp32
    live_blocks: torch.Tensor,  # [U] int32
    live_slots: torch.Tensor,  # [N] int32
    attn_sink: torch.Tensor,  # [H] fp32
    freqs_cos: torch.Tensor,  # [N, P] bf16
    freqs_sin: torch.Tensor,  # [N, P] bf16
    *,
    groups: int,
    softmax_scale: float | None = None,
    sharers: int = 1,
    o_packed: torch.Tensor | None = None,
    tiles: AttendRowsTiles | None = None,
) -> torch.Tensor:
    """Attention of tokens to the rows that a resolver has found, packed for proj_a.

    Args:
        ori_kv, kv_overlay, cmp_kv: the pools, read in place.
        rows, bias, live_blocks, live_slots: as resolve_slots writes them for these pools. Blocks
            from live_blocks on are not read; a token with no live slot gets exact zeros.
        attn_sink: unscaled logit per head; -inf is plain softmax, +inf gives zeros.
        freqs_cos, freqs_sin: the tokens' rows of the RoPE tables; the first P/2 columns are used.
        groups: G, a divisor of H.
        softmax_scale: factor on the scores; default C**-0.5.
        sharers: X, as resolve_slots takes it. A row of KV that is NaN or Inf reaches all X tokens.

    Returns o_packed [G, N, J] bf16. Raises ContractError, always on Ascend.
    """
    return SEGMENT(
        tiles, q=q, ori_kv=ori_kv, kv_overlay=kv_overlay, cmp_kv=cmp_kv, rows=rows, bias=bias,
        live_blocks=live_blocks, live_slots=live_slots, attn_sink=attn_sink, freqs_cos=freqs_cos,
        freqs_sin=freqs_sin, groups=groups, softmax_scale=softmax_scale, sharers=sharers,
        o_packed=o_packed,
    )  # fmt: skip
