"""How far a segment may be from its reference on the same inputs, and why: the one table.

Bounds are computed from the inputs, not chosen. `judge` measures one buffer against its bound; the
functions in BOUNDS give, for a segment's inputs and reference outputs, the bound of every output.

    u = 2**-24 is fp32's unit roundoff. A sum of n terms taken in two different orders differs by at
    most 2 * LAMBDA * sqrt(n) * u * sum |terms|, with probability 1 - 2n exp(-LAMBDA**2 / 2)
    (Higham and Mary, A new approach to probabilistic rounding error analysis, 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

U = 2.0**-24
LAMBDA = 8.0  # failure probability below 1e-10 for n = 4096, per element
EXP_ERROR = 4 * U  # two exp functions of at most 2 ulp each

# A bf16 result may land on the neighbouring value where the fp32 value before the one rounding
# lies that near to a tie: errors of some 1e-6 against a spacing of 4e-3 make that rarer than this.
ROUNDING_FLIPS = 2e-3


@dataclass(frozen=True)
class Bound:
    """Largest deviation allowed per element, and the share of elements that may deviate at all."""

    allowed: torch.Tensor | float
    because: str
    share: float = 1.0


@dataclass(frozen=True)
class Verdict:
    """What `judge` found; `used` is the largest deviation as a fraction of its bound."""

    buffer: str
    holds: bool
    deviation: float
    used: float
    share: float
    where: str
    because: str

    def __str__(self) -> str:
        state = "holds" if self.holds else "BROKEN"
        return (
            f"{self.buffer}: {state}: largest deviation {self.deviation:.3g} "
            f"({self.used:.2f} of the bound), {100 * self.share:.3g} % of elements differ; "
            f"worst {self.where}; bound: {self.because}"
        )


def judge(buffer: str, got: torch.Tensor, want: torch.Tensor, bound: Bound) -> Verdict:
    """Compare in fp64; NaN and Inf must stand at the same places with the same sign."""
    assert got.shape == want.shape, (got.shape, want.shape)
    assert got.dtype == want.dtype, (got.dtype, want.dtype)
    if got.numel() == 0:
        return Verdict(buffer, True, 0.0, 0.0, 0.0, "nowhere: empty", bound.because)
    got64, want64 = got.detach().cpu().double(), want.detach().cpu().double()
    same = (got64 == want64) | (got64.isnan() & want64.isnan())
    difference = torch.where(same, 0.0, (got64 - want64).abs()).nan_to_num(torch.inf, torch.inf)
    allowed = torch.as_tensor(bound.allowed, dtype=torch.float64).expand(want64.shape)
    used = torch.where(same, 0.0, difference / allowed)  # a deviation where none is allowed: inf
    worst = int(used.argmax())
    coordinate = [int(i) for i in torch.unravel_index(torch.tensor(worst), want.shape)]
    share = float((~same).double().mean())
    return Verdict(
        buffer,
        holds=bool((used <= 1).all()) and share <= bound.share,
        deviation=float(difference.max()),
        used=float(used.max()),
        share=share,
        where=f"{coordinate}: {float(got64.view(-1)[worst]):.9g}"
        f" for {float(want64.view(-1)[worst]):.9g}",
        because=bound.because,
    )


def spacing(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Distance of neighbouring `dtype` numbers around x, in fp64; 0 where x is not finite."""
    limits = torch.finfo(dtype)
    magnitude = x.double().abs().nan_to_num(0.0, 0.0).clamp_min(limits.smallest_normal)
    spaced = torch.exp2(magnitude.log2().floor()) * limits.eps
    return torch.where(x.isfinite(), spaced, 0.0)


def _sum_error(terms: int, magnitude: torch.Tensor) -> torch.Tensor:
    return 2 * LAMBDA * max(terms, 1) ** 0.5 * U * magnitude


def _exact(because: str) -> Callable[..., dict[str, Bound]]:
    def bound(inputs: Mapping[str, Any], want: Mapping[str, torch.Tensor]) -> dict[str, Bound]:
        return {name: Bound(0.0, because) for name in want}

    return bound


def _qk_softmax_pv(inputs: Mapping[str, Any], want: Mapping[str, torch.Tensor]) -> dict[str, Bound]:
    q, kv, bias = (inputs[name].cpu().float() for name in ("q", "kv", "bias"))
    N, _, C = q.shape
    NB = want["m"].shape[1]
    scale = C**-0.5
    kv = kv.view(N, NB, kv.shape[1] // NB, C)
    bias = bias.view(N, NB, 1, bias.shape[1] // NB)
    scores = torch.einsum("nhc,nbkc->nbhk", q, kv) * scale + bias
    magnitude = torch.einsum("nhc,nbkc->nbhk", q.abs(), kv.abs()) * scale
    score_error = (_sum_error(C, magnitude) + 4 * U * magnitude).amax(dim=-1)  # [N, NB, H]

    m = want["m"].cpu().double()
    p = torch.exp(scores.double() - m[..., None])
    # exp's argument carries the errors of score and maximum and the rounding of their difference.
    p_error = p * (2 * score_error[..., None] + U * (scores - m[..., None]).abs() + EXP_ERROR)
    l_error = p_error.sum(-1) + _sum_error(p.shape[-1], p.sum(-1))
    # bf16(P) moves by a spacing where its error reaches a tie, and not at all elsewhere.
    low, high = (p - p_error).bfloat16().double(), (p + p_error).bfloat16().double()
    kv = kv.double().abs()
    o_error = torch.einsum("nbhk,nbkc->nbhc", high - low, kv)
    o_error += _sum_error(p.shape[-1], torch.einsum("nbhk,nbkc->nbhc", p, kv))
    return {
        "m": Bound(score_error, "a dot product of C terms in any order"),
        "l": Bound(l_error, "the scores' error through exp, and a sum of 128 terms"),
        "o": Bound(o_error, "P within its error of a bf16 tie moves one spacing; 128 terms"),
    }


def _merge_norm(inputs: Mapping[str, Any], want: Mapping[str, torch.Tensor]) -> dict[str, Bound]:
    m, l, o = (inputs[name].cpu().double() for name in ("m", "l", "o"))
    N, NB, H, C = o.shape
    P = inputs["rope_dim"]
    G = inputs["groups"]
    weight = torch.exp(m - m.amax(dim=1, keepdim=True))
    denominator = (weight * l).sum(1)
    sink = inputs["attn_sink"].cpu().double()
    denominator = denominator + torch.exp(sink - m.amax(dim=1))
    magnitude = (weight[..., None] * o.abs()).sum(1) / denominator[..., None]
    magnitude = magnitude.nan_to_num(0.0, 0.0)
    # Per block: two exp, each rescaling what came before; then the sink's exp, a sum, a division.
    error = (NB * (2 * EXP_ERROR + 4 * U) + 2 * EXP_ERROR + 4 * U) * magnitude  # [N, H, C]
    packed = error.view(N, G, H // G * C).transpose(0, 1)
    columns = torch.arange(H // G * C) % C < C - P
    one_spacing = packed + spacing(want["o_packed"].cpu(), torch.bfloat16)
    return {
        "o_packed": Bound(
            torch.where(columns, one_spacing, 0.0),
            "fp32 merge of NB blocks, then one rounding: at most the neighbouring bf16",
            ROUNDING_FLIPS,
        ),
        "o_rope": Bound(error[..., C - P :], "fp32 merge of NB blocks, not rounded"),
    }


def _inverse_rope(inputs: Mapping[str, Any], want: Mapping[str, torch.Tensor]) -> dict[str, Bound]:
    x = inputs["o_rope"].cpu().double()  # [N, H, P]
    N, H, P = x.shape
    G, _, J = want["o_packed"].shape
    C = J * G // H
    pair = x.view(N, H, P // 2, 2).abs().sum(-1, keepdim=True)  # |cos|, |sin| <= 1
    rope_error = (3 * U * pair).expand(-1, -1, -1, 2).reshape(N, H, P).nan_to_num(0.0)
    error = torch.zeros(N, H, C, dtype=torch.float64)
    error[..., C - P :] = rope_error
    packed = error.view(N, G, J).transpose(0, 1)
    rope_columns = torch.arange(J) % C >= C - P
    one_spacing = packed + spacing(want["o_packed"].cpu(), torch.bfloat16)
    return {
        "o_packed": Bound(
            torch.where(rope_columns, one_spacing, 0.0),
            "three fp32 roundings, then one to bf16: at most the neighbour; nope columns untouched",
            ROUNDING_FLIPS,
        )
    }


def _proj_a(inputs: Mapping[str, Any], want: Mapping[str, torch.Tensor]) -> dict[str, Bound]:
    a, w = inputs["o_packed"].cpu().float().abs(), inputs["wo_a"].cpu().float().abs()
    magnitude = torch.einsum("gnj,grj->ngr", a, w)
    return {"o_r": Bound(_sum_error(a.shape[-1], magnitude), "a dot product of J terms")}


def _group_quant(inputs: Mapping[str, Any], want: Mapping[str, torch.Tensor]) -> dict[str, Bound]:
    scale = want["scale"].cpu().double()  # [G, N]
    x = inputs["o_r"].cpu().double() / scale.transpose(0, 1)[..., None]
    to_tie = ((x - x.floor()) - 0.5).abs()
    near_tie = to_tie <= 2 * spacing(x, torch.float32)
    unspecified = scale.isnan().transpose(0, 1)[..., None]
    allowed = torch.where(unspecified, 255.0, near_tie.double())
    return {
        "codes": Bound(allowed, "equal, or one off within two fp32 spacings of a tie"),
        "scale": Bound(4 * U * scale.nan_to_num(0.0), "two divisions, each within an ulp"),
    }


def _row_quant(inputs: Mapping[str, Any], want: Mapping[str, torch.Tensor]) -> dict[str, Bound]:
    G = want["codes"].shape[1]
    by_group = {"scale": want["row_scale"].expand(G, -1), "codes": want["codes"]}
    bounds = _group_quant(inputs, by_group)
    row_scale = want["row_scale"].cpu().double().nan_to_num(0.0)
    return {
        "codes": bounds["codes"],
        "row_scale": Bound(4 * U * row_scale, bounds["scale"].because),
    }


def _proj_b_dequant(
    inputs: Mapping[str, Any], want: Mapping[str, torch.Tensor]
) -> dict[str, Bound]:
    out = want["attn_out"].cpu()
    error = 4 * U * out.double().abs().nan_to_num(0.0, 0.0)
    return {
        "attn_out": Bound(
            error + spacing(out, torch.bfloat16),
            "an exact sum, three fp32 roundings, one to bf16: at most the neighbouring bf16",
            ROUNDING_FLIPS,
        )
    }


def _dequant_sum(inputs: Mapping[str, Any], want: Mapping[str, torch.Tensor]) -> dict[str, Bound]:
    partial, scale = inputs["partial"].cpu().double(), inputs["scale"].cpu().double()
    magnitude = (partial.abs() * scale[..., None]).sum(0) * inputs["wo_b_scale"].cpu().double()
    error = (2 * (partial.shape[0] + 2) * U * magnitude).nan_to_num(0.0, 0.0)
    return {
        "attn_out": Bound(
            error + spacing(want["attn_out"].cpu(), torch.bfloat16),
            "a sum of G terms in one order, then one rounding: at most the neighbouring bf16",
            ROUNDING_FLIPS,
        )
    }


BOUNDS: dict[str, Callable[..., dict[str, Bound]]] = {
    "gather_kv": _exact("moves only: the same bytes"),
    "column_bias": _exact("0, NEG and counts: the same bytes"),
    "qk_softmax_pv": _qk_softmax_pv,
    "merge_norm": _merge_norm,
    "inverse_rope": _inverse_rope,
    "proj_a": _proj_a,
    "group_quant": _group_quant,
    "proj_b": _exact("int8 products in int32: exact"),
    "dequant_sum": _dequant_sum,
    "row_quant": _row_quant,
    "proj_b_dequant": _proj_b_dequant,
}

# The chain against its own reference, from the bounds above: a code flips where o_r's error meets a
# tie, each flip moves an output by 1/127 of one term in G*R.
CHAIN_CODE_FLIPS = 1e-3
CHAIN_REL_L2 = 2e-3
CHAIN_COSINE = 0.99999
# Against the fp64 oracle: the amax of 1024 normal values is about 3.4 sigma, a step of the codes
# 1/127 of that, and its rounding error a step / sqrt(12) = 0.77 % of sigma; bf16 P, pack and output
# add 0.2-0.3 % (in squares). Small widths and outliers vary that by some tens of percent.
ORACLE_REL_L2 = 1.2e-2


def relative_l2(got: torch.Tensor, want: torch.Tensor) -> float:
    """||got - want|| / ||want||, in fp64; 0 for two zeros."""
    got64, want64 = got.detach().cpu().double(), want.detach().cpu().double()
    distance, size = float((got64 - want64).norm()), float(want64.norm())
    return distance / size if size else distance


def cosine(got: torch.Tensor, want: torch.Tensor) -> float:
    """Cosine of the angle between two tensors as vectors, in fp64; 1 for two zeros."""
    got64, want64 = got.detach().cpu().double().flatten(), want.detach().cpu().double().flatten()
    if torch.equal(got64, want64):
        return 1.0
    return float(got64 @ want64 / (got64.norm() * want64.norm()))
