"""What every resolver does alike: pages, tables, runs; what a chunk's sizes must be."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant,
    file="dsv4_kernels/segments/slots.py",
    tests="tests/segments/test_resolve_slots.py",
    killed_by="test_bytes[9-133-8]",
)

MUTANTS = (
    mutant(
        "a tail has the marks of a whole block",
        "pieces, mask=first_run + run < KP // RUN)",
        "pieces)",
        killed_by="test_the_tail_of_a_row[129-144]",
    ),
    mutant(
        "a tail has the rows of a whole block",
        "row, mask=at + k < KP)",
        "row)",
        killed_by="test_the_tail_of_a_row[129-144]",
    ),
    mutant(
        "there is a length of short rows that nobody is told of",
        "SHORT_COLUMNS = (144, 160, 192)",
        "SHORT_COLUMNS = (144, 160, 176, 192)",
        tests="tests/laws/test_no_compile.py",
        killed_by="test_lanes_compile_once_for_their_columns",
    ),
    mutant(
        "slots of a page size of no power of two are one off",
        "return slot // B",
        "return (slot + 1) // B",
        killed_by="test_any_page_size_and_window[24-12]",
    ),
    mutant(
        "every page size counts as a power of two",
        "if B > 0 and B & (B - 1) == 0 else -1",
        "if B > 0 else -1",
        killed_by="test_any_page_size_and_window[24-12]",
    ),
    mutant(
        "the shift of a page is one too many",
        "return B.bit_length() - 1 if",
        "return B.bit_length() if",
    ),
    mutant(
        "a page before the table is its first",
        "(here >= 0) & (here < TABLE)",
        "here < TABLE",
        killed_by="test_a_table_by_pieces_changes_no_byte[2-8]",
    ),
    mutant(
        "a page behind a piece of the table is its last",
        "(here >= 0) & (here < TABLE)",
        "here >= 0",
        killed_by="test_a_table_by_pieces_changes_no_byte[2-8]",
    ),
    mutant(
        "a page behind the table is page 0",
        "mask=e0 + e < entries, other=-1)",
        "mask=e0 + e < entries, other=0)",
        killed_by="test_tables_shorter_than_what_is_named",
    ),
    mutant(
        "a table is read past its end",
        "tl.load(table_ptr + e0 + e, mask=e0 + e < entries, other=-1)",
        "tl.load(table_ptr + e0 + e)",
        killed_by="tests/laws/test_guard_pages.py::test_nothing_is_touched_beside_any_tensor[after]",
    ),
    mutant(
        "dead columns break a run",
        "((row == before + 1) & (before >= 0)) | ((row < 0) & (before < 0))",
        "(row == before + 1) & (before >= 0)",
        killed_by="test_runs_by_hand",
    ),
    mutant(
        "row 0 follows a dead column",
        "((row == before + 1) & (before >= 0))",
        "(row == before + 1)",
        killed_by="test_row_0_behind_a_dead_column_is_a_break",
    ),
    mutant(
        "a run goes on from the one before",
        "follows | (place == 0)",
        "follows",
        killed_by="test_runs_by_hand",
    ),
    mutant(
        "two breaks count as one",
        "tl.where(count == 1.0, first, 0.0)",
        "tl.where(count <= 2.0, first, 0.0)",
        killed_by="test_runs_by_hand",
    ),
    mutant(
        "an empty table is read where it is not",
        'return f"{name}_block_table" if contract[f"{name}_entries"] else "cmp_sparse_lens"',
        'return f"{name}_block_table"',
        killed_by="",
        equivalent="no entry of an empty table is inside the mask, on a CPU an address of nothing "
        "is never read; a device may refuse it.",
    ),
    mutant(
        "a K of whole blocks gets one more",
        "NB = -(-columns // BLOCK_COLUMNS)",
        "NB = columns // BLOCK_COLUMNS + 1",
        killed_by="test_bytes[5-128-0]",
    ),
    mutant(
        "a tail that is full is the next longer one",
        "if short >= columns",
        "if short > columns",
        killed_by="test_the_tail_of_a_row[144-144]",
    ),
    mutant(
        "the columns of a tail are a whole block's",
        "tl.cdiv(KP, BLOCK_K)) * BLOCK_K, KP)",
        "tl.cdiv(KP, BLOCK_K)) * BLOCK_K, KP + BLOCK_K)",
        killed_by="tests/segments/test_softmax.py::test_short_rows[144]",
    ),
    mutant(
        "a wave may end past its chunk",
        'contract.integer("first_token", first_token, 0, T - N)',
        'contract.integer("first_token", first_token, 0, T)',
        killed_by="tests/segments/test_contract.py::test_wrong_integer",
    ),
    mutant(
        "all pools together may have more rows than int32 counts",
        "contract.require(all_rows < 2**31",
        "contract.require(all_rows < 2**32",
        killed_by="tests/segments/test_contract.py::test_wrong_sizes",
    ),
    mutant(
        "three tokens may share",
        "X & (X - 1) == 0,",
        "X <= 8,",
        killed_by="tests/segments/test_contract.py::test_wrong_sizes",
    ),
    mutant(
        "KV of another number of tiles is taken",
        "known == tiles,",
        "known >= 0,",
        killed_by="tests/segments/test_contract.py::test_wrong_sizes",
    ),
)
