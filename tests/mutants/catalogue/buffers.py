"""What the table says of a buffer."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(Mutant, file="dsv4_kernels/buffers.py", tests="tests/test_buffers.py")
SIZES = "test_sizes_of_shapes"

MUTANTS = (
    mutant(
        "a map of a batch's tiles lives as long as a wave",
        '"token_blocks", "N", int32, "chunk"',
        '"token_blocks", "N", int32, "wave"',
        killed_by="test_how_long_a_buffer_lives",
    ),
    mutant(
        "rows lie side by side",
        '"cmp_indices", "N I", int32, "batch", listed, apart=1)',
        '"cmp_indices", "N I", int32, "batch", listed)',
        killed_by="test_where_memory_may_lie_between_rows_and_what_may_be_wider",
    ),
    mutant(
        "rows lie half a block apart",
        "BLOCK = 16",
        "BLOCK = 8",
        killed_by="test_where_memory_may_lie_between_rows_and_what_may_be_wider",
    ),
    mutant(
        "one row's stride counts",
        "return 1 + sum((n - 1) * step",
        "return 1 + sum(n * step - 1",
        killed_by="test_memory_from_the_first_element_to_the_last[shape2-strides2-2]",
    ),
    mutant(
        "the caller's number of tiles is not heard",
        'sizes.setdefault("U", _tiles(sizes))',
        'sizes["U"] = _tiles(sizes)',
        killed_by=SIZES,
    ),
    mutant(
        "the caller's number of runs is not heard",
        'sizes.setdefault("KR", sizes["KP"] // RUN_COLUMNS)',
        'sizes["KR"] = sizes["KP"] // RUN_COLUMNS',
        killed_by=SIZES,
    ),
    mutant(
        "the sizes that were given grow",
        "    sizes = {**sizes}\n",
        "",
        killed_by=SIZES,
    ),
)
