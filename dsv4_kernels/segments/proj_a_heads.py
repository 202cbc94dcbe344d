"""proj_a of heads that lie token by token, as attention in lanes leaves them.

    o_r[t, g, r] = sum_j o_heads[t, g, j] * wo_a[g, r, j]     bf16 x bf16 -> fp32, not rounded

The same kernel and the same bits; only the distance from a token's row to the next differs. The
cube stores whole rows of heads: sorted by group on their way out they would pass through a vector
core, and sorted afterwards they would be read and written once more.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from dsv4_kernels.segments import proj_a
from dsv4_kernels.segments.proj_a import ProjATiles, check_proj_a, launch_proj_a


@dataclass(frozen=True, kw_only=True)
class ProjAHeadsTiles(ProjATiles):
    """As proj_a's."""

    @classmethod
    def cuda(cls) -> ProjAHeadsTiles:
        """As proj_a's."""
        own = ProjATiles.cuda()
        return cls(**vars(own))


SEGMENT = replace(
    proj_a.SEGMENT, name="proj_a_heads", tiles=ProjAHeadsTiles, reads=("o_heads", "wo_a"),
    check=functools.partial(check_proj_a, heads="o_heads"),
    launch=functools.partial(launch_proj_a, heads="o_heads"),
)  # fmt: skip


def proj_a_heads(
    o_heads: torch.Tensor,  # [N, G, J] bf16
    wo_a: torch.Tensor,  # [G, R, J] bf16
    *,
    group_range: range | None = None,
    o_r: torch.Tensor | None = None,
    tiles: ProjAHeadsTiles | None = None,
) -> torch.Tensor:
    """`proj_a` of o_heads (spec segment 6).

    Args:
        group_range: the groups to compute, all if None; what other groups have in `o_r` stays.

    Returns o_r [N, G, R] fp32. Raises ContractError.
    """
    return SEGMENT(tiles, o_heads=o_heads, wo_a=wo_a, group_range=group_range, o_r=o_r)
