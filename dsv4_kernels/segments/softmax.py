"""p[t, h, k] = exp(S - m) / (sum_k exp(S - m) + exp(sink[h] - m)),  S = scores * scale + bias

The second lane: pure vector, one maximum for a whole row, the sink in the denominator only. P is
normalised before its one rounding to bf16: it moves by as much of itself either way, and what P.V
adds up is then the output, which needs no further pass over o.

A row of up to `columns` columns is read once. A longer one goes by pieces of half as many, with the
running maximum, and is read again once its sum is known.
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
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.slots import (
    BLOCK_COLUMNS,
    NEG,
    bind_sharers,
    check_blocks,
    live_columns,
)
from dsv4_kernels.segments.tiles import KIB, Budget, Core, Tiles, extent


@dataclass(frozen=True, kw_only=True)
class SoftmaxTiles(Tiles):
    """elements: of a step, heads times columns; 8192 fp32 are 32 KiB. columns: of a row at once, at
    most: 2048 hold PRO's 1152. task_h: heads that share a load of the bias; 32 leave 256 tasks of
    FLASH for 48 vector cores, and 8 would load as much of bias as half of P is."""

    core: ClassVar[Core] = "AIV"
    elements: int = extent(8192)
    columns: int = extent(2048, low=2 * BLOCK_COLUMNS)
    task_h: int = extent(32)

    @classmethod
    def cuda(cls) -> SoftmaxTiles:
        """4 heads of FLASH's row: 4096 scores are 32 registers a thread of 4 warps, and 16 KiB
        under way a program."""
        return cls(elements=4096, task_h=1)

    def step(self, sizes: Mapping[str, int]) -> tuple[int, int, bool]:
        """Heads and columns of a step, and whether that is a whole row."""
        H, KP = sizes["H"], sizes["KP"]
        whole = self.columns >= KP
        columns = min(triton.next_power_of_2(KP), self.columns) if whole else self.columns // 2
        heads = min(self.elements // columns, triton.next_power_of_2(H))
        return max(heads, 1), columns, whole

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """Scores and P, and the bias of a step, all doubled, and what there is one of per head; of
        a row by pieces the scores and the bias of both passes."""
        heads, columns, whole = self.step(sizes)
        passes = 1 if whole else 2
        scores_and_bias = 2 * 4 * (heads + 1) * columns
        of_a_head = 2 * 2 * columns + 64
        return Budget(ub=passes * scores_and_bias + heads * of_a_head + 2 * KIB)


@kernel
def _softmax_kernel(
    scores_ptr,  # [N, H, KP] fp32
    bias_ptr,  # [N, KP] fp32
    live_blocks_ptr,  # [U] int32
    attn_sink_ptr,  # [H] fp32
    p_ptr,  # [N, H, KP] bf16
    softmax_scale,
    N,
    H: tl.constexpr,
    KP: tl.constexpr,
    X: tl.constexpr,
    TASK_H: tl.constexpr,
    BLOCK_H: tl.constexpr,
    STEP: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    LOWEST: tl.constexpr,
):
    # One task: TASK_H heads of a token, BLOCK_H at a time.
    HEAD_TASKS: tl.constexpr = (H + TASK_H - 1) // TASK_H
    k = tl.arange(0, STEP)
    for task in range(tl.program_id(0), N * HEAD_TASKS, tl.num_programs(0)):
        t = (task // HEAD_TASKS).to(tl.int64)
        columns = live_columns(tl.load(live_blocks_ptr + t // X), KP, BLOCK_K)
        bias = tl.zeros((STEP,), tl.float32)
        if WHOLE:
            bias = tl.load(bias_ptr + t * KP + k, mask=k < columns, other=LOWEST)
        for h0 in range(0, TASK_H, BLOCK_H):
            h = task % HEAD_TASKS * TASK_H + h0 + tl.arange(0, BLOCK_H)
            in_heads = h < H
            sink = tl.load(attn_sink_ptr + h, mask=in_heads, other=0.0)
            rows_ptr = scores_ptr + t * H * KP + h[:, None] * KP
            p_rows_ptr = p_ptr + t * H * KP + h[:, None] * KP
            if WHOLE:
                inside = in_heads[:, None] & (k < columns)[None, :]
                scores = tl.load(rows_ptr + k[None, :], mask=inside, other=0.0)
                scores = scores * softmax_scale + bias[None, :]
                m = tl.max(scores, axis=1)
                e = tl.exp(scores - m[:, None])
                l = tl.sum(e, axis=1) + tl.exp(sink - m)
                tl.store(p_rows_ptr + k[None, :], (e / l[:, None]).to(tl.bfloat16), mask=inside)
            else:
                m = tl.full((BLOCK_H,), LOWEST, tl.float32)
                l = tl.zeros((BLOCK_H,), tl.float32)
                for k0 in range(0, columns, STEP):
                    inside = in_heads[:, None] & (k0 + k < columns)[None, :]
                    bias = tl.load(bias_ptr + t * KP + k0 + k, mask=k0 + k < columns, other=LOWEST)
                    scores = tl.load(rows_ptr + (k0 + k)[None, :], mask=inside, other=0.0)
                    scores = scores * softmax_scale + bias[None, :]
                    m_step = tl.max(scores, axis=1)
                    # Not tl.maximum, whose care for NaN is seven instructions: it is in l anyway.
                    m_new = tl.where(m_step > m, m_step, m)
                    l = l * tl.exp(m - m_new) + tl.sum(tl.exp(scores - m_new[:, None]), axis=1)
                    m = m_new
                l += tl.exp(sink - m)
                for k0 in range(0, columns, STEP):
                    inside = in_heads[:, None] & (k0 + k < columns)[None, :]
                    bias = tl.load(bias_ptr + t * KP + k0 + k, mask=k0 + k < columns, other=LOWEST)
                    scores = tl.load(rows_ptr + (k0 + k)[None, :], mask=inside, other=0.0)
                    e = tl.exp(scores * softmax_scale + bias[None, :] - m[:, None])
                    p = (e / l[:, None]).to(tl.bfloat16)
                    tl.store(p_rows_ptr + (k0 + k)[None, :], p, mask=inside)


def _check(contract: Contract, softmax_scale: float, sharers: int = 1) -> None:
    bind_sharers(contract, sharers)
    check_blocks(contract, "scores")
    is_number = isinstance(softmax_scale, int | float) and not isinstance(softmax_scale, bool)
    contract.require(is_number, "softmax_scale", "a number", repr(softmax_scale))
    contract.sizes["softmax_scale"] = float(softmax_scale)


def _launch(contract: Contract, target: Target, tiles: SoftmaxTiles) -> Launch:
    N, H, KP, X = (contract[letter] for letter in ("N", "H", "KP", "X"))
    heads, columns, whole = tiles.step(contract.sizes)
    task_h = max(heads, tiles.task_h)
    return Launch(
        _softmax_kernel,
        target.grid("vector", N * triton.cdiv(H, task_h)),
        ("scores", "bias", "live_blocks", "attn_sink", "p", contract["softmax_scale"], N),
        dict(
            H=H, KP=KP, X=X, TASK_H=task_h, BLOCK_H=heads, STEP=columns, WHOLE=whole,
            BLOCK_K=BLOCK_COLUMNS, LOWEST=NEG, **tiles.options(target),
        ),
    )  # fmt: skip


SEGMENT = Segment(
    "softmax", SoftmaxTiles, reads=("scores", "bias", "live_blocks", "attn_sink"), writes=("p",),
    numbers=("softmax_scale", "sharers"), check=_check, launch=_launch,
)  # fmt: skip


def softmax(
    scores: torch.Tensor,  # [N, H, KP] fp32
    bias: torch.Tensor,  # [N, KP] fp32
    live_blocks: torch.Tensor,  # [U] int32
    attn_sink: torch.Tensor,  # [H] fp32
    *,
    softmax_scale: float,
    sharers: int = 1,
    p: torch.Tensor | None = None,
    tiles: SoftmaxTiles | None = None,
) -> torch.Tensor:
    """Softmax over the columns of the live blocks and the sink.

    Args:
        scores: as `qk` writes them; KP is a multiple of 128, or 144, 160 or 192.
        bias: 0 for a live column, NEG for a dead one, which gets 0.
        live_blocks: how many blocks of a tile of X tokens there are; later ones are not touched.
        attn_sink: unscaled logit per head; -inf is plain softmax, +inf gives zeros.
        softmax_scale: factor on the scores, before the bias.
        sharers: X, as resolve_slots takes it.

    Returns p [N, H, KP] bf16. Raises ContractError.
    """
    return SEGMENT(
        tiles, scores=scores, bias=bias, live_blocks=live_blocks, attn_sink=attn_sink,
        softmax_scale=softmax_scale, sharers=sharers, p=p,
    )  # fmt: skip
