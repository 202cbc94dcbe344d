"""The rotation back: signs, pairs, tables, one rounding, and the columns written."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant,
    file="dsv4_kernels/segments/inverse_rope.py",
    tests="tests/segments/test_inverse_rope.py",
)

TURN = "tl.interleave(even * cos + odd * sin, odd * cos - even * sin)"
PAIRS = "tl.split(tl.reshape(x, (BLOCK_H, P // 2, 2)))"

MUTANTS = (
    mutant(
        "turned forward",
        TURN,
        "tl.interleave(even * cos - odd * sin, odd * cos + even * sin)",
        killed_by="test_undoes_rope",
    ),
    mutant(
        "a wrong sign in one half",
        TURN,
        "tl.interleave(even * cos + odd * sin, odd * cos + even * sin)",
        killed_by="test_a_rotation_by_ninety_degrees_swaps_a_pair",
    ),
    mutant(
        "the halves of a pair swapped on the way out",
        TURN,
        "tl.interleave(odd * cos - even * sin, even * cos + odd * sin)",
        killed_by="test_undoes_rope",
    ),
    mutant(
        "pairs are half a row apart on the way in",
        PAIRS,
        "tl.split(tl.permute(tl.reshape(x, (BLOCK_H, 2, P // 2)), (0, 2, 1)))",
        killed_by="test_undoes_rope",
    ),
    mutant(
        "rounded ahead of the rotation",
        PAIRS,
        PAIRS.replace("x,", "x.to(tl.bfloat16).to(tl.float32),"),
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "cut to bf16, not rounded",
        "y.to(tl.bfloat16)",
        "(y.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True).to(tl.bfloat16)",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "sines for cosines",
        "tl.load(cos_ptr + pair)",
        "tl.load(sin_ptr + pair)",
        killed_by="test_undoes_rope",
    ),
    mutant(
        "a pair has its neighbour's frequency",
        "tl.load(cos_ptr + pair)",
        "tl.load(cos_ptr + (pair ^ 1))",
        killed_by="test_undoes_rope",
    ),
    mutant(
        "the second half of the table",
        "tl.load(sin_ptr + pair)",
        "tl.load(sin_ptr + P // 2 + pair)",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "every token has the first one's position",
        "freqs_sin_ptr + t * sin_blocks * BLOCK",
        "freqs_sin_ptr",
        killed_by="test_undoes_rope",
    ),
    mutant(
        "written over the first columns of a head",
        "(C - P + p)[None, :]",
        "p[None, :]",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "groups in reversed order",
        "o_packed_ptr + (g.to(tl.int64) * N + t)",
        "o_packed_ptr + ((G - 1 - g).to(tl.int64) * N + t)",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "two heads swapped",
        "rows_ptr = o_rope_ptr + (t * H + g * HG) * P + h_local[:, None] * P",
        "rows_ptr = o_rope_ptr + (t * H + g * HG) * P + (h_local ^ 1)[:, None] * P",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "the last head of a group is not written",
        "in_group = (h_local < HG)[:, None]",
        "in_group = (h_local < HG - 1)[:, None]",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "a token with nothing to attend to is not zero",
        "y = tl.where(alive, y, 0.0)",
        "y = tl.where(alive, y, y)",
        killed_by="test_a_token_without_live_slots_is_zero_whatever_its_rotation",
    ),
    mutant(
        "a token with one live slot is zero",
        "tl.load(live_slots_ptr + t) > 0",
        "tl.load(live_slots_ptr + t) > 1",
        killed_by="test_one_live_slot_is_enough",
    ),
    mutant(
        "rows of half a block are taken",
        "MIN_ROPE_DIM = 2 * 32 // 4",
        "MIN_ROPE_DIM = 32 // 4",
        killed_by="tests/segments/test_contract.py::test_wrong_sizes",
    ),
)
