"""Attention in lanes, first: scores of the live blocks."""

from __future__ import annotations

import torch

from reference.bounds import Bound, Inputs, Outputs, sum_error
from reference.resolve_slots import BLOCK_COLUMNS


def qk(
    q: torch.Tensor,  # [N, H, C] bf16
    kv: torch.Tensor,  # [U, KP, C] bf16
    live_blocks: torch.Tensor,  # [U] int32
    *,
    sharers: int = 1,
) -> torch.Tensor:
    """scores [N, H, KP] fp32 = q . kv^T, the nearest to the exact sum; anything behind the live
    blocks."""
    return (q.double() @ of_tokens(kv, sharers, len(q)).double().transpose(1, 2)).float()


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """A dot product in any order."""
    q, kv = (inputs[name].cpu().double().abs() for name in ("q", "kv"))
    N, _, C = q.shape
    X = inputs.get("sharers", 1)
    magnitude = q @ of_tokens(kv, X, N).transpose(1, 2)
    left = behind(inputs["live_blocks"].cpu(), X, N, kv.shape[1])[:, None].expand(magnitude.shape)
    because = "a dot product of C terms in any order"
    return {"scores": Bound(sum_error(C, magnitude), because, left=left)}


def of_tokens(shared: torch.Tensor, sharers: int, N: int) -> torch.Tensor:
    """What tiles share, a copy for each of N tokens."""
    return shared.repeat_interleave(sharers, dim=0)[:N]


def behind(live_blocks: torch.Tensor, sharers: int, N: int, KP: int) -> torch.Tensor:
    """[N, KP] bool: columns behind the token's live blocks."""
    live = of_tokens(live_blocks.long() * BLOCK_COLUMNS, sharers, N)
    return torch.arange(KP) >= live[:, None]
