"""The arithmetic of costs, against the figures of the specification and by hand."""

import math

import pytest
import torch

from dsv4_kernels.chains.pipeline import PIPELINE, SEGMENTS, workspace
from dsv4_kernels.costs import chain_cost, segment_cost
from dsv4_kernels.dims import PRESETS, Dims
from dsv4_kernels.inputs.prefill import make_inputs

T, KP, PAGES = 128, 384, 64  # the specification counts three blocks of 128 columns
MIB = 2**20
TINY = Dims(
    heads=4, head_dim=32, rope_dim=16, groups=2, o_lora_rank=8, hidden=24,
    window=8, index_topk=8, page_rows=8,
)  # fmt: skip


def meta_tensors(segment, dims):
    """Inputs and outputs of a segment as the chain makes them, without memory."""
    node = SEGMENTS[segment]
    H, C, P, G, R = (
        dims.heads, dims.head_dim, dims.rope_dim, dims.groups, dims.o_lora_rank
    )  # fmt: skip
    letters = dict(
        N=T, KP=KP, NB=KP // 128, H=H, C=C, P=P, G=G, R=R, J=dims.group_inputs, D=dims.hidden
    )
    bf16, int32 = torch.bfloat16, torch.int32
    made = workspace(PIPELINE, letters) | {
        "q": ([T, H, C], bf16),
        "ori_kv": ([1, 128, C], bf16),
        "ori_block_table": ([1], int32),
        "kv_overlay": ([T, C], bf16),
        "cmp_kv": ([PAGES, 128, C], bf16),
        "cmp_block_table": ([PAGES], int32),
        "cmp_sparse_indices": ([T, KP], int32),
        "cmp_sparse_lens": ([T], int32),
        "attn_sink": ([H], torch.float32),
        "freqs_cos": ([T, P], bf16),
        "freqs_sin": ([T, P], bf16),
        "wo_a": ([G, R, dims.group_inputs], bf16),
        "wo_b": ([dims.hidden, G * R], torch.int8),
        "wo_b_scale": ([dims.hidden], torch.float32),
        "row_scale": ([T], torch.float32),
        "attn_out": ([T, dims.hidden], bf16),
    }
    return {
        name: torch.empty(made[name][0], dtype=made[name][1], device="meta")
        for name in node.reads + node.writes + node.updates
    }


@pytest.mark.parametrize(
    ("segment", "flash", "pro"),
    [("qk_softmax_pv", 6.4, 12.9), ("proj_a", 8.6, 17.2), ("proj_b", 8.6, 30.1)],
)
def test_flop_are_the_specifications(segment, flash, pro):
    for preset, want in (("FLASH", flash), ("PRO", pro)):
        cost = segment_cost(segment, meta_tensors(segment, PRESETS[preset]))
        flop = cost.int8_flop if segment == "proj_b" else cost.bf16_flop
        assert round(flop / 1e9, 1) == want
        assert cost.bf16_flop + cost.int8_flop == flop


def test_a_segment_without_a_dot_costs_no_flop():
    for node in PIPELINE:
        cost = segment_cost(node.name, meta_tensors(node.name, PRESETS["FLASH"]))
        assert (cost.bf16_flop + cost.int8_flop > 0) == (node.lane != "vector")


@pytest.mark.parametrize(
    ("segment", "flash_mib"),
    [
        # wo_a, o_packed, o_r;  codes, wo_b, partial;  partial, attn_out
        ("proj_a", 64 + 8 + 4),
        ("proj_b", 1 + 32 + 16),
        ("dequant_sum", 16 + 1),
        ("gather_kv", 48 + 8),  # kv, and all 8 MiB of the pools: fewer than kv has rows
        ("qk_softmax_pv", 8 + 48 + 48),
        ("merge_norm", 48 + 8 * 448 / 512 + 2),  # o, the nope columns of o_packed, o_rope
        ("inverse_rope", 2 + 1),  # o_rope, the rope columns of o_packed
        ("column_bias", 0.375),  # an index in, a bias out; nothing of the pools
    ],
)
def test_bytes_are_each_input_and_output_once(segment, flash_mib):
    cost = segment_cost(segment, meta_tensors(segment, PRESETS["FLASH"]))
    assert cost.bytes / MIB == pytest.approx(flash_mib, rel=0.02)


def test_only_live_keys_are_gathered_and_multiplied():
    live = 1000
    gather = meta_tensors("gather_kv", PRESETS["FLASH"])
    pools = sum(
        t.nbytes for name, t in gather.items() if name in ("ori_kv", "kv_overlay", "cmp_kv")
    )
    saved = segment_cost("gather_kv", gather).bytes - segment_cost("gather_kv", gather, live).bytes
    assert saved == pools - live * 512 * 2
    attention = meta_tensors("qk_softmax_pv", PRESETS["FLASH"])
    assert segment_cost("qk_softmax_pv", attention, live).bf16_flop == 4 * live * 64 * 512


def test_the_chain_costs_its_arguments_and_its_output():
    inputs = make_inputs(TINY, tokens=3, capacity=5)
    attn_out = torch.empty(5, TINY.hidden, dtype=torch.bfloat16)
    live_keys = 6
    cost = chain_cost(inputs, live_keys)
    once = [
        inputs.q, inputs.ori_block_table, inputs.cmp_block_table, inputs.cmp_sparse_indices,
        inputs.cmp_sparse_lens, inputs.attn_sink, inputs.freqs_cos, inputs.freqs_sin, inputs.wo_a,
        inputs.wo_b, inputs.wo_b_scale, attn_out,
    ]  # fmt: skip
    assert cost.bytes == sum(tensor.nbytes for tensor in once) + live_keys * TINY.head_dim * 2
    a, b = math.prod(inputs.wo_a.shape), math.prod(inputs.wo_b.shape)
    assert cost.bf16_flop == 4 * live_keys * TINY.heads * TINY.head_dim + 2 * 3 * a
    assert cost.int8_flop == 2 * 3 * b
