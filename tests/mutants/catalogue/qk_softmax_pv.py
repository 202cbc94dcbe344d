"""Attention to one block: scale, bias, maximum, sum, and what P is multiplied as."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant,
    file="dsv4_kernels/segments/qk_softmax_pv.py",
    tests="tests/segments/test_qk_softmax_pv.py",
)

GATE = "tests/gates/test_batch_gate.py::test_a_batch_keeps_its_claims"
sized = partial(
    Mutant,
    file="dsv4_kernels/segments/qk_softmax_pv.py",
    tests="tests/segments/test_sized_tiles.py",
)

SCORES = "tl.dot(q, tl.trans(kv)) * softmax_scale + bias[None, :]"
BF16_P = "tl.dot(p.to(tl.bfloat16), kv)"

MUTANTS = (
    mutant(
        "scores ten times as large",
        'contract["softmax_scale"], contract["q_stride"]',
        '10.0 * contract["softmax_scale"], contract["q_stride"]',
        killed_by="test_against_reference[64-2-8]",
    ),
    mutant(
        "scores of zero",
        'contract["softmax_scale"], contract["q_stride"]',
        '0.0, contract["q_stride"]',
        killed_by="test_against_reference[64-2-8]",
    ),
    mutant(
        "the default scale is 512's whatever C is",
        'contract["C"] ** -0.5 if',
        "512**-0.5 if",
        killed_by="test_against_reference[64-2-8]",
    ),
    mutant(
        "bias before scale",
        SCORES,
        "(tl.dot(q, tl.trans(kv)) + bias[None, :]) * softmax_scale",
        killed_by="test_scale_comes_before_the_bias",
    ),
    mutant(
        "no bias",
        SCORES,
        "tl.dot(q, tl.trans(kv)) * softmax_scale",
        killed_by="test_against_reference[64-2-8]",
    ),
    mutant(
        "the first head of each 16 off by 20 %",
        SCORES,
        "tl.dot(q, tl.trans(kv)) * softmax_scale * tl.where(h % 16 == 0, 1.2, 1.0)[:, None]"
        " + bias[None, :]",
        killed_by="test_against_reference[64-2-64]",
    ),
    mutant(
        "the last column of a block is dead",
        "bias = tl.load(bias_ptr + block * BLOCK_K + k)",
        "bias = tl.where(k < BLOCK_K - 1, tl.load(bias_ptr + block * BLOCK_K + k), -3.4e38)",
        killed_by="test_against_reference[64-2-8]",
    ),
    mutant(
        "l is the sum of bf16 P",
        "l = tl.sum(p, axis=1)",
        "l = tl.sum(p.to(tl.bfloat16).to(tl.float32), axis=1)",
        killed_by="test_against_reference[64-2-8]",
    ),
    mutant(
        "P keeps 16 bits, not bf16's 8",
        BF16_P,
        f"{BF16_P} + tl.dot((p - p.to(tl.bfloat16).to(tl.float32)).to(tl.bfloat16), kv)",
        killed_by="test_flash_size",
    ),
    mutant(
        "P is cut to bf16, not rounded",
        "p.to(tl.bfloat16)",
        "(p.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True).to(tl.bfloat16)",
        killed_by="test_flash_size",
    ),
    mutant(
        "the maximum is not subtracted",
        "p = tl.exp(scores - m[:, None])",
        "p = tl.exp(scores)",
        killed_by="test_against_reference[64-2-8]",
    ),
    mutant(
        "powers of 2, not of e",
        "p = tl.exp(scores - m[:, None])",
        "p = tl.exp2(scores - m[:, None])",
        killed_by="test_against_reference[64-2-8]",
    ),
    mutant(
        "V lacks its last column",
        BF16_P,
        "tl.dot(p.to(tl.bfloat16), tl.where((c < C - 1)[None, :], kv, 0.0))",
        killed_by="test_against_reference[64-2-8]",
    ),
    mutant(
        "every block sees the first block's KV",
        "kv_ptr + tile.to(tl.int64) * BLOCK_K * C",
        "kv_ptr + (u * NB).to(tl.int64) * BLOCK_K * C",
        killed_by="test_against_reference[64-2-8]",
    ),
    mutant(
        "the query of another token",
        "t = (first + x).to(tl.int64)",
        "t = ((first + x + 1) % N).to(tl.int64)",
        killed_by="test_against_reference[64-2-8]",
    ),
    mutant(
        "two heads swapped",
        "q_ptr + t * q_blocks * BLOCK + h[:, None] * C",
        "q_ptr + t * q_blocks * BLOCK + (h ^ 1)[:, None] * C",
        killed_by="test_against_reference[64-2-8]",
    ),
    mutant(
        "the last head is not computed",
        "in_heads = h < (heads if KV_STAYS else H)",
        "in_heads = h < (heads - 1 if KV_STAYS else H)",
        killed_by="test_against_reference[64-2-8]",
    ),
    mutant(
        "every task has the first task's heads",
        "h = task % HEAD_TASKS * TASK_H + h0",
        "h = h0",
        killed_by="test_head_tiles_change_no_bit[16-16-20]",
    ),
    mutant(
        "lanes past the last head hold ones",
        "mask=in_heads[:, None], other=0.0)",
        "mask=in_heads[:, None], other=1.0)",
        equivalent="heads do not mix - a row of scores, m, l and o comes from one row of q - and "
        "the rows of these lanes are not stored.",
    ),
    mutant(
        "dead blocks are multiplied",
        "for _ in range(b, live):",
        "for _ in range(b, b + 1):",
        killed_by="test_blocks_behind_the_live_ones_are_not_touched",
    ),
    mutant(
        "the first block counts for all of them",
        "live = tl.minimum(b + 1, tl.load(live_blocks_ptr + u))",
        "live = tl.load(live_blocks_ptr + u)",
        equivalent="the same block is computed again with the same result; only the time differs.",
    ),
    mutant(
        "sharers on CUDA, where they do not fit",
        "fits = X == 1 or kv_stays",
        "fits = True",
        killed_by="tests/chains/test_sharers.py::test_cuda_has_no_room_for_kv_that_stays",
    ),
    mutant(
        "the last sharer gets nothing",
        "tl.minimum(X, N - u * X) * H",
        "(tl.minimum(X, N - u * X) - 1) * H",
        file="dsv4_kernels/segments/tasks.py",
        killed_by="test_sharers_read_one_tile_of_kv[2]",
    ),
    mutant(
        "a last tile that is not full has X tokens",
        "tl.minimum(X, N - u * X) * H",
        "X * H",
        file="dsv4_kernels/segments/tasks.py",
        killed_by="test_sharers_read_one_tile_of_kv[8]",
    ),
    sized(
        "KV of one token need not stay",
        "if KV_STAYS else 1",
        "if X > 1 else 1",
        killed_by=f"{GATE}[Ascend910B3-decode CSA, 8 heads, T=8]",
    ),
    sized(
        "the mask of the heads is known at compile time",
        "in_heads = h < (heads if KV_STAYS else H)",
        "in_heads = h < H",
        killed_by=f"{GATE}[Ascend910_9392-decode CSA, 16 heads, T=64]",
    ),
    sized(
        "a tile has more heads than the rank",
        "task_h = heads\n",
        "task_h = 2 * heads\n",
        killed_by="test_attention_has_no_more_heads_than_there_are",
    ),
    sized(
        "a token's heads stay together on idle cores",
        "while task_h > FRACTAL and of_heads",
        "while False and of_heads",
        killed_by="test_heads_are_split_until_each_core_has_a_task",
    ),
    sized(
        "heads are split below what the cube multiplies",
        "while task_h > FRACTAL and of_heads",
        "while task_h > FEWEST_HEADS and of_heads",
        killed_by="test_heads_are_split_until_each_core_has_a_task",
    ),
)
