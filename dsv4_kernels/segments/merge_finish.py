"""Joins the blocks of qk_softmax_pv, turns the rope columns back, and packs: the fused form's tail.

    n[t, h, :] = merge_norm's o / (l + exp(sink[h] - m)), its last P columns turned back
    o_packed[g, t, (h mod H/G)*C + c] = bf16(n[h, c]),  g = h div (H/G)

merge_norm and inverse_rope in one, with their bytes: what is o_rope between them stays on the core,
4 MiB of FLASH's wave. The rope columns of every block are taken apart before they are scaled, for
which the Ascend compiler has an instruction; a scaled tile it takes apart pair by pair. They are
loads of their own, since a tile's last columns cannot be had by themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import triton.language as tl

from dsv4_kernels.buffers import BLOCK
from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.inverse_rope import MIN_ROPE_DIM, pairs_of, turned_back
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.merge_norm import check_blocks, joined, with_sink
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.slots import NEG
from dsv4_kernels.segments.tasks import heads_task, heads_tasks
from dsv4_kernels.segments.tiles import KIB, Budget, Core, Tiles, extent


@dataclass(frozen=True, kw_only=True)
class MergeFinishTiles(Tiles):
    """block_h: heads per task, all of one group, as merge_norm has them."""

    core: ClassVar[Core] = "AIV"
    block_h: int = extent(8, beside=("C",))

    @classmethod
    def cuda(cls) -> MergeFinishTiles:
        """Half of a group's heads: 4 x 512 fp32 is 16 accumulator registers a thread and as many
        for the load."""
        return cls(block_h=4)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """Nine fp32 tiles as in merge_norm, nine of rope columns, and 2 KiB for what there is one
        of per head."""
        return Budget(ub=9 * self.block_h * (sizes["C"] + sizes["P"]) * 4 + 2 * KIB)


@kernel
def _merge_finish_kernel(
    m_ptr,  # [N, NB, H] fp32
    l_ptr,  # [N, NB, H] fp32
    o_ptr,  # [N, NB, H, C] fp32
    live_blocks_ptr,  # [U] int32
    live_slots_ptr,  # [N] int32
    attn_sink_ptr,  # [H] fp32
    freqs_cos_ptr,  # [N, P] bf16 or fp32
    freqs_sin_ptr,  # [N, P] bf16 or fp32
    o_packed_ptr,  # [G, N, J] bf16
    cos_blocks,  # from a token's row to the next, in blocks of BLOCK
    sin_blocks,
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
    INTERLEAVED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    HG: tl.constexpr = H // G
    HEAD_TILES: tl.constexpr = (HG + BLOCK_H - 1) // BLOCK_H
    c = tl.arange(0, C)
    p = tl.arange(0, P)
    for task in range(tl.program_id(0), N * group_count * HEAD_TILES, tl.num_programs(0)):
        t, g, h_local = heads_task(task, first_group, group_count, HEAD_TILES, BLOCK_H)
        in_group = h_local < HG
        h = g * HG + h_local
        nope = in_group[:, None] & (c < C - P)[None, :]
        rope = in_group[:, None]

        m = tl.full((BLOCK_H,), LOWEST, tl.float32)
        l = tl.zeros((BLOCK_H,), tl.float32)
        o = tl.zeros((BLOCK_H, C), tl.float32)
        even = tl.zeros((BLOCK_H, P // 2), tl.float32)
        odd = tl.zeros((BLOCK_H, P // 2), tl.float32)
        blocks = tl.load(live_blocks_ptr + t // X)
        for b in range(tl.minimum(blocks, NB)):
            block = t * NB + b
            m, l, old, new = joined(m, l, m_ptr + block * H, l_ptr + block * H, h, in_group)
            o_rows_ptr = o_ptr + block * H * C + h[:, None] * C
            o_block = tl.load(o_rows_ptr + c[None, :], mask=nope, other=0.0)
            o = old[:, None] * o + new[:, None] * o_block
            x = tl.load(o_rows_ptr + (C - P + p)[None, :], mask=rope, other=0.0)
            even_block, odd_block = pairs_of(x, P, BLOCK_H)
            even = old[:, None] * even + new[:, None] * even_block
            odd = old[:, None] * odd + new[:, None] * odd_block

        denominator = with_sink(m, l, attn_sink_ptr, h, in_group)[:, None]
        alive = tl.load(live_slots_ptr + t) > 0
        packed_rows_ptr = o_packed_ptr + (g.to(tl.int64) * N + t) * HG * C + h_local[:, None] * C
        n = tl.where(alive, o / denominator, 0.0)
        tl.store(packed_rows_ptr + c[None, :], n.to(tl.bfloat16), mask=nope)
        cos_ptr = freqs_cos_ptr + t * cos_blocks * BLOCK
        sin_ptr = freqs_sin_ptr + t * sin_blocks * BLOCK
        even, odd = even / denominator, odd / denominator
        y = tl.where(alive, turned_back(even, odd, cos_ptr, sin_ptr, P, INTERLEAVED), 0.0)
        tl.store(packed_rows_ptr + (C - P + p)[None, :], y.to(tl.bfloat16), mask=rope)


def _check(contract: Contract, groups: int, sharers: int = 1) -> None:
    check_blocks(contract, groups, sharers)
    C, P = contract["C"], contract["P"]
    contract.power_of_two("P", "freqs_cos", low=MIN_ROPE_DIM)
    contract.require(P <= C, "freqs_cos", f"[N, P] with P <= C={C}", f"P = {P}")


def _launch(
    contract: Contract, target: Target, tiles: MergeFinishTiles, interleaved: bool = False
) -> Launch:
    N, NB, H, G, C, P, X = (contract[letter] for letter in ("N", "NB", "H", "G", "C", "P", "X"))
    return Launch(
        _merge_finish_kernel,
        target.grid("vector", heads_tasks(contract, tiles.block_h)),
        ("m", "l", "o", "live_blocks", "live_slots", "attn_sink", "freqs_cos", "freqs_sin",
         "o_packed", contract["freqs_cos_stride"] // BLOCK, contract["freqs_sin_stride"] // BLOCK,
         N, NB, contract.groups.start, len(contract.groups)),
        dict(
            H=H, G=G, C=C, P=P, LOWEST=NEG, X=X, BLOCK_H=tiles.block_h, INTERLEAVED=interleaved,
            BLOCK=BLOCK, **tiles.options(target),
        ),
    )  # fmt: skip


SEGMENT = Segment(
    "merge_finish", MergeFinishTiles,
    reads=(
        "m", "l", "o", "live_blocks", "live_slots", "attn_sink", "freqs_cos", "freqs_sin",
    ),
    writes=("o_packed",), numbers=("groups", "sharers"), by_groups=True, check=_check,
    launch=_launch,
)  # fmt: skip

# Of tables that servers hold, as inverse_rope's.
INTERLEAVED = replace(SEGMENT, launch=functools.partial(_launch, interleaved=True))


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
    group_range: range | None = None,
    o_packed: torch.Tensor | None = None,
    tiles: MergeFinishTiles | None = None,
) -> torch.Tensor:
    """Online-softmax merge over blocks, the sink and inverse RoPE (spec segments 4 and 5).

    Args:
        m, l, o: as qk_softmax_pv writes them.
        live_blocks: how many blocks of a tile of X tokens to join, as resolve_slots writes it.
        live_slots: a token with none gets exact zeros, whatever the others hold of it.
        attn_sink: unscaled logit per head; -inf is plain softmax, +inf gives zeros.
        freqs_cos, freqs_sin: the tokens' rows of the RoPE tables; the first P/2 columns are used.
        groups: G, a divisor of H.
        sharers: X, as resolve_slots takes it.
        group_range: the groups whose heads to write, all if None; others' stay.

    Returns o_packed [G, N, J] bf16. Raises ContractError.
    """
    return SEGMENT(
        tiles, m=m, l=l, o=o, live_blocks=live_blocks, live_slots=live_slots, attn_sink=attn_sink,
        freqs_cos=freqs_cos, freqs_sin=freqs_sin, groups=groups, sharers=sharers,
        group_range=group_range, o_packed=o_packed,
    )  # fmt: skip
