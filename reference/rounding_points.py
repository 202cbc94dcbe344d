"""The chain in fp64 that narrows where it is told to: what each rounding point costs.

With every point on it is the segments' chain but for their fp32 arithmetic, which is some thousand
times finer than any point here; with none it is `oracle` on the weights before INT8.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from reference.chain import WAVE_TOKENS
from reference.gather_kv import gather_kv
from reference.group_quant import dequantise, quantise
from reference.inverse_rope import turn_back
from reference.resolve_slots import BLOCK_COLUMNS, resolve_slots

# In the chain's order. "p": numerators of the softmax to bf16, before they meet V; "o_packed":
# attention's output to bf16; "codes": o_r to INT8; "wo_b": weights to INT8; "attn_out": to bf16.
ROUNDING_POINTS = ("p", "o_packed", "codes", "wo_b", "attn_out")


def rounded_chain(
    q: torch.Tensor,  # [T, H, C]
    ori_kv: torch.Tensor,  # [pages, B, C] or [pages, B, 1, C] bf16
    ori_block_table: torch.Tensor,  # [n] int32
    kv_overlay: torch.Tensor,  # [T, C] bf16
    cmp_kv: torch.Tensor,  # [pages, B, C] or [pages, B, 1, C] bf16
    cmp_block_table: torch.Tensor,  # [m] int32
    cmp_sparse_indices: torch.Tensor,  # [T, K] int32
    cmp_sparse_lens: torch.Tensor,  # [T] int32
    attn_sink: torch.Tensor,  # [H]
    num_tokens: int,
    freqs_cos: torch.Tensor,  # [T, P]
    freqs_sin: torch.Tensor,  # [T, P]
    wo_a: torch.Tensor,  # [G, R, J]
    wo_b: torch.Tensor,  # [D, G*R] int8
    wo_b_scale: torch.Tensor,  # [D]
    *,
    weights: torch.Tensor,  # [D, G*R] fp32, what wo_b was quantised from
    choices: Sequence[Collection[str]],
    window: int = 128,
) -> torch.Tensor:
    """attn_out [choices, T, D] fp64, each rounded at those of ROUNDING_POINTS that it names."""
    unknown = set().union(*choices) - set(ROUNDING_POINTS)
    if unknown:
        raise ValueError(f"`choices` must be of {ROUNDING_POINTS}, got {sorted(unknown)}")
    T, P = freqs_cos.shape
    pools = ori_kv.flatten(1, -2), kv_overlay, cmp_kv.flatten(1, -2)
    slots = pools[0], ori_block_table, kv_overlay, pools[2]
    attn_out = torch.zeros(len(choices), T, len(weights), dtype=torch.float64)
    for first in range(0, T, WAVE_TOKENS):
        rows = slice(first, first + WAVE_TOKENS)
        indices = *slots, cmp_block_table, cmp_sparse_indices[rows], cmp_sparse_lens[rows]
        kv_rows, bias, runs, blocks, live = resolve_slots(
            *indices, num_tokens, window=window, first_token=first
        )
        kv = gather_kv(*pools, kv_rows, runs, blocks)
        attended = {}
        for bf16_p in {"p" in points for points in choices}:
            n = _attend(q[rows], kv, bias, attn_sink, bf16_p=bf16_p)
            n[..., -P:] = turn_back(n[..., -P:], freqs_cos[rows], freqs_sin[rows])
            attended[bf16_p] = torch.where((live > 0)[:, None, None], n, 0.0)
        for out, points in zip(attn_out, choices, strict=True):
            w = wo_b * wo_b_scale[:, None] if "wo_b" in points else weights
            out[rows] = _project(attended["p" in points], wo_a, w, points)
    return attn_out


def _attend(
    q: torch.Tensor,  # [N, H, C]
    kv: torch.Tensor,  # [N, KP, C]
    bias: torch.Tensor,  # [N, KP]
    attn_sink: torch.Tensor,  # [H]
    *,
    bf16_p: bool,
) -> torch.Tensor:
    """[N, H, C] fp64, the rope columns not yet turned back; anything where no slot is live."""
    # bf16(P) depends on the maximum that P is relative to: the blocks are those of qk_softmax_pv.
    kv = kv.unflatten(1, (-1, BLOCK_COLUMNS)).double()
    bias = bias.unflatten(1, (-1, BLOCK_COLUMNS)).double()
    scores = q[:, None].double() @ kv.mT * q.shape[2] ** -0.5 + bias[:, :, None]
    m = scores.amax(dim=-1)
    p = torch.exp(scores - m[..., None])
    o = _bf16(p, bf16_p) @ kv
    largest = m.amax(dim=1)
    weight = torch.exp(m - largest[:, None])
    l = (weight * p.sum(dim=-1)).sum(dim=1) + torch.exp(attn_sink.double() - largest)
    return (weight[..., None] * o).sum(dim=1) / l[..., None]


def _project(
    n: torch.Tensor,  # [N, H, C] fp64
    wo_a: torch.Tensor,  # [G, R, J]
    w: torch.Tensor,  # [D, G*R]
    points: Collection[str],
) -> torch.Tensor:
    """attn_out [N, D] fp64."""
    G, R, J = wo_a.shape
    o_packed = _bf16(n.view(-1, G, J), "o_packed" in points)
    o_r = torch.stack([o_packed[:, g] @ wo_a[g].double().T for g in range(G)], dim=1)
    if "codes" in points:
        o_r = dequantise(*quantise(o_r.float(), "group")).double()
    # A group at a time: the weights in fp64 would be 0.9 GiB at PRO.
    groups = enumerate(w.split(R, dim=1))
    attn_out = torch.stack([o_r[:, g] @ of_group.double().T for g, of_group in groups]).sum(0)
    return _bf16(attn_out, "attn_out" in points)


def _bf16(x: torch.Tensor, on: bool) -> torch.Tensor:
    return x.bfloat16().double() if on else x
