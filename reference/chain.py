"""The segments in their order: what the kernels' chain must give."""

from __future__ import annotations

import torch

from reference.attend_rows import attend_rows
from reference.dequant_sum import dequant_sum
from reference.finish import finish
from reference.gather_kv import gather_kv
from reference.group_quant import group_quant
from reference.inverse_rope import inverse_rope
from reference.merge_finish import merge_finish
from reference.merge_norm import merge_norm
from reference.proj_a import proj_a
from reference.proj_b import proj_b
from reference.proj_b_dequant import proj_b_dequant
from reference.pv import pv
from reference.qk import qk
from reference.qk_softmax_pv import qk_softmax_pv
from reference.resolve_slots import resolve_slots
from reference.row_quant import row_quant
from reference.softmax import softmax

WAVE_TOKENS = 128  # bounds the memory of a long chunk; every token is computed by itself anyway


def prefill_segments(
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
    schedule: str = "decoupled",
    attention: str = "fused",
) -> dict[str, torch.Tensor]:
    """For all T tokens: o_packed [G, T, J], o_r and codes [T, G, R], scale [G, T] (row_barrier:
    row_scale [T]), attn_out [T, D]."""
    T = q.shape[0]
    pools = ori_kv.flatten(1, -2), kv_overlay, cmp_kv.flatten(1, -2)
    slots = pools[0], ori_block_table, kv_overlay, pools[2]
    waves: list[dict[str, torch.Tensor]] = []
    for first in range(0, max(T, 1), WAVE_TOKENS):
        rows = slice(first, first + WAVE_TOKENS)
        indices = *slots, cmp_block_table, cmp_sparse_indices[rows], cmp_sparse_lens[rows]
        kv_rows, bias, runs, blocks, live = resolve_slots(
            *indices, num_tokens, window=window, first_token=first
        )
        kv = gather_kv(*pools, kv_rows, runs, blocks)
        heads = dict(groups=wo_a.shape[0], rope_dim=freqs_cos.shape[1])
        tables = freqs_cos[rows], freqs_sin[rows]
        if attention == "one_kernel":
            o_packed = attend_rows(
                q[rows], *pools, kv_rows, bias, blocks, live, attn_sink, *tables,
                groups=heads["groups"],
            )  # fmt: skip
        elif attention == "lanes":
            scale = q.shape[2] ** -0.5
            p = softmax(qk(q[rows], kv, blocks), bias, blocks, attn_sink, softmax_scale=scale)
            o_heads, o_rope = pv(p, kv, blocks, **heads)
            o_packed = finish(o_rope, live, *tables, o_heads).transpose(0, 1).contiguous()
        else:
            blocked = *qk_softmax_pv(q[rows], kv, bias, blocks), blocks, live, attn_sink
            if attention == "separate_tail":
                o_packed, o_rope = merge_norm(*blocked, **heads)
                o_packed = inverse_rope(o_rope, live, *tables, o_packed)
            else:
                o_packed = merge_finish(*blocked, *tables, groups=heads["groups"])
        o_r = proj_a(o_packed, wo_a)
        if schedule == "row_barrier":
            codes, row_scale = row_quant(o_r)
            attn_out = proj_b_dequant(codes, wo_b, row_scale, live, wo_b_scale)
            made = dict(row_scale=row_scale)
        else:
            codes, scale = group_quant(o_r)
            attn_out = dequant_sum(proj_b(codes, wo_b), scale, live, wo_b_scale)
            made = dict(scale=scale)
        waves.append(made | dict(o_packed=o_packed, o_r=o_r, codes=codes, attn_out=attn_out))
    by_token = {name: 1 if name in ("scale", "o_packed") else 0 for name in waves[0]}
    return {name: torch.cat([w[name] for w in waves], dim) for name, dim in by_token.items()}


def prefill_sparse_attn(
    *args: torch.Tensor | int,
    window: int = 128,
    schedule: str = "decoupled",
    attention: str = "fused",
) -> torch.Tensor:
    """attn_out [T, D] bf16; the arguments are prefill_segments'."""
    made = prefill_segments(*args, window=window, schedule=schedule, attention=attention)  # type: ignore[arg-type]
    return made["attn_out"]
