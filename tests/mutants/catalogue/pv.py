"""P times KV: which columns and blocks, where each goes, how it is rounded."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant,
    file="dsv4_kernels/segments/pv.py",
    tests="tests/segments/test_pv.py",
)

MUTANTS = (
    mutant(
        "on CUDA a few heads have a tile that wgmma does not take",
        "return cls(block_r=64, fewest_r=64, accumulator",
        "return cls(block_r=64, accumulator",
        killed_by="tests/gates/test_cuda_tiles.py::"
        "test_lanes_have_the_rows_that_wgmma_takes[8-640]",
    ),
    mutant(
        "dead blocks are read",
        "tl.minimum(tl.load(live_blocks_ptr + u), KP // BLOCK_K), 1)",
        "KP // BLOCK_K, 1)",
        killed_by="test_blocks_behind_the_live_ones_are_not_read",
    ),
    mutant(
        "an accumulator may never run",
        "tl.minimum(tl.load(live_blocks_ptr + u), KP // BLOCK_K), 1)",
        "tl.minimum(tl.load(live_blocks_ptr + u), KP // BLOCK_K), 0)",
        killed_by="test_blocks_behind_the_live_ones_are_not_read",
    ),
    mutant(
        "more blocks than there are",
        "tl.minimum(tl.load(live_blocks_ptr + u), KP // BLOCK_K)",
        "tl.load(live_blocks_ptr + u)",
        killed_by="test_blocks_behind_the_live_ones_are_not_read",
    ),
    mutant(
        "the last block is left out",
        "range(blocks)",
        "range(blocks - 1)",
        killed_by="test_against_reference[8-2-32-32-2]",
    ),
    mutant(
        "every block is the first one",
        "v_ptr = kv_ptr + b * BLOCK_K * C",
        "v_ptr = kv_ptr",
        killed_by="test_against_reference[8-2-32-32-2]",
    ),
    mutant(
        "every tile has the first tile's KV",
        " tile_ptr = kv_ptr + u * KP * C",
        " tile_ptr = kv_ptr",
        killed_by="test_against_reference[8-2-32-32-2]",
    ),
    mutant(
        "the rope columns are rounded",
        "[None, :], o_last, mask=inside)",
        "[None, :], o_last.to(tl.bfloat16).to(tl.float32), mask=inside)",
        killed_by="test_against_reference[8-2-32-32-2]",
    ),
    mutant(
        "a quarter where the eighth is",
        "rows_ptr + WIDTH // 4 * 3 + eighth[None, :]",
        "rows_ptr + WIDTH // 2 + eighth[None, :]",
        killed_by="test_against_reference[64-8-512-64-1]",
    ),
    mutant(
        "half and quarter overlap",
        "rows_ptr + WIDTH // 2 + quarter[None, :]",
        "rows_ptr + WIDTH // 4 + quarter[None, :]",
        killed_by="test_against_reference[33-3-64-16-3]",
    ),
    mutant(
        "the eighth is not stored",
        "eighth_ptr, o_eighth.to(tl.bfloat16), mask=inside)",
        "eighth_ptr, o_eighth.to(tl.bfloat16), mask=inside & (inside == 0))",
        killed_by="test_against_reference[64-8-512-64-1]",
    ),
    mutant(
        "every part has the first part's columns",
        "tile_ptr + part * WIDTH, o_rows_ptr",
        "tile_ptr, o_rows_ptr",
        killed_by="test_tiles_change_no_bit[16-256]",
    ),
    mutant(
        "a part of the row is stored over another",
        "o_rows_ptr + part * WIDTH, rope_rows_ptr",
        "o_rows_ptr, rope_rows_ptr",
        killed_by="test_tiles_change_no_bit[16-256]",
    ),
    mutant(
        "cut to bf16, not rounded",
        "o_half.to(tl.bfloat16)",
        "(o_half.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True).to(tl.bfloat16)",
        killed_by="test_against_reference[64-8-512-64-1]",
    ),
    mutant(
        "more columns a task than the rope leaves room for",
        'self.accumulator // rows, 8 * sizes["P"])',
        "self.accumulator // rows)",
        killed_by="test_against_reference[8-2-256-16-2]",
    ),
    *(
        mutant(wrong, old, new, killed_by=f"test_short_rows[{case}]")
        for wrong, old, new, case in (
            (
                "a tail counts although it is dead",
                "tl.minimum(tl.maximum(tl.load(live_blocks_ptr + u) - 1, 0), 1)",
                "1",
                "144-64-16-1",
            ),
            (
                "a tail is added as often as blocks are counted",
                "tl.minimum(tl.maximum(tl.load(live_blocks_ptr + u) - 1, 0), 1)",
                "tl.maximum(tl.load(live_blocks_ptr + u) - 1, 0)",
                "144-64-16-1",
            ),
            (
                "a tail has the block's KV",
                "t_ptr = kv_ptr + BLOCK_K * C + tail",
                "t_ptr = kv_ptr + tail",
                "144-64-16-1",
            ),
            (
                "a tail has the block's P",
                "p_tile_ptr + BLOCK_K + tail",
                "p_tile_ptr + tail",
                "160-64-16-4",
            ),
            (
                "all short tiles have the first one's KV",
                "v_rows_ptr = kv_ptr + u * KP * C",
                "v_rows_ptr = kv_ptr",
                "128-64-16-1",
            ),
            (
                "more columns of a short row than the rope leaves room for",
                'most = max(min(sizes["C"], 8 * sizes["P"]), sizes["P"])',
                'most = sizes["C"]',
                "128-256-16-1",
            ),
        )
    ),
)
