"""Whole rows: scale, bias, maximum, sink, sum, and the pieces of long ones."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant,
    file="dsv4_kernels/segments/softmax.py",
    tests="tests/segments/test_softmax.py",
)

MUTANTS = (
    mutant(
        "bias before scale",
        "                scores = scores * softmax_scale + bias[None, :]\n                m = ",
        "                scores = (scores + bias[None, :]) * softmax_scale\n                m = ",
        killed_by="test_scale_comes_before_the_bias",
    ),
    mutant(
        "no bias",
        "                scores = scores * softmax_scale + bias[None, :]\n                m = ",
        "                scores = scores * softmax_scale\n                m = ",
        killed_by="test_against_reference[64-5]",
    ),
    mutant(
        "the sink is scaled like a score",
        "tl.sum(e, axis=1) + tl.exp(sink - m)",
        "tl.sum(e, axis=1) + tl.exp(sink * softmax_scale - m)",
        killed_by="test_the_sink_is_in_the_denominator_only_and_unscaled[2048]",
    ),
    mutant(
        "no sink",
        "tl.sum(e, axis=1) + tl.exp(sink - m)",
        "tl.sum(e, axis=1)",
        killed_by="test_the_sink_is_in_the_denominator_only_and_unscaled[2048]",
    ),
    mutant(
        "l is the sum of bf16 P",
        "l = tl.sum(e, axis=1) +",
        "l = tl.sum(e.to(tl.bfloat16).to(tl.float32), axis=1) +",
        killed_by="test_against_reference[64-5]",
    ),
    mutant(
        "P is cut to bf16, not rounded",
        "(e / l[:, None]).to(tl.bfloat16), mask",
        "((e / l[:, None]).to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)"
        ".to(tl.bfloat16), mask",
        killed_by="test_against_reference[64-5]",
    ),
    mutant(
        "P is rounded before it is normalised",
        "(e / l[:, None]).to(tl.bfloat16), mask",
        "(e.to(tl.bfloat16).to(tl.float32) / l[:, None]).to(tl.bfloat16), mask",
        killed_by="test_against_reference[64-5]",
    ),
    mutant(
        "columns behind the live blocks count",
        "live_columns(tl.load(live_blocks_ptr + t // X), KP, BLOCK_K)",
        "KP",
        killed_by="test_blocks_behind_the_live_ones_are_not_touched",
    ),
    mutant(
        "every token counts its own blocks",
        "live_blocks_ptr + t // X",
        "live_blocks_ptr + t",
        killed_by="test_sharers_have_one_count",
    ),
    mutant(
        "a piece's sum is not rescaled",
        "l = l * tl.exp(m - m_new) +",
        "l = l +",
        killed_by="test_against_reference[64-17]",
    ),
    mutant(
        "pieces have the last one's maximum",
        "m_new = tl.where(m_step > m, m_step, m)",
        "m_new = m_step",
        killed_by="test_scores_of_any_size[10000.0-3]",
    ),
    mutant(
        "no sink in a row by pieces",
        "                l += tl.exp(sink - m)\n",
        "",
        killed_by="test_the_sink_is_in_the_denominator_only_and_unscaled[256]",
    ),
    mutant(
        "P of the second pass has no bias",
        "scores * softmax_scale + bias[None, :] - m[:, None]",
        "scores * softmax_scale - m[:, None]",
        killed_by="test_against_reference[64-17]",
    ),
    mutant(
        "the maximum of the second pass is not subtracted",
        "bias[None, :] - m[:, None])",
        "bias[None, :])",
        killed_by="test_against_reference[64-17]",
    ),
    mutant(
        "lanes past a row's end hold scores of zero",
        "mask=k < columns, other=LOWEST)\n        for",
        "mask=k < columns, other=0.0)\n        for",
        killed_by="test_against_reference[64-5]",
    ),
    mutant(
        "every task has the first task's heads",
        "task % HEAD_TASKS * TASK_H + h0",
        "h0",
        killed_by="test_against_reference[64-5]",
    ),
)
