"""Tiles by what a launch has to do: few tokens, few heads, more cores than tasks."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from against import run_kernel
from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target, cuda_target
from dsv4_kernels.segments.proj_a import ProjATiles
from dsv4_kernels.segments.proj_b import ProjBTiles
from dsv4_kernels.segments.qk_softmax_pv import QkSoftmaxPvTiles
from dsv4_kernels.segments.tasks import (
    heads_tasks,
    matmul_tasks,
    rows_of_a_task,
    rows_tasks,
    tile_of_few,
)

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


def matmuls(target: Target, groups: int, tokens: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The tiles of FLASH's proj_a and proj_b, for so many groups of a launch."""
    contract = Contract("proj_a")
    contract.sizes |= dict(N=tokens, G=groups, R=1024, D=4096, J=4096)
    contract.group_range(None)
    a, b = ProjATiles.on(target, contract), ProjBTiles.on(target, contract)
    return (a.block_t, a.block_r), (b.block_t, b.block_d)


@pytest.mark.parametrize(
    ("target", "groups", "tokens", "tiles"),
    [
        (A2, 4, 8, ((16, 128), (16, 128))),  # 128 tasks of proj_b, 7 rounds of 136 rows
        (A3, 4, 8, ((16, 128), (16, 256))),
        (A2, 2, 8, ((16, 128), (16, 256))),
        (A2, 1, 8, ((16, 128), (16, 256))),
        (A2, 4, 1, ((16, 128), (16, 128))),
        (A2, 4, 17, ((32, 128), (32, 128))),
        (A2, 4, 64, ((64, 128), (64, 256))),
        (A2, 4, 65, ((128, 128), (128, 128))),
        (A2, 4, 128, ((128, 128), (128, 128))),
        (cuda_target("sm_90"), 4, 8, ((64, 64), (128, 128))),
    ],
)
def test_few_tokens_have_one_tile_and_the_busiest_core_the_fewest_rows(
    target, groups, tokens, tiles
):
    assert matmuls(target, groups, tokens) == tiles


def test_every_tile_of_a_launch_s_groups_is_a_task():
    """The last of a row, a column or a group is one too."""
    contract = Contract("op", N=130, G=4, H=20, U=7, X=3)
    contract.group_range(range(1, 3))
    assert matmul_tasks(contract, 300, 128, 256) == 2 * 2 * 2
    assert heads_tasks(contract, 2) == 130 * 2 * 3
    assert rows_tasks(contract, 16) == 7 * 4


def test_a_task_has_the_rows_that_share_kv_in_whole_fractals():
    rows = [rows_of_a_task(dict(X=x, H=h), 64) for x, h in ((1, 8), (1, 20), (4, 12), (8, 64))]
    assert rows == [16, 32, 64, 64]


def test_of_two_widths_that_cost_the_same_the_wider_is_taken():
    contract = Contract("op", N=64, G=1)
    contract.group_range(None)
    assert 3 * (64 + 256) == 5 * (64 + 128)  # the rounds of two cores over 1280 columns
    assert tile_of_few(contract, 1280, cores=2) == (64, 256)


@pytest.mark.parametrize("tokens", [1, 8, 16, 17, 33, 64])
def test_a_token_has_the_same_bytes_in_every_capacity(tokens, generator, device, poison):
    for name in ("proj_a", "proj_b"):
        if name == "proj_a":
            inputs = dict(
                o_packed=torch.randn(2, 130, 300, generator=generator).bfloat16().to(device),
                wo_a=torch.randn(2, 300, 300, generator=generator).bfloat16().to(device),
            )
            few = inputs | dict(o_packed=inputs["o_packed"][:, :tokens].contiguous())
        else:
            draw = partial(torch.randint, -127, 128, dtype=torch.int8, generator=generator)
            inputs = dict(codes=draw((130, 2, 80)).to(device), wo_b=draw((300, 160)).to(device))
            few = inputs | dict(codes=inputs["codes"][:tokens])
        (want,) = run_kernel(name, inputs, poison).values()
        (got,) = run_kernel(name, few, poison).values()
        assert torch.equal(got, want[:tokens] if name == "proj_a" else want[:, :tokens])
