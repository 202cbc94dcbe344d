"""The bias: NEG where a slot is dead, and the count of live ones."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/segments/column_bias.py", tests="tests/segments/test_column_bias.py"
)

MUTANTS = (
    mutant(
        "a column past the length is live",
        "raw, k < length,",
        "raw, k <= length,",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "a dead slot is attended to with its zero row",
        "live = in_ring | in_overlay | in_cmp",
        "live = k < length",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "compressed slots are dead",
        "live = in_ring | in_overlay | in_cmp",
        "live = in_ring | in_overlay",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "a dead slot has no bias",
        "DEAD=NEG",
        "DEAD=0.0",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "NEG is not the lowest fp32",
        "NEG = -3.4028234663852886e38",
        "NEG = -1e30",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "only the last block's live slots are counted",
        "live_slots += tl.sum",
        "live_slots = tl.sum",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "every wave counts tokens from zero",
        "first_token + t < num_tokens",
        "t < num_tokens",
        killed_by="test_dead_tokens_are_dead_whatever_they_name",
    ),
    mutant(
        "the first dead token is live",
        "first_token + t < num_tokens",
        "first_token + t <= num_tokens",
        killed_by="test_dead_tokens_are_dead_whatever_they_name",
    ),
    mutant(
        "tokens are K columns apart, not KP",
        "bias_ptr + t.to(tl.int64) * KP",
        "bias_ptr + t.to(tl.int64) * K",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "a length beyond K is not cut to it",
        "tl.minimum(tl.load(cmp_sparse_lens_ptr + t), K)",
        "tl.load(cmp_sparse_lens_ptr + t)",
        equivalent="columns from K on are loaded as raw = -1, which is dead whatever the length.",
    ),
)
