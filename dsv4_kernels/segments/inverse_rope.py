"""Turns the rope columns of the attention output back by each token's position.

    even' = even*cos + odd*sin
    odd'  = odd*cos - even*sin        (interleaved pairs)

fp32 in, one rounding to bf16 out, into the last P columns of each head of o_packed. Pairs are
taken apart by reshape and split: on Ascend that is a native de-interleave, where loads of stride
two are not.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import triton
import triton.language as tl

from dsv4_kernels.buffers import BLOCK
from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.cost import moved_of_heads
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.tasks import heads_task, heads_tasks
from dsv4_kernels.segments.tiles import Budget, Core, Tiles, extent

# The halves of a row are whole blocks of 32 bytes, the unit of the unified buffer. Of shorter ones
# the Ascend compiler makes a loop over rows whose calls share a scratch without a barrier, and
# merge_norm's stores are not aligned: races, on the model of the cores.
MIN_ROPE_DIM = 2 * 32 // 4


@dataclass(frozen=True, kw_only=True)
class InverseRopeTiles(Tiles):
    """block_h: heads per task, all of one group: the 8 of FLASH and PRO share one cos/sin load."""

    core: ClassVar[Core] = "AIV"
    block_h: int = extent(8, beside=("P",))

    @classmethod
    def cuda(cls) -> InverseRopeTiles:
        """A warp takes the 8 heads: 8 x 64 fp32 is 16 registers a lane, and FLASH's 512 tasks of
        four groups are 4 warps a multiprocessor."""
        return cls(num_warps=1)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """13 fp32 tiles: doubled load and output, the halves, their products and sums."""
        return Budget(ub=13 * self.block_h * sizes["P"] * 4)


@triton.jit
def pairs_of(x, P: tl.constexpr, BLOCK_H: tl.constexpr):
    """Even and odd columns of [BLOCK_H, P]."""
    return tl.split(tl.reshape(x, (BLOCK_H, P // 2, 2)))


@triton.jit
def turned_back(
    even,  # [BLOCK_H, P/2] fp32
    odd,
    cos_ptr,
    sin_ptr,
    P: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    """Heads' rope columns, the rotation of the row of the tables undone: [BLOCK_H, P]."""
    p = tl.arange(0, P)
    pair = tl.arange(0, P // 2)
    if INTERLEAVED:
        cos, _ = tl.split(tl.reshape(tl.load(cos_ptr + p), (P // 2, 2)))
        sin, _ = tl.split(tl.reshape(tl.load(sin_ptr + p), (P // 2, 2)))
        cos, sin = cos.to(tl.float32)[None, :], sin.to(tl.float32)[None, :]
    else:
        cos = tl.load(cos_ptr + pair).to(tl.float32)[None, :]
        sin = tl.load(sin_ptr + pair).to(tl.float32)[None, :]
    return tl.interleave(even * cos + odd * sin, odd * cos - even * sin)


@kernel
def _inverse_rope_kernel(
    o_rope_ptr,  # [N, H, P] fp32
    live_slots_ptr,  # [N] int32
    freqs_cos_ptr,  # [N, P] bf16 or fp32
    freqs_sin_ptr,  # [N, P] bf16 or fp32
    o_packed_ptr,  # [G, N, J] bf16
    cos_blocks,  # from a token's row to the next, in blocks of BLOCK
    sin_blocks,
    N,
    first_group,
    group_count,
    H: tl.constexpr,
    G: tl.constexpr,
    C: tl.constexpr,
    P: tl.constexpr,
    BLOCK_H: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    HG: tl.constexpr = H // G
    HEAD_TILES: tl.constexpr = (HG + BLOCK_H - 1) // BLOCK_H
    p = tl.arange(0, P)
    for task in range(tl.program_id(0), N * group_count * HEAD_TILES, tl.num_programs(0)):
        t, g, h_local = heads_task(task, first_group, group_count, HEAD_TILES, BLOCK_H)
        in_group = (h_local < HG)[:, None]

        rows_ptr = o_rope_ptr + (t * H + g * HG) * P + h_local[:, None] * P
        x = tl.load(rows_ptr + p[None, :], mask=in_group, other=0.0)
        cos_ptr = freqs_cos_ptr + t * cos_blocks * BLOCK
        sin_ptr = freqs_sin_ptr + t * sin_blocks * BLOCK
        even, odd = pairs_of(x, P, BLOCK_H)
        y = turned_back(even, odd, cos_ptr, sin_ptr, P, INTERLEAVED)
        alive = tl.load(live_slots_ptr + t) > 0
        y = tl.where(alive, y, 0.0)

        packed_rows_ptr = o_packed_ptr + (g.to(tl.int64) * N + t) * HG * C + h_local[:, None] * C
        tl.store(packed_rows_ptr + (C - P + p)[None, :], y.to(tl.bfloat16), mask=in_group)


def _check(contract: Contract) -> None:
    H, P, G, J = (contract[letter] for letter in ("H", "P", "G", "J"))
    contract.power_of_two("P", "o_rope", low=MIN_ROPE_DIM)
    heads = H // G if G and H % G == 0 else 0
    contract.require(
        contract["N"] * G * J == 0 or (heads > 0 and J % heads == 0 and J // heads >= P),
        "o_packed",
        f"[G, N, (H/G)*C] for H={H} and C >= P={P}",
        f"G = {G}, J = {J}",
    )


def _launch(
    contract: Contract, target: Target, tiles: InverseRopeTiles, interleaved: bool = False
) -> Launch:
    N, H, P, G, J = (contract[letter] for letter in ("N", "H", "P", "G", "J"))
    return Launch(
        _inverse_rope_kernel,
        target.grid("vector", heads_tasks(contract, tiles.block_h)),
        ("o_rope", "live_slots", "freqs_cos", "freqs_sin", "o_packed",
         contract["freqs_cos_stride"] // BLOCK, contract["freqs_sin_stride"] // BLOCK, N,
         contract.groups.start, len(contract.groups)),
        dict(
            H=H, G=G, C=J // (H // G), P=P, BLOCK_H=tiles.block_h, INTERLEAVED=interleaved,
            BLOCK=BLOCK, **tiles.options(target),
        ),
    )  # fmt: skip


SEGMENT = Segment(
    "inverse_rope", InverseRopeTiles,
    reads=("o_rope", "live_slots", "freqs_cos", "freqs_sin"), updates=("o_packed",),
    by_groups=True, check=_check, launch=_launch,
    cost=moved_of_heads("rope"),
)  # fmt: skip

# Of tables that servers hold: c0, c0, c1, c1, .. where the first half of a row is c0, c1, ..
INTERLEAVED = replace(SEGMENT, launch=functools.partial(_launch, interleaved=True))


def inverse_rope(
    o_rope: torch.Tensor,  # [N, H, P] fp32
    live_slots: torch.Tensor,  # [N] int32
    freqs_cos: torch.Tensor,  # [N, P] bf16
    freqs_sin: torch.Tensor,  # [N, P] bf16
    o_packed: torch.Tensor,  # [G, N, J] bf16
    *,
    group_range: range | None = None,
    tiles: InverseRopeTiles | None = None,
) -> torch.Tensor:
    """De-rotate o_rope into the rope columns of o_packed, in place (spec segment 5).

    Args:
        o_rope, o_packed: as merge_norm writes them; o_packed's other columns are not touched.
        live_slots: a token with none gets exact zeros, whatever its cos and sin hold.
        freqs_cos, freqs_sin: the tokens' rows of the RoPE tables; the first P/2 columns are used.
        group_range: the groups whose heads to turn back, all if None.

    Returns o_packed. Raises ContractError.
    """
    return SEGMENT(
        tiles, o_rope=o_rope, live_slots=live_slots, freqs_cos=freqs_cos, freqs_sin=freqs_sin,
        group_range=group_range, o_packed=o_packed,
    )  # fmt: skip
