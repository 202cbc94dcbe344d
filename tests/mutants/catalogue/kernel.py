"""How kernels are compiled: for no number and no address."""

from functools import partial

from mutants.mutant import Mutant

kernel = partial(
    Mutant,
    file="dsv4_kernels/segments/kernel.py",
    tests="tests/laws/test_no_compile.py",
)

MUTANTS = (
    kernel(
        "a size of 1 or 16 compiles",
        "do_not_specialize=[name for name in runtime if name not in pointers],",
        "do_not_specialize=[],",
        killed_by="test_a_chunk_compiles_nothing_behind_the_first",
    ),
    kernel(
        "an address compiles",
        "[name for name in pointers if not _wide(name)]",
        "[]",
        killed_by="test_a_plan_s_next_run_compiles_nothing",
    ),
    kernel(
        "an address compiles where it makes no difference",
        "return _UPSTREAM and (rows",
        "return (rows",
        killed_by="test_a_batch_compiles_nothing_behind_the_first[4-True-None-fused]",
    ),
    *(
        kernel(wrong, old, new, killed_by="test_what_a_kernel_is_compiled_for[True]")
        for wrong, old, new in (
            ("an output's address compiles", ' and buffer.lifetime != "output"', ""),
            (
                "weights are loaded byte by byte",
                "in (torch.bfloat16, torch.int8)",
                "in (torch.bfloat16,)",
            ),
            (
                "a workspace is loaded number by number",
                '(rows or buffer.lifetime == "wave")',
                "rows",
            ),
        )
    ),
)
