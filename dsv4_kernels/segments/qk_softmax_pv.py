"""Attention of one token to one block of 128 columns, all heads sharing one K = V row (MQA).

    S[h, k] = (sum_c q[t, h, c] * kv[t, k, c]) * scale + bias[t, k]
    m[h] = max_k S,  P = exp(S - m),  l[h] = sum_k P  (from fp32 P),  o[h, :] = bf16(P) . kv

Blocks are independent and merge_norm joins them: an online softmax inside this kernel would not
save the traffic of o on A2/A3, where the rescale sits on the vector core and every block's P.V
crosses L0C -> GM -> UB anyway.

On Ascend's cube P . kv of C = 512 is added up in fp32 by parts of 32 columns (half of L0B is 32 KiB
= 32 x 512 bf16), where the CPU path adds up all 128 exactly: o differs by fp32 rounding alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import triton
import triton.language as tl

from dsv4_kernels.buffers import BLOCK
from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.cost import Cost, attention_flop, moved
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.slots import (
    BLOCK_COLUMNS,
    bind_sharers,
    check_whole_blocks,
    tile_pointers,
)
from dsv4_kernels.segments.tasks import shared_rows, tile_count
from dsv4_kernels.segments.tiles import FRACTAL, KIB, Budget, Core, Tiles, extent

FEWEST_HEADS = 8  # of a tile: four for each vector core, and half of what the cube multiplies


@dataclass(frozen=True, kw_only=True)
class QkSoftmaxPvTiles(Tiles):
    """block_h: heads at a time. 32 x 512 fp32 of o is 64 KiB of L0C's 128, next to 16 KiB of S.
    heads_per_task: heads that share a load of KV, in steps of block_h; None is all of them."""

    core: ClassVar[Core] = "MIX"
    block_h: int = extent(32, low=FEWEST_HEADS, beside=("C", BLOCK_COLUMNS))
    heads_per_task: int | None = extent(None, multiple_of="block_h")

    @classmethod
    def cuda(cls) -> QkSoftmaxPvTiles:
        """64 heads, the least that wgmma takes, and no others in the task: KV is 128 x 512 bf16 =
        128 KiB, q 64 KiB, together 192 of 227; o passes through the same 192 KiB to its stores,
        and a second 64 heads would want KV to stay (256 KiB). PRO reads its KV twice, the second
        time from L2. A rank of fewer heads keeps the 64: bound by its KV, it multiplies zeros.

        8 warps: 64 x 512 fp32 is 128 accumulator registers a thread, of 255. 4 warps spill, and so
        do 16, which have at most 128 each. One stage: a second KV does not fit."""
        return cls(block_h=64, heads_per_task=64, num_warps=8, num_stages=1)

    def fitted(self, contract: Contract, target: Target) -> QkSoftmaxPvTiles:
        """A rank of 8 or 16 heads has no tile with more. Where blocks of columns are fewer than
        cores, their heads are split until each core has a task, down to the cube's 16: one token of
        FLASH (5 blocks of a CSA layer) is 20 tasks of 16 heads, whose busiest core moves 0.2 MiB
        instead of 0.4; what it costs is KV loaded four times, from L2."""
        if target.kind == "cuda":
            return self
        heads = triton.next_power_of_2(contract["H"])
        of_heads = contract["U"] * contract["NB"]
        task_h = heads
        while task_h > FRACTAL and of_heads * triton.cdiv(contract["H"], task_h) < (
            target.cube_programs
        ):
            task_h //= 2
        block_h = max(min(self.block_h, task_h), FEWEST_HEADS)
        return replace(self, block_h=block_h, heads_per_task=None if task_h == heads else task_h)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """Each vector core of the pair has half the rows of S, and each of its two reductions wants
        half of that again. The cube takes 16 rows for fewer."""
        C, rows = sizes["C"], max(self.block_h, FRACTAL)
        return Budget(
            ub=self.block_h // 2 * BLOCK_COLUMNS * 4 * 2 + BLOCK_COLUMNS * 4 + 3 * KIB // 4,
            l1=2 * 2 * (rows * C + BLOCK_COLUMNS * C + rows * BLOCK_COLUMNS),
            l0c=4 * rows * (BLOCK_COLUMNS + C),
        )


@kernel
def _qk_softmax_pv_kernel(
    q_ptr,  # [N, H, C] bf16
    kv_ptr,  # [U, KP, C] bf16
    bias_ptr,  # [N, KP] fp32
    live_blocks_ptr,  # [U] int32
    tile_first_ptr,  # [U] int32; of a batch, as the next two, else None
    tile_tokens_ptr,  # [U] int32
    tile_count_ptr,  # int32
    m_ptr,  # [N, NB, H] fp32
    l_ptr,  # [N, NB, H] fp32
    o_ptr,  # [N, NB, H, C] fp32
    softmax_scale,
    q_blocks,  # from a token's queries to the next, in blocks of BLOCK
    N,
    NB,
    heads,
    H: tl.constexpr,
    C: tl.constexpr,
    X: tl.constexpr,
    KV_STAYS: tl.constexpr,
    TASK_H: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # One task: TASK_H heads of one block of one token, KV loaded once for them. What looks as if it
    # could be known at compile time keeps the Ascend compiler from giving something up: without a
    # loop inside of KV's load it does not double-buffer KV in L1, and one vector core of a pair
    # does all the storing where the mask of the heads folds away.
    HEAD_TASKS: tl.constexpr = (H + TASK_H - 1) // TASK_H
    c = tl.arange(0, C)
    k = tl.arange(0, BLOCK_K)
    U = tile_count(N, tile_count_ptr, X)
    for task in range(tl.program_id(0), U * NB * HEAD_TASKS, tl.num_programs(0)):
        tile = task // HEAD_TASKS  # of [U * NB, ...]
        u, b = tile // NB, tile % NB
        live = tl.minimum(b + 1, tl.load(live_blocks_ptr + u))
        for _ in range(b, live):  # once or, for a dead block, never
            kv = tl.load(kv_ptr + tile.to(tl.int64) * BLOCK_K * C + k[:, None] * C + c[None, :])
            first, tokens = shared_rows(u, N, tile_first_ptr, tile_tokens_ptr, 1, X)
            for x in range(0, tokens if KV_STAYS else 1):
                t = (first + x).to(tl.int64)
                block = t * NB + b
                bias = tl.load(bias_ptr + block * BLOCK_K + k)
                for h0 in range(0, TASK_H, BLOCK_H):
                    h = task % HEAD_TASKS * TASK_H + h0 + tl.arange(0, BLOCK_H)
                    in_heads = h < (heads if KV_STAYS else H)  # CUDA has no register for it
                    q_rows_ptr = q_ptr + t * q_blocks * BLOCK + h[:, None] * C
                    q = tl.load(q_rows_ptr + c[None, :], mask=in_heads[:, None], other=0.0)

                    scores = tl.dot(q, tl.trans(kv)) * softmax_scale + bias[None, :]
                    m = tl.max(scores, axis=1)
                    p = tl.exp(scores - m[:, None])
                    l = tl.sum(p, axis=1)
                    o = tl.dot(p.to(tl.bfloat16), kv)

                    rows = block * H + h
                    tl.store(m_ptr + rows, m, mask=in_heads)
                    tl.store(l_ptr + rows, l, mask=in_heads)
                    o_rows_ptr = o_ptr + block * H * C + h[:, None] * C
                    tl.store(o_rows_ptr + c[None, :], o, mask=in_heads[:, None])


def _check(contract: Contract, softmax_scale: float | None = None, sharers: int = 1) -> None:
    bind_sharers(contract, sharers)
    check_whole_blocks(contract, "kv")
    contract.power_of_two("C", "q", low=16)  # the cube multiplies fractals of 16
    bind_scale(contract, softmax_scale)
    contract.sizes["NB"] = contract["KP"] // BLOCK_COLUMNS


def bind_scale(contract: Contract, softmax_scale: float | None) -> None:
    """Binds the factor on the scores, C**-0.5 if None."""
    is_number = isinstance(softmax_scale, int | float) and not isinstance(softmax_scale, bool)
    contract.require(
        softmax_scale is None or is_number, "softmax_scale", "a number", repr(softmax_scale)
    )
    scale = contract["C"] ** -0.5 if softmax_scale is None else float(softmax_scale)
    contract.sizes["softmax_scale"] = scale


def _launch(contract: Contract, target: Target, tiles: QkSoftmaxPvTiles) -> Launch:
    U, N, NB, H, C = (contract[letter] for letter in ("U", "N", "NB", "H", "C"))
    X = contract["X"]
    # KV that stays behind its last use, 128 KiB, does not fit beside o on its way to the stores.
    kv_stays = target.kind != "cuda"
    fits = X == 1 or kv_stays
    contract.require(fits, "sharers", "1 on CUDA, whose shared memory holds no more", str(X))
    task_h = H if tiles.heads_per_task is None else tiles.heads_per_task
    return Launch(
        _qk_softmax_pv_kernel,
        target.grid("cube", U * NB * triton.cdiv(H, task_h)),
        ("q", "kv", "bias", "live_blocks", *tile_pointers(contract), "m", "l", "o",
         contract["softmax_scale"], contract["q_stride"] // BLOCK, N, NB, H),
        dict(
            H=H, C=C, X=X, KV_STAYS=kv_stays, TASK_H=task_h, BLOCK_H=tiles.block_h,
            BLOCK_K=BLOCK_COLUMNS, BLOCK=BLOCK, **tiles.options(target),
        ),
    )  # fmt: skip


def _cost(tensors: Mapping[str, torch.Tensor], live_keys: int | None = None) -> Cost:
    _, H, C = tensors["q"].shape
    keys = tensors["bias"].numel() if live_keys is None else live_keys
    return Cost(moved(tensors).bytes, bf16_flop=attention_flop(keys, H, C))


SEGMENT = Segment(
    "qk_softmax_pv", QkSoftmaxPvTiles, reads=("q", "kv", "bias", "live_blocks"),
    writes=("m", "l", "o"), numbers=("softmax_scale", "sharers"), check=_check, launch=_launch,
    cost=_cost,
    rounded={"o": 2**-20},  # four sums of 32 columns instead of one of 128
)  # fmt: skip


def qk_softmax_pv(
    q: torch.Tensor,  # [N, H, C] bf16
    kv: torch.Tensor,  # [U, KP, C] bf16
    bias: torch.Tensor,  # [N, KP] fp32
    live_blocks: torch.Tensor,  # [U] int32
    *,
    softmax_scale: float | None = None,
    sharers: int = 1,
    m: torch.Tensor | None = None,
    l: torch.Tensor | None = None,
    o: torch.Tensor | None = None,
    tiles: QkSoftmaxPvTiles | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores, softmax and P.V of every block of 128 columns (spec segment 3).

    Args:
        kv, bias: as gather_kv and resolve_slots write them; KP is a multiple of 128, NB = KP / 128.
        live_blocks: how many blocks of a tile of X tokens to attend to; later ones are not touched.
        softmax_scale: factor on the scores; default C**-0.5.
        sharers: X, as resolve_slots takes it. A row of KV that is NaN or Inf reaches all X tokens.

    Returns (m [N, NB, H], l [N, NB, H], o [N, NB, H, C]), fp32: row maximum, row sum and
    unnormalised output per block. Raises ContractError.
    """
    return SEGMENT(
        tiles, q=q, kv=kv, bias=bias, live_blocks=live_blocks, softmax_scale=softmax_scale,
        sharers=sharers, m=m, l=l, o=o,
    )  # fmt: skip
