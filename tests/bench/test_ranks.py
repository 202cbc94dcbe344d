"""Bytes of a rank, by hand."""

import pytest

from bench.ranks import SIZES, rank_cost, table
from dsv4_kernels.dims import PRESETS

FLASH = PRESETS["FLASH"]


@pytest.mark.parametrize("size", SIZES)
def test_a_rank_of_flash_by_hand(size):
    cost = rank_cost(FLASH, size, tokens=128)
    T, C, K, D, R, P = 128, 512, 640, 4096, 1024, 64
    H, G = 64 // size, 8 // size
    assert (cost.heads, cost.groups) == (H, G)
    weights = G * R * (64 // 8 * C) * 2 + D * G * R + D * 4 + H * 4
    assert cost.weights == weights
    # Each token has 512 slots of its own; the ring has 128 rows, the overlay 128.
    kv = min(128 + T + T * 512, T * K) * C * 2
    lookups = (1 + T * 512 // 128) * 4 + T * K * 4 + T * 4 + 2 * T * P * 2
    assert cost.shared == kv + lookups
    attn_out = T * D * (2 if size == 1 else 4)
    assert cost.moved == weights + cost.shared + T * H * C * 2 + attn_out
    # A ring's all-reduce of fp32: every rank sends its part twice, but for its own share.
    assert cost.sent * size == 2 * (size - 1) * T * D * 4
    assert cost.flop * size == rank_cost(FLASH, 1, tokens=128).flop


def test_a_row_for_every_number_of_ranks():
    printed = table("PRO")
    assert [*printed.columns[0].cells] == [*map(str, SIZES)]
    assert [*printed.columns[3].cells] == ["240.0", "120.0", "60.0", "30.0"]
