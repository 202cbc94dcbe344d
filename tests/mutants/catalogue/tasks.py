"""Tasks: every tile once."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/segments/tasks.py", tests="tests/segments/test_group_ranges.py"
)

MUTANTS = (
    mutant(
        "columns of the first tile only",
        "n0 = task // token_tiles % COLUMN_TILES * BLOCK_N",
        "n0 = 0 * BLOCK_N",
        killed_by="tests/segments/test_proj_a.py::test_against_reference[130-3-129-300]",
    ),
    mutant(
        "tokens of the first tile only",
        "t0 = task % token_tiles * BLOCK_T",
        "t0 = 0 * BLOCK_T",
        killed_by="tests/segments/test_proj_a.py::test_against_reference[130-3-129-300]",
    ),
    mutant(
        "heads of every group are those of the first",
        "g = first_group + token_group % group_count",
        "g = first_group + 0 * token_group % group_count",
        killed_by="tests/segments/test_merge_norm.py::test_against_reference[64-16-16-4]",
    ),
    mutant(
        "heads of the first tile only",
        "task % HEAD_TILES * BLOCK_H + tl.arange(0, BLOCK_H)",
        "0 * task + tl.arange(0, BLOCK_H)",
        killed_by="tests/segments/test_merge_norm.py::test_against_reference[64-16-22-2]",
    ),
    mutant(
        "the last tokens of a chunk are a whole tile",
        "return u * (X * H), tl.minimum(X, N - u * X) * H",
        "return u * (X * H), X * H",
        killed_by="tests/laws/test_guard_pages.py::"
        "test_nothing_is_touched_beside_any_tensor[after]",
    ),
    mutant(
        "a task of rows goes on into the next tile",
        "tl.minimum(rows - r0, TASK_R)",
        "TASK_R",
        killed_by="tests/segments/test_qk.py::test_short_rows[144-4]",
    ),
    *(
        mutant(
            wrong,
            old,
            new,
            killed_by="tests/segments/test_sized_tiles.py::"
            "test_few_tokens_have_one_tile_and_the_busiest_core_the_fewest_rows",
        )
        for wrong, old, new in (
            (
                "few tokens have many rows",
                "max(FRACTAL, triton.next_power_of_2(N)), min",
                "128, min",
            ),
            ("always the widest", "min(widths, key=busiest)", "widths[0]"),
            (
                "the floor is no bound of the width",
                "min(widths, key",
                "min((*widths, 64), key",
            ),
        )
    ),
    *(
        mutant(
            wrong,
            old,
            new,
            killed_by=f"tests/segments/test_sized_tiles.py::{killed_by}",
        )
        for wrong, old, new, killed_by in (
            (
                "a launch for some groups has the programs of all",
                "return len(contract.groups) * tiles",
                'return contract["G"] * tiles',
                "test_every_tile_of_a_launch_s_groups_is_a_task",
            ),
            (
                "the last heads of a group are no task",
                "triton.cdiv(heads_per_group, block_h)",
                "(heads_per_group // block_h)",
                "test_every_tile_of_a_launch_s_groups_is_a_task",
            ),
            (
                "rows are those of one token",
                'triton.cdiv(contract["X"] * contract["H"], rows)',
                'triton.cdiv(contract["H"], rows)',
                "test_every_tile_of_a_launch_s_groups_is_a_task",
            ),
            (
                "a task has less than a fractal",
                "min(max(shared, FRACTAL), most)",
                "min(shared, most)",
                "test_a_task_has_the_rows_that_share_kv_in_whole_fractals",
            ),
            (
                "a task has more rows than are asked for",
                "min(max(shared, FRACTAL), most)",
                "max(shared, FRACTAL)",
                "test_a_task_has_the_rows_that_share_kv_in_whole_fractals",
            ),
            (
                "of equal widths the narrower",
                "widths: Sequence[int] = (256, 128)",
                "widths: Sequence[int] = (128, 256)",
                "test_of_two_widths_that_cost_the_same_the_wider_is_taken",
            ),
        )
    ),
)
