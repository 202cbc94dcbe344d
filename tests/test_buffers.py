"""buffers.py by itself: what the table says beside a shape, and the sizes of shapes."""

from __future__ import annotations

import inspect

import pytest
import torch

import dsv4_kernels
from dsv4_kernels.buffers import (
    ARGUMENTS,
    BLOCK,
    BUFFERS,
    PER_TOKEN,
    RUN_COLUMNS,
    WEIGHTS,
    columns,
    shapes,
    span,
    span_bytes,
)

# Written down a second time: how long a buffer lives, where other memory may lie between its rows,
# and what a caller may want in fp32.
LIFETIMES = {
    "call": {
        "q", "kv_overlay", "cmp_sparse_indices", "cmp_sparse_lens", "num_tokens", "freqs_cos",
        "freqs_sin",
    },
    "cache": {"ori_kv", "ori_block_table", "cmp_kv", "cmp_block_table"},
    "weights": {"attn_sink", "wo_a", "wo_b", "wo_b_scale"},
    "batch": {
        "query_start_loc", "seq_lens", "ori_tables", "cmp_tables", "ori_indices", "cmp_indices",
    },
    "chunk": {"request", "position", "live_blocks", "live_slots", "token_blocks"},
    "output": {"attn_out"},
}  # fmt: skip
APART = dict.fromkeys(("q", "freqs_cos", "freqs_sin"), 16)
APART |= dict.fromkeys(("ori_kv", "cmp_kv", "ori_indices", "cmp_indices"), 1)
WIDER = ("freqs_cos", "freqs_sin", "attn_out")


def test_how_long_a_buffer_lives():
    for lifetime, names in LIFETIMES.items():
        assert {b.name for b in BUFFERS.values() if b.lifetime == lifetime} == names
    others = {*BUFFERS}.difference(*LIFETIMES.values())
    assert {BUFFERS[name].lifetime for name in others} == {"wave"}


def test_where_memory_may_lie_between_rows_and_what_may_be_wider():
    assert {b.name: b.apart for b in BUFFERS.values() if b.apart} == APART
    assert {b.name: b.wider for b in BUFFERS.values() if b.wider} == dict.fromkeys(
        WIDER, torch.float32
    )
    # Ascend's 32 bytes of bf16, and what gather_kv moves at once.
    assert (2 * BLOCK, RUN_COLUMNS) == (32, 16)


def test_the_arguments_are_the_entry_s_in_its_order():
    signature = inspect.signature(dsv4_kernels.prefill_sparse_attn).parameters.values()
    assert tuple(p.name for p in signature if p.kind is not p.KEYWORD_ONLY) == ARGUMENTS
    assert tuple(name for name in ARGUMENTS if name in LIFETIMES["weights"]) == WEIGHTS
    assert PER_TOKEN == (
        "q", "cmp_sparse_indices", "cmp_sparse_lens", "freqs_cos", "freqs_sin",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "strides", "elements"),
    [
        ((3, 2), (2, 1), 6),
        ((3, 2), (5, 1), 12),
        ((1, 2), (5, 1), 2),
        ((3, 2), (0, 1), 2),
        ((), (), 1),
        ((0, 2), (2, 1), 0),
        ((2, 0), (5, 1), 0),
    ],
)
def test_memory_from_the_first_element_to_the_last(shape, strides, elements):
    tensor = torch.zeros(12).as_strided(shape, strides)
    assert (span(tensor), span_bytes(tensor)) == (elements, 4 * elements)


def test_what_has_no_strides_has_no_span():
    assert span_bytes(torch.zeros(3).to_sparse()) == 0


def test_sizes_of_shapes():
    sizes = dict(N=7, T=9, G=2, R=5, D=3, KP=144, C=16)
    assert shapes(("wo_b", "kv", "runs", "tile_count", "request"), sizes) == dict(
        wo_b=[3, 10], kv=[7, 144, 16], runs=[7, 9], tile_count=[], request=[7]
    )
    # Tiles of X tokens behind each other, or as many as a batch's may be, or as the caller has it.
    for more, tiles in (
        (dict(X=1), 7), (dict(X=4), 2), (dict(X=8), 1), (dict(X=4, U=6), 6),
        (dict(X=4, S=1), 2), (dict(X=4, S=1, tiled=1), 3), (dict(X=4, S=3, tiled=1), 7),
    ):  # fmt: skip
        assert shapes(("tile_first",), sizes | more) == dict(tile_first=[tiles])
    assert shapes(("runs",), sizes | dict(KR=2)) == dict(runs=[7, 2])
    assert "U" not in sizes


def test_the_rotated_columns_are_the_last():
    head = [*range(10)]
    assert (head[columns("nope", 10, 4)], head[columns("rope", 10, 4)]) == (head[:6], head[6:])
