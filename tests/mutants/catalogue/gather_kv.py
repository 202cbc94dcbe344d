"""The gather: which columns, which pool, where to."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/segments/gather_kv.py", tests="tests/segments/test_gather_kv.py"
)

MUTANTS = (
    mutant(
        "a column past the length is live",
        "raw, k < length,",
        "raw, k <= length,",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "the last column of the length is dead",
        "raw, k < length,",
        "raw, k < length - 1,",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "a length beyond K makes padding live",
        "tl.minimum(tl.load(cmp_sparse_lens_ptr + t), K)",
        "tl.load(cmp_sparse_lens_ptr + t)",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "the first dead token is live",
        "first_token + t < num_tokens",
        "first_token + t <= num_tokens",
        killed_by="test_dead_tokens_are_dead_whatever_they_name",
    ),
    mutant(
        "every wave counts tokens from zero",
        "first_token + t < num_tokens",
        "t < num_tokens",
        killed_by="test_dead_tokens_are_dead_whatever_they_name",
    ),
    mutant(
        "an index past the row is read",
        "tl.load(indices_ptr + tl.minimum(k, K - 1))",
        "tl.load(indices_ptr + k)",
        killed_by="tests/laws/test_guard_pages.py::test_nothing_is_touched_beside_any_tensor[after]",
    ),
    mutant(
        "columns past 384 are dropped",
        "blocks = KP // BLOCK_K",
        "blocks = tl.minimum(KP, 384) // BLOCK_K",
        killed_by="test_flash_size",
    ),
    mutant(
        "overlay rows come from the compressed pool",
        "tl.load(kv_overlay_ptr + offset + c)",
        "tl.load(cmp_kv_ptr + offset + c)",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "compressed rows stay zero",
        "elif in_cmp:",
        "elif in_cmp & in_ring:",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "the last row of a task is not written",
        "for i in range(BLOCK_K):",
        "for i in range(BLOCK_K - 1):",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "a dead slot is a row of ones",
        "tl.zeros((C,), tl.bfloat16)",
        "tl.full((C,), 1.0, tl.bfloat16)",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "tokens are K columns apart, not KP",
        "kv_ptr + (t.to(tl.int64) * KP + k0) * C",
        "kv_ptr + (t.to(tl.int64) * K + k0) * C",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "offsets into a pool are int32",
        "offset = row.to(tl.int64) * C",
        "offset = row * C",
        killed_by="test_a_pool_of_more_elements_than_int32_counts",
    ),
    mutant(
        "one program does all tasks",
        'target.grid("vector", N * (KP // tiles.block_k))',
        'target.grid("vector", 1)',
        equivalent="each program takes every num_programs-th task, so any number of programs does "
        "all of them; only the time differs.",
    ),
)
