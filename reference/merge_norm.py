"""Segment 4: blocks joined, the sink, and the columns sorted by group."""

from __future__ import annotations

import torch

from reference.bounds import EXP_ERROR, Bound, Inputs, Outputs, U, narrowed
from reference.resolve_slots import NEG


def merge_norm(
    m: torch.Tensor,  # [N, NB, H] fp32
    l: torch.Tensor,  # [N, NB, H] fp32
    o: torch.Tensor,  # [N, NB, H, C] fp32
    live_blocks: torch.Tensor,  # [U] int32
    live_slots: torch.Tensor,  # [N] int32
    attn_sink: torch.Tensor,  # [H] fp32
    *,
    groups: int,
    rope_dim: int,
    sharers: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """n = O / (L + exp(sink - M)) over the live blocks in ascending order; the sink is not scaled.

    Returns o_packed [G, N, J] bf16 - the nope columns of n; its rope columns are zeros, for
    inverse_rope to fill - and o_rope [N, H, P] fp32. A token with no live slot gives zeros whatever
    m, l and o hold.
    """
    N, NB, H, C = o.shape
    m, l, o = _live(m, l, o, live_blocks, sharers)
    m_all = torch.full((N, H), NEG)
    l_all = torch.zeros(N, H)
    o_all = torch.zeros(N, H, C)
    for b in range(NB):
        m_new = torch.maximum(m_all, m[:, b])
        old, new = torch.exp(m_all - m_new), torch.exp(m[:, b] - m_new)
        l_all = old * l_all + new * l[:, b]
        o_all = old[..., None] * o_all + new[..., None] * o[:, b]
        m_all = m_new
    n = o_all / (l_all + torch.exp(attn_sink - m_all))[..., None]
    n = torch.where((live_slots > 0)[:, None, None], n, 0.0)

    nope = n.bfloat16()
    nope[..., C - rope_dim :] = 0
    return by_group(nope, groups), n[..., C - rope_dim :].contiguous()


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """The error of the merge; its rope columns are left to inverse_rope."""
    n, error = merged(inputs)
    H, C = n.shape[1:]
    P, G = inputs["rope_dim"], inputs["groups"]
    rope_columns = torch.arange(H // G * C) % C >= C - P
    return {
        "o_packed": Bound(
            narrowed(by_group(n, G), by_group(error, G), want["o_packed"].cpu()),
            "fp32 merge of NB blocks, one rounding to bf16: equal, unless they reach a tie",
            left=rope_columns.expand(want["o_packed"].shape),
        ),
        "o_rope": Bound(error[..., C - P :], "fp32 merge of NB blocks, not rounded"),
    }


def merged(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """n in fp64, and how far an fp32 merge may be from it, [N, H, C]."""
    m, l, o = (inputs[name].cpu().double() for name in ("m", "l", "o"))
    m, l, o = _live(m, l, o, inputs["live_blocks"].cpu(), inputs.get("sharers", 1))
    NB = o.shape[1]
    m_all = m.amax(dim=1)
    weight = torch.exp(m - m_all[:, None])
    sink = torch.exp(inputs["attn_sink"].cpu().double() - m_all)
    denominator = ((weight * l).sum(1) + sink)[..., None]
    alive = (inputs["live_slots"].cpu() > 0)[:, None, None]

    def joined(o: torch.Tensor) -> torch.Tensor:
        return torch.where(alive, (weight[..., None] * o).sum(1) / denominator, 0.0)

    # Per block: two exp, each rescaling what came before; then the sink's exp, a sum, a division.
    error = (NB * (2 * EXP_ERROR + 4 * U) + 2 * EXP_ERROR + 4 * U) * joined(o.abs())
    return joined(o), error.nan_to_num(0.0, 0.0)


def by_group(heads: torch.Tensor, groups: int) -> torch.Tensor:
    """[N, H, C] as o_packed has it, [G, N, (H/G)*C]."""
    N, H, C = heads.shape
    return heads.reshape(N, groups, H // groups * C).transpose(0, 1).contiguous()


def _live(
    m: torch.Tensor, l: torch.Tensor, o: torch.Tensor, live_blocks: torch.Tensor, sharers: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The blocks with those behind the live ones as what does not count."""
    blocks = live_blocks.long().repeat_interleave(sharers)[: len(m), None, None]
    dead = torch.arange(m.shape[1])[:, None] >= blocks  # [N, NB, 1]
    return (
        torch.where(dead, NEG, m),
        torch.where(dead, 0.0, l),
        torch.where(dead[..., None], 0.0, o),
    )
