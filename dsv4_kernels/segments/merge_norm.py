"""Joins the blocks of qk_softmax_pv and normalises, with the sink in the denominator only.

    m' = max(m, mb),  a = exp(m - m'),  b = exp(mb - m'),  l = a*l + b*lb,  o = a*o + b*ob
    n[t, h, :] = o / (l + exp(sink[h] - m))

Blocks are taken in ascending order, so the bits do not depend on the schedule. The nope columns of
n go to o_packed[g, t, (h mod H/G)*C + c], g = h div (H/G), where proj_a reads them; the rope
columns stay fp32 for inverse_rope, which rounds once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import triton
import triton.language as tl

from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.cost import moved_of_heads
from dsv4_kernels.segments.inverse_rope import MIN_ROPE_DIM
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.slots import NEG, bind_sharers
from dsv4_kernels.segments.tasks import heads_task, heads_tasks
from dsv4_kernels.segments.tiles import KIB, Budget, Core, Tiles, extent


@dataclass(frozen=True, kw_only=True)
class MergeNormTiles(Tiles):
    """block_h: heads per task, all of one group. 8 x 512 fp32 is 16 KiB; accumulator, doubled load,
    doubled outputs and the intermediates of a step are nine such tiles, of 192 KiB."""

    core: ClassVar[Core] = "AIV"
    block_h: int = extent(8, beside=("C",))

    @classmethod
    def cuda(cls) -> MergeNormTiles:
        """Half of a group's heads: 4 x 512 fp32 is 16 accumulator registers a thread and as many
        for the load. Nine programs are resident, each with 8 KiB of o under way."""
        return cls(block_h=4)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """Nine fp32 tiles, and 2 KiB for what there is one of per head."""
        return Budget(ub=9 * self.block_h * sizes["C"] * 4 + 2 * KIB)


@triton.jit
def joined(
    m,  # [BLOCK_H] fp32, of the blocks so far; l likewise
    l,
    m_ptr,  # [H] fp32, of one more block; l_ptr likewise
    l_ptr,
    h,  # [BLOCK_H]
    there,  # which of the heads there are
):
    """With one block more: m, l, and what the o of those before it and its own are scaled by."""
    m_block = tl.load(m_ptr + h, mask=there, other=0.0)
    l_block = tl.load(l_ptr + h, mask=there, other=0.0)
    # Not tl.maximum, whose care for NaN is seven instructions: a NaN is in the block's o anyway.
    m_new = tl.where(m_block > m, m_block, m)
    old = tl.exp(m - m_new)
    new = tl.exp(m_block - m_new)
    return m_new, old * l + new * l_block, old, new


@triton.jit
def with_sink(m, l, attn_sink_ptr, h, there):
    """What the heads' o is divided by, [BLOCK_H] fp32."""
    sink = tl.load(attn_sink_ptr + h, mask=there, other=0.0)
    return l + tl.exp(sink - m)


@kernel
def _merge_norm_kernel(
    m_ptr,  # [N, NB, H] fp32
    l_ptr,  # [N, NB, H] fp32
    o_ptr,  # [N, NB, H, C] fp32
    live_blocks_ptr,  # [U] int32
    live_slots_ptr,  # [N] int32
    attn_sink_ptr,  # [H] fp32
    o_packed_ptr,  # [G, N, J] bf16
    o_rope_ptr,  # [N, H, P] fp32
    N,
    NB,
    first_group,
    group_count,
    H: tl.constexpr,
    G: tl.constexpr,
    C: tl.constexpr,
    P: tl.constexpr,
    LOWEST: tl.constexpr,
    X: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    HG: tl.constexpr = H // G
    HEAD_TILES: tl.constexpr = (HG + BLOCK_H - 1) // BLOCK_H
    c = tl.arange(0, C)
    for task in range(tl.program_id(0), N * group_count * HEAD_TILES, tl.num_programs(0)):
        t, g, h_local = heads_task(task, first_group, group_count, HEAD_TILES, BLOCK_H)
        in_group = h_local < HG
        h = g * HG + h_local

        blocks = tl.load(live_blocks_ptr + t // X)
        m = tl.full((BLOCK_H,), LOWEST, tl.float32)
        l = tl.zeros((BLOCK_H,), tl.float32)
        o = tl.zeros((BLOCK_H, C), tl.float32)
        for b in range(tl.minimum(blocks, NB)):
            block = t * NB + b
            m, l, old, new = joined(m, l, m_ptr + block * H, l_ptr + block * H, h, in_group)
            o_rows_ptr = o_ptr + block * H * C + h[:, None] * C
            o_block = tl.load(o_rows_ptr + c[None, :], mask=in_group[:, None], other=0.0)
            o = old[:, None] * o + new[:, None] * o_block

        denominator = with_sink(m, l, attn_sink_ptr, h, in_group)
        alive = tl.load(live_slots_ptr + t) > 0
        n = tl.where(alive, o / denominator[:, None], 0.0)

        packed_rows_ptr = o_packed_ptr + (g.to(tl.int64) * N + t) * HG * C + h_local[:, None] * C
        nope = in_group[:, None] & (c < C - P)[None, :]
        tl.store(packed_rows_ptr + c[None, :], n.to(tl.bfloat16), mask=nope)
        rope = in_group[:, None] & (c >= C - P)[None, :]
        rope_rows_ptr = o_rope_ptr + t * H * P + h[:, None] * P
        tl.store(rope_rows_ptr + (c - (C - P))[None, :], n, mask=rope)


def check_blocks(contract: Contract, groups: int, sharers: int) -> None:
    """Of blocks of heads that are packed by group; binds G, J and the letters of sharers."""
    bind_sharers(contract, sharers)
    NB, H, C = (contract[letter] for letter in ("NB", "H", "C"))
    contract.require(NB >= 1, "m", "[N, NB, H] with NB >= 1", "NB = 0")
    contract.power_of_two("C", "o")
    groups = contract.integer("groups", groups, 1)
    contract.require(H % groups == 0, "groups", f"a divisor of H={H}", str(groups))
    contract.sizes.update(G=groups, J=H // groups * C)


def _check(contract: Contract, groups: int, rope_dim: int, sharers: int = 1) -> None:
    check_blocks(contract, groups, sharers)
    contract.sizes["P"] = contract.integer("rope_dim", rope_dim, MIN_ROPE_DIM, contract["C"])
    contract.power_of_two("P", "rope_dim")


def _launch(contract: Contract, target: Target, tiles: MergeNormTiles) -> Launch:
    N, NB, H, G, C, P = (contract[letter] for letter in ("N", "NB", "H", "G", "C", "P"))
    return Launch(
        _merge_norm_kernel,
        target.grid("vector", heads_tasks(contract, tiles.block_h)),
        ("m", "l", "o", "live_blocks", "live_slots", "attn_sink", "o_packed", "o_rope", N, NB,
         contract.groups.start, len(contract.groups)),
        dict(
            H=H, G=G, C=C, P=P, LOWEST=NEG, X=contract["X"], BLOCK_H=tiles.block_h,
            **tiles.options(target),
        ),
    )  # fmt: skip


SEGMENT = Segment(
    "merge_norm", MergeNormTiles, reads=("m", "l", "o", "live_blocks", "live_slots", "attn_sink"),
    writes=("o_packed", "o_rope"), numbers=("groups", "rope_dim", "sharers"), by_groups=True,
    check=_check, launch=_launch, cost=moved_of_heads("nope"),
)  # fmt: skip


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
    group_range: range | None = None,
    o_packed: torch.Tensor | None = None,
    o_rope: torch.Tensor | None = None,
    tiles: MergeNormTiles | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Online-softmax merge over blocks, then the sink (spec segment 4).

    Args:
        m, l, o: as qk_softmax_pv writes them.
        live_blocks: how many blocks of a tile of X tokens to join, as resolve_slots writes it.
        live_slots: a token with none gets exact zeros, whatever m, l and o hold.
        attn_sink: unscaled logit per head; -inf is plain softmax, +inf gives zeros.
        groups: G, a divisor of H.
        rope_dim: P, a power of two below C.
        sharers: X, as resolve_slots takes it.
        group_range: the groups whose heads to merge, all if None; others' outputs stay.

    Returns (o_packed [G, N, J] bf16 without its rope columns, which inverse_rope writes;
    o_rope [N, H, P] fp32). Raises ContractError.
    """
    return SEGMENT(
        tiles, m=m, l=l, o=o, live_blocks=live_blocks, live_slots=live_slots, attn_sink=attn_sink,
        groups=groups, rope_dim=rope_dim, sharers=sharers, group_range=group_range,
        o_packed=o_packed, o_rope=o_rope,
    )  # fmt: skip
