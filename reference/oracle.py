"""The chain in fp64 that narrows nowhere: what rounding and INT8 are measured against.

Written apart from the segments: no blocks, no running maximum, no packing, no quantised activation.
Only the definition of a live slot is shared. `attend` also tells how far a kernel's attention may
be from it.
"""

from __future__ import annotations

import torch

from reference.bounds import EXP_ERROR, U, spacing, sum_error
from reference.slots import named_rows

HALF_BF16 = 2.0**-8  # unit roundoff: what the rounding of P moves it by, of itself


def oracle(
    q: torch.Tensor,  # [T, H, C]
    ori_kv: torch.Tensor,  # [pages, B, C] or [pages, B, 1, C]
    ori_block_table: torch.Tensor,  # [n] int32
    kv_overlay: torch.Tensor,  # [T, C]
    cmp_kv: torch.Tensor,  # [pages, B, C] or [pages, B, 1, C]
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
    window: int = 128,
) -> torch.Tensor:
    """attn_out [T, D] fp64."""
    slots = ori_kv, ori_block_table, kv_overlay, cmp_kv, cmp_block_table
    slots = *slots, cmp_sparse_indices, cmp_sparse_lens
    attended, _ = attend(q, *slots, attn_sink, num_tokens, freqs_cos, freqs_sin, window=window)
    return projected(attended, wo_a, wo_b, wo_b_scale)


def projected(
    attended: torch.Tensor,  # [T, H, C] fp64
    wo_a: torch.Tensor,  # [G, R, J]
    wo_b: torch.Tensor,  # [D, G*R] int8
    wo_b_scale: torch.Tensor,  # [D]
) -> torch.Tensor:
    """Both output projections, [T, D] fp64."""
    G, _, J = wo_a.shape
    by_group = attended.view(len(attended), G, J)
    low_rank = torch.stack([by_group[:, g] @ wo_a[g].double().T for g in range(G)], dim=1)
    return low_rank.flatten(1) @ wo_b.double().T * wo_b_scale.double()


def attend(
    q: torch.Tensor,  # [T, H, C]
    ori_kv: torch.Tensor,  # [pages, B, C] or [pages, B, 1, C]
    ori_block_table: torch.Tensor,  # [n] int32
    kv_overlay: torch.Tensor,  # [T, C]
    cmp_kv: torch.Tensor,  # [pages, B, C] or [pages, B, 1, C]
    cmp_block_table: torch.Tensor,  # [m] int32
    cmp_sparse_indices: torch.Tensor,  # [T, K] int32
    cmp_sparse_lens: torch.Tensor,  # [T] int32
    attn_sink: torch.Tensor,  # [H]
    num_tokens: int,
    freqs_cos: torch.Tensor,  # [T, P]
    freqs_sin: torch.Tensor,  # [T, P]
    *,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention up to the output projection, one token at a time: [T, H, C] fp64; and how far a
    kernel may be from it that sums in fp32, takes P . V from bf16 P and rounds once to bf16.

    With p the softmax and |v| the magnitudes of the rows: P moves by HALF_BF16 of itself, a score's
    error d moves P and the denominator by d each, and by as much in the maximum that both share; a
    block and the sink add an exp or two and some roundings, the sums what `sum_error` says.
    """
    T, H, C = q.shape
    P = freqs_cos.shape[1]
    ori_kv, cmp_kv = ori_kv.flatten(1, -2), cmp_kv.flatten(1, -2)
    live, pool, row = named_rows(
        ori_kv, ori_block_table, kv_overlay, cmp_kv, cmp_block_table,
        cmp_sparse_indices, cmp_sparse_lens, num_tokens, window,
    )  # fmt: skip
    pools = [rows.flatten(0, -2) for rows in (ori_kv, kv_overlay, cmp_kv)]
    attended = torch.zeros(T, H, C, dtype=torch.float64)
    error = torch.zeros(T, H, C, dtype=torch.float64)
    for t in range(T):
        named = list(zip(pool[t, live[t]].tolist(), row[t, live[t]].tolist(), strict=True))
        if not named:
            continue
        kv = torch.stack([pools[which][r] for which, r in named]).double()
        scores = q[t].double() @ kv.T * C**-0.5
        # The slots' share of the denominator, L / (L + exp(sink)): defined for sinks of +-inf too.
        share = torch.sigmoid(torch.logsumexp(scores, dim=1) - attn_sink.double())
        p = share[:, None] * torch.softmax(scores, dim=1)
        attended[t] = p @ kv
        magnitude = p @ kv.abs()
        of_scores = q[t].double().abs() @ kv.T.abs() * C**-0.5
        score = (sum_error(C, of_scores) + 4 * U * of_scores).amax(dim=1, keepdim=True)
        steps = -(-cmp_sparse_indices.shape[1] // 64)  # or blocks, half as many
        rounded = (steps + 2) * 2 * (EXP_ERROR + 4 * U)
        error[t] = (HALF_BF16 + 4 * score + rounded) * magnitude + sum_error(len(kv), magnitude)
        # Inverse RoPE as a multiplication of complex pairs by exp(-i angle).
        pairs = torch.view_as_complex(attended[t, :, C - P :].reshape(H, P // 2, 2).contiguous())
        angle = torch.complex(freqs_cos[t, : P // 2].double(), -freqs_sin[t, : P // 2].double())
        attended[t, :, C - P :] = torch.view_as_real(pairs * angle).flatten(1)
        pairs = error[t, :, C - P :].view(H, P // 2, 2)  # each of a pair takes from both
        cos, sin = freqs_cos[t, : P // 2].double().abs(), freqs_sin[t, : P // 2].double().abs()
        turned = pairs * cos[:, None] + pairs.flip(-1) * sin[:, None]
        error[t, :, C - P :] = turned.flatten(1)
        error[t] += spacing(attended[t].abs() + error[t], torch.bfloat16)
    return attended, error
