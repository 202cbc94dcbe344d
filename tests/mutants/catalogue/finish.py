"""The rotation back, and zeros for the dead."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant,
    file="dsv4_kernels/segments/finish.py",
    tests="tests/segments/test_finish.py",
)

MUTANTS = (
    mutant(
        "dead tokens keep what P.V made",
        "if tl.load(live_slots_ptr + t) > 0:",
        "if tl.load(live_slots_ptr + t) > -1:",
        killed_by="test_a_token_without_live_slots_is_zero_whatever_it_holds",
    ),
    mutant(
        "one live slot is none",
        "if tl.load(live_slots_ptr + t) > 0:",
        "if tl.load(live_slots_ptr + t) > 1:",
        killed_by="test_one_live_slot_is_enough",
    ),
    mutant(
        "dead tokens are zeros in their rope columns only",
        "tl.zeros((BLOCK_H, C), tl.bfloat16), mask=in_heads)",
        "tl.zeros((BLOCK_H, C), tl.bfloat16), mask=in_heads & (c >= C - P)[None, :])",
        killed_by="test_a_token_without_live_slots_is_zero_whatever_it_holds",
    ),
    mutant(
        "cosines of the first token",
        "freqs_cos_ptr + t * P, freqs",
        "freqs_cos_ptr, freqs",
        killed_by="test_against_reference[22-2-32-32]",
    ),
    mutant(
        "sines for cosines",
        "freqs_cos_ptr + t * P, freqs",
        "freqs_sin_ptr + t * P, freqs",
        killed_by="test_against_reference[22-2-32-32]",
    ),
    mutant(
        "the first columns are turned",
        "(C - P + p)[None, :]",
        "p[None, :]",
        killed_by="test_against_reference[64-8-512-64]",
    ),
    mutant(
        "another token's rope",
        "o_rope_ptr + t * H * P",
        "o_rope_ptr + (N - 1 - t) * H * P",
        killed_by="test_against_reference[22-2-32-32]",
    ),
    mutant(
        "the last head is left out",
        "in_heads = (h < H)[:, None]",
        "in_heads = (h < H - 1)[:, None]",
        killed_by="test_against_reference[22-2-32-32]",
    ),
)
