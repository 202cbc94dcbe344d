"""The entry point: a plan of its arguments' shapes, run once."""

from __future__ import annotations

import torch

from dsv4_kernels.chains.pipeline import GROUPS_PER_LAUNCH
from dsv4_kernels.launcher.executors import Executor
from dsv4_kernels.launcher.plan import WAVE_TOKENS, PrefillSparseAttn


def prefill_sparse_attn(
    q: torch.Tensor,  # [T, H, C] bf16
    ori_kv: torch.Tensor,  # [pages, B, C] or [pages, B, 1, C] bf16
    ori_block_table: torch.Tensor,  # [n] int32
    kv_overlay: torch.Tensor,  # [T, C] bf16
    cmp_kv: torch.Tensor,  # [pages, B, C] or [pages, B, 1, C] bf16
    cmp_block_table: torch.Tensor,  # [m] int32
    cmp_sparse_indices: torch.Tensor,  # [T, K] int32
    cmp_sparse_lens: torch.Tensor,  # [T] int32
    attn_sink: torch.Tensor,  # [H] fp32
    num_tokens: int,
    freqs_cos: torch.Tensor,  # [T, P] bf16
    freqs_sin: torch.Tensor,  # [T, P] bf16
    wo_a: torch.Tensor,  # [G, R, J] bf16
    wo_b: torch.Tensor,  # [D, G*R] int8
    wo_b_scale: torch.Tensor,  # [D] fp32
    *,
    window: int = 128,
    out: torch.Tensor | None = None,
    wave_tokens: int = WAVE_TOKENS,
    schedule: str = "decoupled",
    groups_per_launch: int = GROUPS_PER_LAUNCH,
    executor: Executor | None = None,
) -> torch.Tensor:
    """DeepSeek-V4's prefill sparse attention, through to its grouped INT8 output projection.

    Args:
        q: queries, rotated.
        ori_kv, ori_block_table: window ring, paged: history before this chunk. K and V are one row.
        kv_overlay: this chunk's own KV.
        cmp_kv, cmp_block_table: compressed KV, paged. Pools and tables may be empty.
        cmp_sparse_indices, cmp_sparse_lens: raw slot indices (contract in segments/slots.py) and
            the usable prefix of each row.
        attn_sink: logit per head that takes part in the denominator only.
        num_tokens: live tokens, 0..T; later rows of the output are zeros.
        freqs_cos, freqs_sin: RoPE tables of the tokens, the first P/2 columns are used.
        wo_a, wo_b, wo_b_scale: output projection; wo_b is quantised per output channel.
        out: output, [T, D] bf16; allocated if None.
        window, wave_tokens, schedule, groups_per_launch, executor: as `PrefillSparseAttn` takes
            them, which is what to use for one set of shapes many times.

    Returns attn_out [T, D] bf16, on the current stream and without synchronising. Raises
    ContractError before anything is launched or written.
    """
    arguments = (
        q, ori_kv, ori_block_table, kv_overlay, cmp_kv, cmp_block_table, cmp_sparse_indices,
        cmp_sparse_lens, attn_sink, num_tokens, freqs_cos, freqs_sin, wo_a, wo_b, wo_b_scale,
    )  # fmt: skip
    plan = PrefillSparseAttn(
        *arguments,
        window=window,
        wave_tokens=wave_tokens,
        schedule=schedule,
        groups_per_launch=groups_per_launch,
        executor=executor,
    )
    return plan.run(*arguments, out=out)
