"""Tiles by what a launch has to do: few tokens, few heads, more cores than tasks."""

from __future__ import annotations

import pytest

from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target, cuda_target
from dsv4_kernels.segments.qk_softmax_pv import QkSoftmaxPvTiles

A2 = Target("npu", "Ascend910B3", 20, 40)
A3 = Target("npu", "Ascend910_9392", 24, 48)


def attention(target: Target, H: int, tokens: int, NB: int = 5) -> tuple[int, int | None]:
    """block_h and heads_per_task."""
    contract = Contract("qk_softmax_pv")
    contract.sizes |= dict(N=tokens, U=tokens, NB=NB, H=H, C=512)
    tiles = QkSoftmaxPvTiles.on(target, contract)
    return tiles.block_h, tiles.heads_per_task


@pytest.mark.parametrize(("H", "block_h"), [(1, 8), (8, 8), (12, 16), (16, 16), (20, 32), (64, 32)])
def test_attention_has_no_more_heads_than_there_are(H, block_h):
    """Of a tile: as many as a power of two holds, from 8 to 32."""
    assert attention(A2, H, tokens=8) == (block_h, None)


@pytest.mark.parametrize(
    ("target", "H", "tokens", "NB", "tiles"),
    [
        (A2, 64, 1, 5, (16, 16)),  # 5 blocks: 20 tasks
        (A3, 64, 1, 5, (16, 16)),  # 20 tasks of 24 cores, and no fewer heads
        (A2, 64, 2, 5, (32, 32)),
        (A2, 64, 4, 5, (32, None)),  # 20 tasks
        (A3, 64, 4, 5, (32, 32)),
        (A2, 64, 8, 1, (16, 16)),  # a window alone
        (A2, 128, 8, 1, (32, 32)),
        (A2, 128, 1, 5, (32, 32)),
        (A2, 48, 1, 5, (16, 16)),
        (A2, 16, 1, 5, (16, None)),
        (A2, 8, 1, 1, (8, None)),
        (cuda_target("sm_90"), 8, 1, 1, (64, 64)),  # what wgmma takes
    ],
)
def test_heads_are_split_until_each_core_has_a_task(target, H, tokens, NB, tiles):
    assert attention(target, H, tokens, NB) == tiles
