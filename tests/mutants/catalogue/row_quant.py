"""row_barrier's quant: what its launch function adds to group_quant's kernel."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/segments/row_quant.py", tests="tests/segments/test_row_quant.py"
)

MUTANTS = (
    mutant(
        "only the first group is quantised",
        'quant_constants(1, contract["G"] * contract["R"], tiles)',
        'quant_constants(1, contract["R"], tiles)',
        killed_by="test_one_amax_per_token",
    ),
    mutant(
        "the last token is not quantised",
        '"row_scale", N, 0, 1)',
        '"row_scale", N - 1, 0, 1)',
        killed_by="test_against_reference[5-3-40]",
    ),
    mutant(
        "as many groups as there are",
        "quant_constants(1, ",
        'quant_constants(contract["G"], ',
        killed_by="test_one_amax_per_token",
    ),
    mutant(
        "no group is quantised",
        '"row_scale", N, 0, 1)',
        '"row_scale", N, 0, 0)',
        killed_by="test_against_reference[5-3-40]",
    ),
    mutant(
        "a row of no columns has a scale",
        "width >= 1",
        "width >= 0",
        killed_by="test_a_row_of_no_columns_is_refused",
    ),
)
