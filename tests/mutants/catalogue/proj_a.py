"""The first projection: sums, tails, groups, and no rounding."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/segments/proj_a.py", tests="tests/segments/test_proj_a.py"
)

RAGGED = "test_against_reference[130-3-129-300]"
SOME_GROUPS = (
    "tests/segments/test_group_ranges.py::"
    "test_a_range_writes_its_groups_and_no_other[groups1-proj_a]"
)

MUTANTS = (
    mutant(
        "rounded to bf16",
        "tile_ptr + r[None, :], acc, mask",
        "tile_ptr + r[None, :], acc.to(tl.bfloat16).to(tl.float32), mask",
        killed_by="test_the_result_is_not_rounded_to_bf16",
    ),
    mutant(
        "the accumulator is rounded between tiles",
        "acc = tl.dot(a, tl.trans(w), acc)",
        "acc = tl.dot(a, tl.trans(w), acc).to(tl.bfloat16).to(tl.float32)",
        killed_by="test_a_k_tile_changes_no_bit[1000]",
    ),
    mutant(
        "only the last tile of J counts",
        "acc = tl.dot(a, tl.trans(w), acc)",
        "acc = tl.dot(a, tl.trans(w))",
        killed_by=RAGGED,
    ),
    mutant(
        "the last tile of J is dropped where it is not whole",
        "for j0 in range(0, J, A_K_TILE):",
        "for j0 in range(0, J // A_K_TILE * A_K_TILE, A_K_TILE):",
        killed_by=RAGGED,
    ),
    mutant(
        "the last tile of J runs into the next row",
        "if J % A_K_TILE != 0:",
        "if J < A_K_TILE:",
        killed_by=RAGGED,
    ),
    mutant(
        "the last element of J is dropped",
        "a_mask & (j0 + j < J)[None, :]",
        "a_mask & (j0 + j < J - 1)[None, :]",
        killed_by=RAGGED,
    ),
    mutant(
        "the last token is not written",
        "in_tokens = (t0 + t < N)[:, None]",
        "in_tokens = (t0 + t < N - 1)[:, None]",
        killed_by=RAGGED,
    ),
    mutant(
        "the last rank is not written",
        "in_rank = r0 + r < R",
        "in_rank = r0 + r < R - 1",
        killed_by=RAGGED,
    ),
    mutant(
        "weights of the groups in reversed order",
        "wo_a_ptr + (g * R + r0) * J",
        "wo_a_ptr + ((G - 1 - g) * R + r0) * J",
        killed_by=RAGGED,
    ),
    mutant(
        "every launch starts at group 0",
        "matmul_task(task, first_group, ",
        "matmul_task(task, 0, ",
        killed_by=SOME_GROUPS,
    ),
    mutant(
        "a launch goes on to the last group",
        "N, groups.start, len(groups)",
        "N, groups.start, G - groups.start",
        killed_by=SOME_GROUPS,
    ),
    mutant(
        "few tokens take 256 columns, of which the cube adds 64 products at a time",
        "target.cube_programs, (128,))",
        "target.cube_programs, (256,))",
        killed_by="tests/backends/test_npu_model.py::"
        "test_the_tiles_of_few_tokens_add_in_the_same_parts[proj_a]",
    ),
    mutant(
        "tiles of 64 columns for the sake of more cores",
        "target.cube_programs, (128,))",
        "target.cube_programs, (64,))",
        killed_by="tests/gates/test_batch_gate.py::"
        "test_a_batch_keeps_its_claims[Ascend910B3-decode CSA, 8 heads, T=8]",
    ),
)
