"""The arithmetic of costs, against the figures of the specification and by hand."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.costs import chain_cost
from dsv4_kernels.buffers import BUFFERS, shapes
from dsv4_kernels.chains.prefill import WAVE_TOKENS, wave_nodes
from dsv4_kernels.dims import PRESETS, Dims
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments import SEGMENTS

T, KP, PAGES = 128, 384, 64  # the specification counts three blocks of 128 columns
MIB = 2**20
TINY = Dims(
    heads=4, head_dim=32, rope_dim=16, groups=2, o_lora_rank=8, hidden=24,
    window=8, index_topk=8, page_rows=8,
)  # fmt: skip


def meta_tensors(segment, dims):
    """Inputs and outputs of a segment as the chain makes them, without memory."""
    sizes = dims.letters() | dict(
        N=T, T=T, K=KP, KP=KP, NB=KP // 128, ori_pages=1, ori_entries=1, cmp_pages=PAGES,
        cmp_entries=PAGES,
    )  # fmt: skip
    own = SEGMENTS[segment]
    return {
        name: torch.empty(
            extent,
            dtype=BUFFERS[name].dtype,  # type: ignore[arg-type]
            device="meta",
        )
        for name, extent in shapes(own.reads + own.writes + own.updates, sizes).items()
    }


def segment_cost(segment, *args):
    return SEGMENTS[segment].cost(*args)


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
    for name, segment in SEGMENTS.items():
        cost = segment.cost(meta_tensors(name, PRESETS["FLASH"]))
        assert (cost.bf16_flop + cost.int8_flop > 0) == (segment.core != "AIV")


@pytest.mark.parametrize(
    ("segment", "flash_mib"),
    [
        # wo_a, o_packed, o_r;  codes, wo_b, partial;  partial, attn_out
        ("proj_a", 64 + 8 + 4),
        ("proj_b", 1 + 32 + 16),
        ("dequant_sum", 16 + 1),
        ("gather_kv", 48 + 8 + 0.2),  # kv, and all 8 MiB of the pools: fewer than kv has rows
        ("qk_softmax_pv", 8 + 48 + 48),
        ("merge_finish", 48 + 8),  # o, o_packed
        ("merge_norm", 48 + 8 * 448 / 512 + 2),  # o, the nope columns of o_packed, o_rope
        ("inverse_rope", 2 + 1),  # o_rope, the rope columns of o_packed
        # An index in; a row, a bias and a sixteenth of a mark out; nothing of the pools.
        ("resolve_slots", 0.1875 * (3 + 1 / 16)),
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


def scratch_mib(dims: Dims, K: int) -> float:
    """Of a wave of WAVE_TOKENS, by the shapes of what the decoupled chain's nodes write."""
    KP = -(-K // 128) * 128
    sizes = dims.letters() | dict(N=WAVE_TOKENS, T=WAVE_TOKENS, K=K, KP=KP, NB=KP // 128)
    nodes = wave_nodes(dims, WAVE_TOKENS)
    names = {name for node in nodes for name in node.writes if BUFFERS[name].lifetime == "wave"}
    extents = shapes(names, sizes)
    dtypes: dict[str, Any] = {name: BUFFERS[name].dtype for name in names}
    tensors = (torch.empty(e, dtype=dtypes[name], device="meta") for name, e in extents.items())
    return sum(tensor.nbytes for tensor in tensors) / 2**20


def test_the_scratch_that_is_told_is_the_scratch_there_is():
    """In README and beside WAVE_TOKENS; a plan of a small chunk has what its shapes say, too."""
    root = Path(__file__).resolve().parents[2]
    readme = (root / "README.md").read_text()
    source = " ".join((root / "dsv4_kernels" / "chains" / "prefill.py").read_text().split())
    flash, pro = PRESETS["FLASH"], PRESETS["PRO"]
    (told,) = re.findall(r"FLASH holds (\d+) MiB of workspace", readme)
    assert round(scratch_mib(flash, 640)) == int(told)
    figures = re.findall(r"scratch, (\d+) MiB at FLASH \(K = 640\) and (\d+) at # PRO", source)
    assert figures == [(told, str(round(scratch_mib(pro, 1152))))]
    more = [
        round(scratch_mib(d, K + 128) - scratch_mib(d, K)) for d, K in ((flash, 640), (pro, 1152))
    ]
    assert f"128 columns more are {more[0]} and {more[1]} MiB" in source
