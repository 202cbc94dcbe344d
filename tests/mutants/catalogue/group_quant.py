"""The quant: amax, floor, rounding, scale."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/segments/group_quant.py", tests="tests/segments/test_group_quant.py"
)

ROUND = "rounded = (x * q[:, None] + MAGIC) - MAGIC"
FIRST_PASS = """\
        for r0 in range(0, R, BLOCK_R):
            mask = in_tokens[:, None] & (r0 + r < R)[None, :]
            x = tl.load(o_r_ptr + tile + (r0 + r)[None, :], mask=mask, other=0.0)
            tile_amax"""
OVER_ALL_GROUPS = """\
        for r0 in range(0, G * R, BLOCK_R):
            mask = in_tokens[:, None] & (r0 + r < G * R)[None, :]
            x = tl.load(o_r_ptr + tile - g * R + (r0 + r)[None, :], mask=mask, other=0.0)
            tile_amax"""
SOME_GROUPS = (
    "tests/segments/test_group_ranges.py::"
    "test_a_range_writes_its_groups_and_no_other[groups1-group_quant]"
)

MUTANTS = (
    mutant(
        "truncated, not rounded",
        ROUND,
        "rounded = x * q[:, None]",
        killed_by="test_ties_go_to_even",
    ),
    mutant(
        "ties go up",
        ROUND,
        "rounded = tl.floor(x * q[:, None] + 0.5)",
        killed_by="test_ties_go_to_even",
    ),
    mutant(
        "the magic number rounds positive values only",
        "ROUND_MAGIC = 12582912.0",
        "ROUND_MAGIC = 8388608.0",
        killed_by="test_ties_go_to_even",
    ),
    mutant(
        "a floor ten times too low",
        "AMAX_FLOOR = 1e-4",
        "AMAX_FLOOR = 1e-5",
        killed_by="test_a_row_below_the_floor_keeps_its_size",
    ),
    mutant(
        "no floor",
        "FLOOR=AMAX_FLOOR",
        "FLOOR=0.0",
        killed_by="test_a_row_below_the_floor_keeps_its_size",
    ),
    mutant(
        "one amax for all groups of a token",
        FIRST_PASS,
        OVER_ALL_GROUPS,
        killed_by="test_one_amax_per_group_and_token",
    ),
    mutant(
        "one amax for the tokens of a tile",
        "tile_amax = tl.max(tl.abs(x), axis=1)",
        "tile_amax = tl.max(tl.max(tl.abs(x), axis=1), axis=0)",
        killed_by="test_one_amax_per_group_and_token",
    ),
    mutant(
        "one amax for all tokens of a tile",
        "tile_amax = tl.max(tl.abs(x), axis=1)",
        "tile_amax = tl.max(tl.abs(x), axis=1) * 0 + tl.max(tl.abs(x))",
        killed_by="test_one_amax_per_group_and_token",
    ),
    mutant(
        "the largest value, not the largest magnitude",
        "tile_amax = tl.max(tl.abs(x), axis=1)",
        "tile_amax = tl.max(x, axis=1)",
        killed_by="test_one_amax_per_group_and_token",
    ),
    mutant(
        "only the last tile of ranks has a say in amax",
        "amax = tl.where(tile_amax > amax, tile_amax, amax)",
        "amax = tl.where(tile_amax > FLOOR, tile_amax, FLOOR)",
        killed_by="test_against_reference[130-2-300]",
    ),
    mutant(
        "codes up to 128",
        "INT8_MAX = 127.0",
        "INT8_MAX = 128.0",
        killed_by="test_one_amax_per_group_and_token",
    ),
    mutant(
        "codes up to 126",
        "INT8_MAX = 127.0",
        "INT8_MAX = 126.0",
        killed_by="test_one_amax_per_group_and_token",
    ),
    mutant(
        "the scale's inverse",
        "tl.div_rn(1.0, q), mask=in_tokens",
        "q, mask=in_tokens",
        killed_by="test_one_amax_per_group_and_token",
    ),
    mutant(
        "scales token by token, not group by group",
        "g.to(tl.int64) * N + t0 + t",
        "(t0 + t) * G + g",
        killed_by="test_one_amax_per_group_and_token",
    ),
    mutant(
        "a NaN is quantised away",
        "not_finite += tl.sum(x * 0.0, axis=1)",
        "not_finite += 0.0",
        killed_by="test_int8_does_not_hide_what_is_not_finite",
    ),
    mutant(
        "the last token is not written",
        "in_tokens = t0 + t < N",
        "in_tokens = t0 + t < N - 1",
        killed_by="test_against_reference[5-3-40]",
    ),
    mutant(
        "the last code is not written",
        "rounded.to(tl.int8), mask=mask",
        "rounded.to(tl.int8), mask=mask & (r0 + r < R - 1)[None, :]",
        killed_by="test_against_reference[5-3-40]",
    ),
    mutant(
        "every launch starts at group 0",
        "g = first_group + task % group_count",
        "g = task % group_count",
        killed_by=SOME_GROUPS,
    ),
    mutant(
        "the maximum of two takes care of NaN",
        "tl.where(tile_amax > amax, tile_amax, amax)",
        "tl.maximum(tile_amax, amax)",
        equivalent="they differ for rows with a NaN only, whose amax not_finite turns into NaN.",
    ),
)
