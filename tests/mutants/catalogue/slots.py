"""The definition of a live slot: its bounds, its two tables, its clamps."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/segments/slots.py", tests="tests/segments/test_gather_kv.py"
)
FENCED = "tests/laws/test_guard_pages.py::test_nothing_is_touched_beside_any_tensor"

MUTANTS = (
    mutant(
        "raw = -1 is a row of the ring",
        "usable & (raw >= 0)",
        "usable & (raw >= -1)",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "the overlay's first row is the ring's",
        "usable & (overlay_row < 0)",
        "usable & (overlay_row <= 0)",
        killed_by="test_the_borders_of_every_range",
    ),
    mutant(
        "the overlay's first row is dead",
        "usable & (overlay_row >= 0)",
        "usable & (overlay_row > 0)",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "the overlay's last row is dead",
        "(slot < 0) & (overlay_row",
        "(slot < -1) & (overlay_row",
        killed_by="test_bytes[6-129-6]",
    ),
    mutant(
        "one dead row of the overlay is live",
        "(overlay_row < num_tokens)",
        "(overlay_row <= num_tokens)",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "all dead rows of the overlay are live",
        "(overlay_row < num_tokens)",
        "(overlay_row < chunk_tokens)",
        killed_by="test_a_wave_is_its_rows_of_the_chunk",
    ),
    mutant(
        "the first compressed slot is dead",
        "usable & (slot >= 0)",
        "usable & (slot > 0)",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "a page behind the compressed table is live",
        "(cmp_page < cmp_entries)",
        "(cmp_page <= cmp_entries)",
        killed_by="test_the_borders_of_every_range",
    ),
    mutant(
        "a page behind the ring's table is live",
        "(ring_page < ori_entries)",
        "(ring_page <= ori_entries)",
        killed_by="test_tables_shorter_than_what_is_named",
    ),
    mutant(
        "a compressed page past the pool is live",
        "(cmp_physical < cmp_pages)",
        "(cmp_physical <= cmp_pages)",
        killed_by="test_a_page_beside_the_pool_is_dead",
    ),
    mutant(
        "a ring page below the pool is live",
        "in_ring & (ring_physical >= 0)",
        "in_ring & (ring_physical >= -1)",
        killed_by="test_a_page_beside_the_pool_is_dead",
    ),
    mutant(
        "the ring's page table is ignored",
        "tl.load(ori_block_table_ptr + ring_entry)",
        "ring_entry",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "the compressed page table is ignored",
        "tl.load(cmp_block_table_ptr + cmp_entry)",
        "cmp_entry",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "compressed pages go through the ring's table",
        "tl.load(cmp_block_table_ptr + cmp_entry)",
        "tl.load(ori_block_table_ptr + cmp_entry)",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "the ring's rows start a page late",
        "ring_row = ring_physical * B + (raw - ring_page * B)",
        "ring_row = ring_physical * B + (raw - ring_page * B) + B",
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "the place inside a compressed page is lost",
        "cmp_physical * B + (slot - cmp_page * B)",
        "cmp_physical * B",
        killed_by="test_bytes[9-133-8]",
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
        killed_by="test_bytes[9-133-8]",
    ),
    mutant(
        "the ring's table is read one entry past its end",
        "tl.minimum(ring_page, ori_entries - 1)",
        "tl.minimum(ring_page, ori_entries)",
        killed_by=f"{FENCED}[after]",
    ),
    mutant(
        "the compressed table is read ahead of its start",
        "cmp_entry = tl.maximum(tl.minimum(cmp_page, cmp_entries - 1), 0)",
        "cmp_entry = tl.maximum(tl.minimum(cmp_page, cmp_entries - 1), -1)",
        killed_by=f"{FENCED}[before]",
    ),
    mutant(
        "an empty table is read where it is not",
        'return f"{name}_block_table" if contract[f"{name}_entries"] else "cmp_sparse_lens"',
        'return f"{name}_block_table"',
        killed_by="test_empty_tables_and_pools[0-0]",
    ),
    mutant(
        "a K of whole blocks gets one more",
        "-(-K // BLOCK_COLUMNS) * BLOCK_COLUMNS",
        "(K // BLOCK_COLUMNS + 1) * BLOCK_COLUMNS",
        killed_by="test_bytes[5-128-0]",
    ),
    mutant(
        "a wave may end past its chunk",
        'contract.integer("first_token", first_token, 0, T - N)',
        'contract.integer("first_token", first_token, 0, T)',
        killed_by="tests/segments/test_contract.py::test_wrong_integer",
    ),
)
