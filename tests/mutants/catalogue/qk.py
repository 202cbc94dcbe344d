"""Scores of the live blocks: which rows, which blocks, where they are stored."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant,
    file="dsv4_kernels/segments/qk.py",
    tests="tests/segments/test_qk.py",
)

MUTANTS = (
    mutant(
        "on CUDA a few heads have a tile that wgmma does not take",
        "return cls(block_r=64, fewest_r=64, num_warps",
        "return cls(block_r=64, num_warps",
        killed_by="tests/gates/test_cuda_tiles.py::"
        "test_lanes_have_the_rows_that_wgmma_takes[8-640]",
    ),
    mutant(
        "dead blocks are multiplied",
        "tl.minimum(tl.load(live_blocks_ptr + u), KP // BLOCK_K)",
        "KP // BLOCK_K",
        killed_by="test_blocks_behind_the_live_ones_are_not_touched",
    ),
    mutant(
        "more blocks than there are",
        "tl.minimum(tl.load(live_blocks_ptr + u), KP // BLOCK_K)",
        "tl.load(live_blocks_ptr + u)",
        killed_by="test_blocks_behind_the_live_ones_are_not_touched",
    ),
    mutant(
        "every block is the first one",
        "(u * KP + b * BLOCK_K) * C",
        "u * KP * C",
        killed_by="test_against_reference[8-64-3]",
    ),
    mutant(
        "every tile has the first tile's KV",
        "(u * KP + b * BLOCK_K) * C",
        "b * BLOCK_K * C",
        killed_by="test_against_reference[8-64-3]",
    ),
    mutant(
        "the last row is not computed",
        "mask=inside, other=0.0)",
        "mask=inside & (r[:, None] < BLOCK_R - 1), other=0.0)",
        killed_by="test_against_reference[64-512-2]",
    ),
    mutant(
        "two heads swapped",
        "first * C + r[:, None] * C",
        "first * C + (r ^ 1)[:, None] * C",
        killed_by="test_against_reference[8-64-3]",
    ),
    mutant(
        "scores are scaled",
        "scores = tl.dot(q, tl.trans(kv))",
        "scores = tl.dot(q, tl.trans(kv)) * C**-0.5",
        killed_by="test_scores_are_not_scaled",
    ),
    mutant(
        "rows past the last head are stored",
        "scores, mask=inside)",
        "scores, mask=inside | (r[:, None] >= 0))",
        killed_by="test_against_reference[33-64-2]",
    ),
    *(
        mutant(wrong, old, new, killed_by=f"test_short_rows[{case}]")
        for wrong, old, new, case in (
            ("a dead tail is stored", "(r0 + r < rows * tails)", "(r0 + r < rows)", "144-1"),
            ("a dead tile is multiplied", "tl.minimum(blocks, 1)", "1", "144-1"),
            ("a tail has the block's KV", "tile_ptr + BLOCK_K * C", "tile_ptr", "160-4"),
            (
                "all short tiles have the first one's KV",
                "tile_ptr = kv_ptr + u * KP * C",
                "tile_ptr = kv_ptr",
                "128-1",
            ),
            (
                "all rows of a task are its first",
                "(first + r0) * C + r",
                "first * C + r",
                "128-4",
            ),
        )
    ),
)
