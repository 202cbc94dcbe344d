"""The second projection: exact sums, tails, groups."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/segments/proj_b.py", tests="tests/segments/test_proj_b.py"
)

RAGGED = "test_bytes[4-2-700-7000]"
SOME_GROUPS = (
    "tests/segments/test_group_ranges.py::"
    "test_a_range_writes_its_groups_and_no_other[groups1-proj_b]"
)

MUTANTS = (
    mutant(
        "only the last tile of ranks counts",
        "acc = tl.dot(a, tl.trans(w), acc, out_dtype=tl.int32)",
        "acc = tl.dot(a, tl.trans(w), out_dtype=tl.int32)",
        killed_by=RAGGED,
    ),
    mutant(
        "the sum goes through bf16",
        "tile_ptr + d[None, :], acc, mask",
        "tile_ptr + d[None, :],"
        " acc.to(tl.float32).to(tl.bfloat16).to(tl.float32).to(tl.int32), mask",
        killed_by=RAGGED,
    ),
    mutant(
        "the last rank is dropped",
        "w_mask & (k0 + k < K)[None, :]",
        "w_mask & (k0 + k < K - 1)[None, :]",
        killed_by=RAGGED,
    ),
    mutant(
        "the last tile of ranks runs into the next group",
        "if K % B_K_TILE != 0:",
        "if K < B_K_TILE:",
        killed_by=RAGGED,
    ),
    mutant(
        "the sum is rounded to fp32 between tiles",
        "acc = tl.dot(a, tl.trans(w), acc, out_dtype=tl.int32)",
        "acc = (tl.dot(a, tl.trans(w), out_dtype=tl.int32).to(tl.float32)"
        " + acc.to(tl.float32)).to(tl.int32)",
        killed_by="tests/segments/test_proj_b_dequant.py::test_the_sum_is_exact_beyond_fp32",
    ),
    mutant(
        "the last token is not written",
        "in_tokens = (t0 + t < N)[:, None]",
        "in_tokens = (t0 + t < N - 1)[:, None]",
        killed_by=RAGGED,
    ),
    mutant(
        "the last column is not written",
        "in_hidden = d0 + d < D",
        "in_hidden = d0 + d < D - 1",
        killed_by=RAGGED,
    ),
    mutant(
        "every group has the first group's weights",
        "d0 * G * R + g * R + d[:, None]",
        "d0 * G * R + d[:, None]",
        killed_by="test_one_hot_codes_read_a_weight_back",
    ),
    mutant(
        "partials of the groups in reversed order",
        "partial_ptr + (g * N + t0) * D",
        "partial_ptr + ((G - 1 - g) * N + t0) * D",
        killed_by="test_one_hot_codes_read_a_weight_back",
    ),
    mutant(
        "codes of the groups in reversed order",
        "codes_ptr + (t0.to(tl.int64) * G + g) * R",
        "codes_ptr + (t0.to(tl.int64) * G + (G - 1 - g)) * R",
        killed_by=RAGGED,
    ),
    mutant(
        "every launch starts at group 0",
        "matmul_task(task, first_group, ",
        "matmul_task(task, 0, ",
        killed_by=SOME_GROUPS,
    ),
    mutant(
        "one rank more than int32 sums",
        "MAX_RANK = (2**31 - 1) // (127 * 128)",
        "MAX_RANK = (2**31 - 1) // (127 * 128) + 1",
        killed_by="tests/segments/test_contract.py::test_wrong_sizes",
    ),
    mutant(
        "as many ranks as if no weight were -128",
        "MAX_RANK = (2**31 - 1) // (127 * 128)",
        "MAX_RANK = (2**31 - 1) // (127 * 127)",
        killed_by="test_the_longest_sum_of_the_lowest_weights_fits_int32",
    ),
    mutant(
        "a weight of -128 counts as -127",
        "w = tl.load(w_ptr + (k0 + k)[None, :], mask=w_mask, other=0)",
        "w = tl.load(w_ptr + (k0 + k)[None, :], mask=w_mask, other=0)\n"
        "        w = tl.where(w == -128, tl.full(w.shape, -127, tl.int8), w)",
        killed_by="test_extreme_codes_are_exact",
    ),
)
