"""A chain's hand-overs against the reference's, element by element.

Every segment is judged on the inputs that it got; here is judged what they add up to. Nothing is
chosen, and nothing depends on how many elements there are: attention is held to the oracle by the
error of its own numbers, and behind it each hand-over may differ from the reference's by what the
difference of the one before it makes of it, and by its own roundings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from reference.bounds import Bound, U, Verdict, judge, spacing
from reference.chain import prefill_segments
from reference.group_quant import AMAX_FLOOR
from reference.oracle import attend
from reference.proj_a import bound as proj_a_bound

WEIGHT_ROWS = 64  # at a time, in fp64: what a core's cache holds
HANDED_ON = ("o_packed", "o_heads", "o_r", "codes", "scale", "row_scale")


def judge_chain(
    inputs: tuple[Any, ...],
    got: Mapping[str, torch.Tensor],
    *,
    window: int,
    schedule: str,
    attention: str = "fused",
) -> dict[str, Verdict]:
    """Verdicts on o_packed, o_r, codes and attn_out.

    Args:
        inputs: of prefill_sparse_attn, on the CPU.
        got: by buffer name the kernels' o_packed (or o_heads), o_r, codes and scale (row_barrier's
            row_scale) of the first tokens, those of all waves that ran, and attn_out of all tokens.
    """
    want = prefill_segments(*inputs, window=window, schedule=schedule, attention=attention)
    if "o_heads" in got:
        got = {**got, "o_packed": got["o_heads"].transpose(0, 1)}
    tokens = len(got["codes"])
    wo_a, wo_b, wo_b_scale = inputs[12:15]
    G = wo_a.shape[0]
    attended, error = attend(*inputs[:12], window=window)
    packed = want["o_packed"][:, :tokens]

    def by_group(heads: torch.Tensor) -> torch.Tensor:
        return heads[:tokens].view(tokens, G, -1).transpose(0, 1).contiguous()

    moved = got["o_packed"].double() - packed.double()
    o_r = want["o_r"][:tokens]
    of_sums = proj_a_bound({"o_packed": got["o_packed"], "wo_a": wo_a}, {})["o_r"].allowed
    o_r_error = torch.einsum("gnj,grj->ngr", moved, wo_a.double()).abs() + of_sums
    codes = want["codes"][:tokens]
    verdicts = {
        "o_packed": judge(
            "o_packed",
            got["o_packed"].double(),
            by_group(attended),
            Bound(by_group(error), "P in bf16, the scores' error in fp32, one rounding to bf16"),
        ),
        "o_r": judge(
            "o_r",
            got["o_r"],
            o_r,
            Bound(o_r_error + U * o_r.double().abs(), "o_packed's difference times wo_a; its sums"),
        ),
        "codes": judge(
            "codes",
            got["codes"],
            codes,
            Bound(
                code_steps(got["o_r"], o_r, codes, by_token=schedule == "row_barrier"),
                "equal, unless the difference of its o_r reaches a rounding boundary",
            ),
        ),
    }

    def dequantised(buffers: Mapping[str, torch.Tensor]) -> torch.Tensor:
        scale = buffers["row_scale"][None] if "row_scale" in buffers else buffers["scale"]
        return buffers["codes"][:tokens].double() * scale[:, :tokens].double().T[..., None]

    T, D = want["attn_out"].shape
    allowed = torch.zeros(T, D, dtype=torch.float64)  # behind the waves that ran
    handed_on = dequantised(got).flatten(1)
    change = handed_on - dequantised(want).flatten(1)
    for rows in torch.arange(D).split(WEIGHT_ROWS):
        weights = wo_b[rows].double() * wo_b_scale[rows].double()[:, None]
        difference, terms = change @ weights.T, handed_on.abs() @ weights.abs().T
        allowed[:tokens, rows] = difference.abs() + 2 * (G + 4) * U * terms
    out = want["attn_out"]
    allowed[:tokens] += spacing(out[:tokens].double().abs() + allowed[:tokens], torch.bfloat16)
    because = "the difference of codes and scales times wo_b; its sums, and one rounding to bf16"
    verdicts["attn_out"] = judge("attn_out", got["attn_out"], out, Bound(allowed, because))
    return verdicts


def whole(waves: Mapping[str, list[torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The buffers of HANDED_ON as `judge_chain` takes them, from those of every wave in order."""
    return {
        name: torch.cat(parts, dim=1 if name in ("o_packed", "scale") else 0).cpu()
        for name, parts in waves.items()
    }


def code_steps(
    got: torch.Tensor,  # [N, G, R] fp32
    want: torch.Tensor,  # [N, G, R] fp32
    codes: torch.Tensor,  # [N, G, R] int8, of `want`
    *,
    by_token: bool,
) -> torch.Tensor:
    """By how many steps each code may differ, [N, G, R]: as many as there are rounding boundaries
    between the two o_r on the scale of the codes, give or take two fp32 spacings.

    by_token: one amax for all groups of a token.
    """
    dims = (1, 2) if by_token else (2,)

    def on_scale(o_r: torch.Tensor) -> torch.Tensor:
        amax = o_r.abs().amax(dims, keepdim=True).clamp_min(AMAX_FLOOR)
        return o_r.double() * 127 / amax.double()

    x, y = on_scale(want), on_scale(got)
    slack = 2 * spacing(x, torch.float32)
    ends = torch.minimum(x, y) - slack, torch.maximum(x, y) + slack
    low, high = ((torch.round(end) - codes.double()).abs() for end in ends)
    return torch.maximum(low, high)
