"""Matmuls on a CPU: what is summed where, in which order, and which rows are left out."""

from functools import partial

from mutants.mutant import Mutant

LINALG = "dsv4_kernels/backends/linalg"
TESTS = "tests/backends/test_cpu_matmul.py"
loops = partial(Mutant, file=f"{LINALG}/matmul.h", tests=TESTS)
types = partial(Mutant, file=f"{LINALG}/matmul.c", tests=TESTS)
calls = partial(Mutant, file=f"{LINALG}/matmul.py", tests=TESTS)

MUTANTS = (
    calls(
        "the sum takes the place of what it is added to",
        "bufferization.to_memref {dot}_copy",
        "bufferization.to_memref {acc}",
        killed_by="test_a_value_that_is_used_again_is_not_overwritten",
    ),
    loops(
        "k runs backwards",
        "partial[i][v] += rows[i][k] * columns[k * VECTORS + v];",
        "partial[i][v] += rows[i][length - 1 - k] * columns[(length - 1 - k) * VECTORS + v];",
        killed_by="test_any_size_and_layout",
    ),
    loops(
        "a block of zeros is never multiplied",
        "zero[i / ROWS] && finite ? 0 : length",
        "zero[i / ROWS] && (finite || 1) ? 0 : length",
        killed_by="test_zero_rows",
    ),
    loops(
        "a block is zero if its last row is",
        "zero[i / ROWS] = all_zero && (i % ROWS == 0 || zero[i / ROWS]);",
        "zero[i / ROWS] = all_zero;",
        killed_by="test_a_row_that_is_zero_nearly_everywhere",
    ),
    loops(
        "a block is never zero",
        "zero[i / ROWS] = all_zero && (i % ROWS == 0 || zero[i / ROWS]);",
        "zero[i / ROWS] = 0;",
        equivalent="the sum of a block of zero rows is +0, as that of no products: only slower",
    ),
    loops(
        "a block of zeros is not added",
        "partial[ROWS][VECTORS];",
        "partial[ROWS][VECTORS];\n    if (length == 0) return;",
        killed_by="test_zero_rows",
    ),
    loops(
        "only contiguous columns are looked at for what is not finite",
        "WIDEN(b[k * stride[0] + j * stride[1]]);\n            finite &= x - x == 0;",
        "WIDEN(b[k * stride[0] + j * stride[1]]);\n            finite &= x == x;",
        killed_by="test_zero_rows",
    ),
    loops(
        "a part of a block is added as a whole",
        "i < ROWS && i < height",
        "i < ROWS",
        killed_by="test_any_size_and_layout",
    ),
    loops(
        "a narrow block is added as a whole",
        "j < COLUMNS && j < width",
        "j < COLUMNS",
        killed_by="test_any_size_and_layout",
    ),
    loops(
        "rows past the first tile start over",
        "acc_at + (i0 + i) * acc->stride[0]",
        "acc_at + i * acc->stride[0]",
        killed_by="test_any_size_and_layout",
    ),
    loops(
        "columns past b are multiplied as they were in memory",
        "    memset(columns, 0, sizeof columns); /* what lies beyond a narrow b is multiplied, not "
        "stored */\n",
        "",
        equivalent="what is multiplied there is not stored; it keeps undefined values out",
    ),
    types(
        "bf16 products are summed in fp32",
        "#define WIDE double",
        "#define WIDE float",
        killed_by="test_any_size_and_layout",
    ),
    types(
        "a chunk of int8 is twice as long as it may be",
        "CHUNK <= 1024",
        "CHUNK <= 2048",
        killed_by="test_a_chunk_of_int8_products_is_exact",
    ),
    types(
        "blocks of four rows",
        "enum { ROWS = 6,",
        "enum { ROWS = 4,",
        equivalent="an output is summed by itself, whatever block it is in",
    ),
    types(
        "int8 is read without its sign",
        "#define OPERAND int8_t",
        "#define OPERAND uint8_t",
        killed_by="test_int8_of_any_size",
    ),
    calls(
        "chunks of 64",
        "CHUNK = 128",
        "CHUNK = 64",
        killed_by="test_the_order_within_a_chunk_is_ascending",
    ),
    calls(
        "chunks of 256",
        "CHUNK = 128",
        "CHUNK = 256",
        killed_by="test_the_tile_of_a_matmul_changes_no_bit",
    ),
    calls(
        "a transpose that is wanted for itself is dropped",
        "if not any(word.search(line) for other, line in enumerate(lines) if other != place):",
        "if word:",
        killed_by="test_a_folded_transpose_is_not_computed",
    ),
    calls(
        "folded transposes are computed all the same",
        "if not any(word.search(line) for other, line in enumerate(lines) if other != place):",
        "if not word:",
        killed_by="test_a_folded_transpose_is_not_computed",
    ),
    calls(
        "any types of operands pass",
        'if found is None or _SUMS.get(found["operand"]) != found["sum"]:',
        "if found is None:",
        killed_by="test_a_matmul_that_cannot_be_lowered_says_which",
    ),
)
