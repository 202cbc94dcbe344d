"""The gather: which rows, which pool, in which pieces, where to."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant,
    file="dsv4_kernels/segments/gather_kv.py",
    tests="tests/segments/test_gather_kv.py",
    killed_by="test_bytes[9-133-8]",
)

MUTANTS = (
    mutant(
        "dead blocks are gathered",
        "tl.minimum(k0 + TASK_K, columns)",
        "k0 + TASK_K",
        killed_by="test_only_live_blocks_are_touched[1]",
    ),
    mutant(
        "a count of blocks is believed",
        "tl.minimum(tl.load(live_blocks_ptr + u), KP // BLOCK_K)",
        "tl.load(live_blocks_ptr + u)",
        killed_by="",
        equivalent="a task ends at its own columns, which are inside KP, whatever the count; the "
        "clamp keeps the product in int32.",
    ),
    mutant(
        "a row past the ring is read",
        "tl.where(in_ring, ori_rows,",
        "tl.where(in_ring, ori_rows + 1,",
        killed_by="test_a_row_of_no_pool_is_dead[0-5]",
    ),
    mutant(
        "a run may end past its pool",
        "(row - base > held - size)",
        "(row - base >= held)",
        killed_by="test_a_run_past_the_end_of_its_pool_is_dead",
    ),
    mutant(
        "rows below -1 are rows",
        "(row < 0) |",
        "(row == -1) |",
        killed_by="test_a_row_of_no_pool_is_dead[0--2]",
    ),
    mutant(
        "overlay rows come from the compressed pool",
        "kv_overlay_ptr + overlay_row",
        "cmp_kv_ptr + overlay_row",
    ),
    mutant(
        "a dead slot is a row of ones",
        "tl.zeros((RUN, C), tl.bfloat16)",
        "tl.full((RUN, C), 1.0, tl.bfloat16)",
    ),
    mutant(
        "the second piece of a run is as long as the first",
        "tl.where(piece == 0, step, RUN - step)",
        "step",
        killed_by="test_a_run_of_two_pieces_wherever_it_breaks[5]",
    ),
    mutant(
        "the second piece of a run stays away",
        "tl.where(split == RUN, 1, 2)",
        "1",
        killed_by="test_a_run_of_two_pieces_wherever_it_breaks[5]",
    ),
    mutant(
        "a mark past a run's end is believed",
        "split = tl.minimum(tl.maximum(split, 0), RUN)",
        "split = tl.maximum(split, 0)",
        killed_by="test_a_row_of_no_pool_is_dead[99--2]",
    ),
    mutant(
        "offsets into a pool are int32",
        "(row - cmp_base).to(tl.int64) * C",
        "(row - cmp_base) * C",
        killed_by="test_a_pool_of_more_elements_than_int32_counts",
    ),
    mutant(
        "one program does all tasks",
        'target.grid("vector", U * (KP // tiles.block_k))',
        'target.grid("vector", 1)',
        killed_by="",
        equivalent="each program takes every num_programs-th task, so any number of programs does "
        "all of them; only the time differs.",
    ),
)
