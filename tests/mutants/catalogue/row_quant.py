"""row_barrier's quant: what its launch function adds to group_quant's kernel."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/segments/row_quant.py", tests="tests/segments/test_row_quant.py"
)

MUTANTS = (
    mutant(
        "only the first group is quantised",
        'contract["G"] * contract["R"]',
        'contract["R"]',
        killed_by="test_one_amax_per_token",
    ),
    mutant(
        "no floor",
        "FLOOR=AMAX_FLOOR",
        "FLOOR=0.0",
        killed_by="test_a_row_of_zeros_has_the_floors_scale",
    ),
    mutant(
        "codes up to 126",
        "MAX_CODE=INT8_MAX",
        "MAX_CODE=INT8_MAX - 1",
        killed_by="test_one_amax_per_token",
    ),
    mutant(
        "truncated, not rounded",
        "MAGIC=ROUND_MAGIC",
        "MAGIC=0.0",
        killed_by="test_against_reference[5-3-40]",
    ),
    mutant(
        "the last token is not quantised",
        "row_scale, N, 0, 1,",
        "row_scale, N - 1, 0, 1,",
        killed_by="test_against_reference[5-3-40]",
    ),
)
