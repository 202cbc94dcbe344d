"""The chain in fp64 that narrows nowhere: what rounding and INT8 are measured against.

Written apart from the segments: no blocks, no running maximum, no packing, no quantised activation.
Only the definition of a live slot is shared.
"""

from __future__ import annotations

import torch

from reference.slots import resolve_slots


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
    """attn_out [T, D] fp64, one token at a time."""
    T, H, C = q.shape
    G, _, J = wo_a.shape
    P = freqs_cos.shape[1]
    ori_kv, cmp_kv = ori_kv.flatten(1, -2), cmp_kv.flatten(1, -2)
    live, pool, row = resolve_slots(
        ori_kv, ori_block_table, kv_overlay, cmp_kv, cmp_block_table,
        cmp_sparse_indices, cmp_sparse_lens, num_tokens, window,
    )  # fmt: skip
    pools = [rows.flatten(0, -2) for rows in (ori_kv, kv_overlay, cmp_kv)]
    attended = torch.zeros(T, H, C, dtype=torch.float64)
    for t in range(T):
        named = list(zip(pool[t, live[t]].tolist(), row[t, live[t]].tolist(), strict=True))
        if not named:
            continue
        kv = torch.stack([pools[which][r] for which, r in named]).double()
        scores = q[t].double() @ kv.T * C**-0.5
        # The slots' share of the denominator, L / (L + exp(sink)): defined for sinks of +-inf too.
        share = torch.sigmoid(torch.logsumexp(scores, dim=1) - attn_sink.double())
        attended[t] = share[:, None] * (torch.softmax(scores, dim=1) @ kv)
        # Inverse RoPE as a multiplication of complex pairs by exp(-i angle).
        pairs = torch.view_as_complex(attended[t, :, C - P :].reshape(H, P // 2, 2).contiguous())
        angle = torch.complex(freqs_cos[t, : P // 2].double(), -freqs_sin[t, : P // 2].double())
        attended[t, :, C - P :] = torch.view_as_real(pairs * angle).flatten(1)
    by_group = attended.view(T, G, J)
    low_rank = torch.stack([by_group[:, g] @ wo_a[g].double().T for g in range(G)], dim=1)
    return low_rank.flatten(1) @ wo_b.double().T * wo_b_scale.double()
