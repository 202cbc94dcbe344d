"""Attention in one kernel: rows, online softmax, sink, rotation and packing."""

from __future__ import annotations

import torch

from reference.bounds import EXP_ERROR, Bound, Inputs, Outputs, U, narrowed, sum_error
from reference.gather_kv import gather_kv
from reference.inverse_rope import turn_back, turned_error
from reference.merge_norm import by_group
from reference.qk import behind, of_tokens
from reference.resolve_slots import NEG

STEP = 64  # columns between two rescalings


def attend_rows(
    q: torch.Tensor,  # [N, H, C] bf16
    ori_kv: torch.Tensor,  # [pages, B, C] bf16
    kv_overlay: torch.Tensor,  # [T, C] bf16
    cmp_kv: torch.Tensor,  # [pages, B, C] bf16
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
) -> torch.Tensor:
    """o_packed [G, N, J] bf16. Per step of 64 columns, ascending: m' = max(m, max S),
    P = exp(S - m'), l = exp(m - m') l + sum P, o = o exp(m - m') + bf16(P) . rows; then
    n = o / (l + exp(sink - m)), its last P columns turned back, and one rounding to bf16.

    Both dots are the fp32 nearest to the exact sum. A token with no live slot gives zeros.
    """
    scale = q.shape[2] ** -0.5 if softmax_scale is None else softmax_scale
    kv, bias = _columns(ori_kv, kv_overlay, cmp_kv, rows, bias, live_blocks, sharers)
    N, H, C = q.shape
    scores = (q.double() @ kv.transpose(1, 2)).float() * scale + bias[:, None]
    m = torch.full((N, H), NEG)
    l = torch.zeros(N, H)
    o = torch.zeros(N, H, C)
    for step in range(0, kv.shape[1], STEP):
        some = slice(step, step + STEP)
        m_new = torch.maximum(m, scores[..., some].amax(dim=-1))
        old = torch.exp(m - m_new)
        p = torch.exp(scores[..., some] - m_new[..., None])
        l = old * l + p.sum(dim=-1)
        o = o * old[..., None] + (p.bfloat16().double() @ kv[:, some]).float()
        m = m_new
    n = o / (l + torch.exp(attn_sink - m))[..., None]
    return _packed(n, live_slots, freqs_cos, freqs_sin, groups).bfloat16()


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """The error of a score carried through exp, P in bf16 and the steps' rescaling."""
    q, ori_kv, kv_overlay, cmp_kv, rows, bias, live_blocks, live_slots, sink, cos, sin = (
        inputs[name].cpu()
        for name in (
            "q", "ori_kv", "kv_overlay", "cmp_kv", "rows", "bias", "live_blocks", "live_slots",
            "attn_sink", "freqs_cos", "freqs_sin",
        )
    )  # fmt: skip
    q, sink = q.double(), sink.double()
    kv, bias = _columns(
        ori_kv, kv_overlay, cmp_kv, rows, bias, live_blocks, inputs.get("sharers", 1)
    )
    N, H, C = q.shape
    scale = inputs.get("softmax_scale")
    scale = C**-0.5 if scale is None else scale
    scores = q @ kv.transpose(1, 2) * scale + bias[:, None].double()
    magnitude = q.abs() @ kv.abs().transpose(1, 2) * abs(scale)
    score_error = (sum_error(C, magnitude) + 4 * U * magnitude).amax(dim=-1)  # [N, H]
    last = scores.amax(dim=-1).clamp_min(NEG)

    m = torch.full((N, H), NEG, dtype=torch.float64)
    l = torch.zeros(N, H, dtype=torch.float64)
    o, o_error, magnitude = (torch.zeros(N, H, C, dtype=torch.float64) for _ in range(3))
    l_error = torch.zeros(N, H, dtype=torch.float64)
    for step in range(0, kv.shape[1], STEP):
        s, v = scores[..., step : step + STEP], kv[:, step : step + STEP]
        m = torch.maximum(m, s.amax(dim=-1))
        weight = torch.exp(m - last)  # what the later steps make of this one
        p = torch.exp(s - m[..., None])
        # exp's argument carries the errors of score and maximum and the rounding of their
        # difference; bf16(P) moves by a spacing where that reaches a tie, and not at all elsewhere.
        of_p = p * (2 * score_error[..., None] + U * (s - m[..., None]).abs() + EXP_ERROR)
        of_p = of_p.nan_to_num(0.0, 0.0)
        low, high = (p - of_p).bfloat16().double(), (p + of_p).bfloat16().double()
        of_o = (high - low) @ v.abs() + sum_error(STEP, p @ v.abs())
        l += weight * p.sum(dim=-1)
        l_error += weight * (of_p.sum(dim=-1) + sum_error(STEP, p.sum(dim=-1)))
        o += weight[..., None] * (p.bfloat16().double() @ v)
        o_error += weight[..., None] * of_o
        magnitude += weight[..., None] * (p.bfloat16().double() @ v.abs())
    # A step rescales by an exp, multiplies and adds; the last also takes the sink's exp.
    rescaled = (kv.shape[1] // STEP + 1) * (2 * EXP_ERROR + 4 * U)
    of_sink = torch.exp(sink - last)
    sink_error = of_sink * (EXP_ERROR + score_error + U * (sink - last).abs())
    l_error += rescaled * l + sink_error.nan_to_num(0.0, 0.0)
    o_error += rescaled * magnitude
    denominator = (l + of_sink)[..., None]
    n = o / denominator
    error = (o_error + n.abs() * l_error[..., None]) / denominator + 2 * U * n.abs()
    error = error.nan_to_num(0.0, 0.0)

    P, groups = cos.shape[1], inputs["groups"]
    turned = turned_error(n[..., C - P :], error[..., C - P :], cos, sin)
    error = torch.cat([error[..., : C - P], turned], dim=-1)
    exact = _packed(n, live_slots, cos, sin, groups)
    alive = (live_slots > 0)[:, None, None]
    error = by_group(torch.where(alive, error, 0.0), groups)
    because = "P within its error of a bf16 tie moves one spacing; fp32, then one rounding to bf16"
    return {"o_packed": Bound(narrowed(exact, error, want["o_packed"].cpu()), because)}


def _columns(
    ori_kv: torch.Tensor,
    kv_overlay: torch.Tensor,
    cmp_kv: torch.Tensor,
    rows: torch.Tensor,
    bias: torch.Tensor,
    live_blocks: torch.Tensor,
    sharers: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every token's rows [N, KP, C] fp64 and bias [N, KP]; zeros and NEG behind the live blocks."""
    N, KP = bias.shape
    kv = gather_kv(ori_kv, kv_overlay, cmp_kv, rows, rows, live_blocks)
    dead = behind(live_blocks, sharers, N, KP)
    return of_tokens(kv, sharers, N).double(), torch.where(dead, NEG, bias)


def _packed(
    n: torch.Tensor,  # [N, H, C]
    live_slots: torch.Tensor,
    freqs_cos: torch.Tensor,
    freqs_sin: torch.Tensor,
    groups: int,
) -> torch.Tensor:
    """The rope columns turned back, zeros for dead tokens, sorted by group; not rounded."""
    C = n.shape[2]
    P = freqs_cos.shape[1]
    turned = turn_back(n[..., C - P :], freqs_cos, freqs_sin)
    y = torch.cat([n[..., : C - P], turned], dim=-1)
    y = torch.where((live_slots > 0)[:, None, None], y, 0.0)
    return by_group(y, groups)
