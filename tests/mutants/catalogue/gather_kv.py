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
        "live_columns(tl.load(live_blocks_ptr + u), KP, BLOCK_K)",
        "tl.minimum(tl.load(live_blocks_ptr + u) * BLOCK_K, KP)",
        killed_by="",
        equivalent="a task ends at its own columns, which are inside KP, whatever the count; the "
        "clamp keeps the product in int32.",
    ),
    mutant(
        "a tail is not gathered",
        "tasks = tl.cdiv(KP, TASK_K)",
        "tasks = KP // TASK_K",
        killed_by="test_a_tail_behind_a_block[128-133]",
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
        killed_by="test_a_mark_outside_of_a_run_is_the_nearest_inside[99-16]",
    ),
    mutant(
        "offsets of pages are int32",
        "page.to(tl.int64) * page_blocks * BLOCK",
        "page * page_blocks * BLOCK",
        file="dsv4_kernels/segments/slots.py",
        killed_by="test_a_page_may_end_past_what_int32_counts",
    ),
    mutant(
        "rows of a page that has a gap behind it are a row early",
        "in_page = row - page * page_rows",
        "in_page = row - page * page_rows - tl.minimum(page, 1)",
        file="dsv4_kernels/segments/slots.py",
        killed_by="test_pages_lie_any_number_of_elements_apart[1]",
    ),
    mutant(
        "the last page has a number more than rows",
        "max(pages * (B + gap) - gap, 0)",
        "pages * (B + gap)",
        file="dsv4_kernels/segments/slots.py",
        killed_by="test_no_row_behind_the_last_page_is_read",
    ),
    mutant(
        "a GPU's pages lie at any element",
        'contract.require(stride % block == 0, f"{name}_kv", apart,',
        'contract.require(True, f"{name}_kv", apart,',
        file="dsv4_kernels/segments/slots.py",
        killed_by="test_a_gpu_s_pages_are_whole_loads_apart",
    ),
    mutant(
        "all pages are whole loads of a GPU apart",
        'min(8, contract["C"]) if target.kind == "cuda" else 1',
        'min(8, contract["C"])',
        file="dsv4_kernels/segments/slots.py",
        killed_by="test_a_gpu_s_pages_are_whole_loads_apart",
    ),
    mutant(
        "one program does all tasks",
        'target.grid("vector", U * triton.cdiv(KP, tiles.block_k))',
        'target.grid("vector", 1)',
        killed_by="",
        equivalent="each program takes every num_programs-th task, so any number of programs does "
        "all of them; only the time differs.",
    ),
)
