"""Segments 4 and 5 in one: blocks joined, the sink, the rope columns turned back, packed."""

from __future__ import annotations

import torch

from reference.bounds import Bound, Inputs, Outputs, narrowed
from reference.inverse_rope import inverse_rope, turn_back, turned_error
from reference.merge_norm import by_group, merge_norm, merged


def merge_finish(
    m: torch.Tensor,  # [N, NB, H] fp32
    l: torch.Tensor,  # [N, NB, H] fp32
    o: torch.Tensor,  # [N, NB, H, C] fp32
    live_blocks: torch.Tensor,  # [U] int32
    live_slots: torch.Tensor,  # [N] int32
    attn_sink: torch.Tensor,  # [H] fp32
    freqs_cos: torch.Tensor,  # [N, P] bf16
    freqs_sin: torch.Tensor,  # [N, P] bf16
    *,
    groups: int,
    sharers: int = 1,
) -> torch.Tensor:
    """o_packed [G, N, J] bf16: inverse_rope of what merge_norm gives. o_rope between them is fp32
    there too, so that every column is rounded once."""
    o_packed, o_rope = merge_norm(
        m, l, o, live_blocks, live_slots, attn_sink, groups=groups, rope_dim=freqs_cos.shape[1],
        sharers=sharers,
    )  # fmt: skip
    return inverse_rope(o_rope, live_slots, freqs_cos, freqs_sin, o_packed)


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """The error of the merge, in the rope columns carried through a rotation and added to its."""
    cos, sin = (inputs[name].cpu() for name in ("freqs_cos", "freqs_sin"))
    n, error = merged(inputs)  # [N, H, C]
    nope = n.shape[-1] - cos.shape[1]
    turned = turned_error(n[..., nope:], error[..., nope:], cos, sin)
    alive = inputs["live_slots"].cpu()[:, None, None] > 0
    exact = torch.cat([n[..., :nope], turn_back(n[..., nope:], cos, sin)], dim=-1)
    error = torch.cat([error[..., :nope], turned], dim=-1)
    exact, error = (torch.where(alive, each, 0.0) for each in (exact, error))
    G = inputs["groups"]
    return {
        "o_packed": Bound(
            narrowed(by_group(exact, G), by_group(error, G), want["o_packed"].cpu()),
            "fp32 merge of NB blocks and rotation, one rounding to bf16: equal, unless they reach "
            "a tie",
        )
    }
