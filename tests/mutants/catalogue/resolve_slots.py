"""The raw index contract: its bounds and tables; blocks, bias, counts and sharers."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant,
    file="dsv4_kernels/segments/resolve_slots.py",
    tests="tests/segments/test_resolve_slots.py",
    killed_by="test_bytes[9-133-8]",
)

MUTANTS = (
    mutant(
        "a tile has indices of tokens past the chunk",
        "mask = in_wave[:, None] & (k0 + k < K)[None, :]",
        "mask = (x >= 0)[:, None] & (k0 + k < K)[None, :]",
        killed_by="tests/laws/test_guard_pages.py::"
        "test_nothing_is_touched_beside_any_tensor[after]",
    ),
    mutant(
        "a token has 8192 columns at most",
        "        for k0 in range(0, KP, BLOCK_K):\n            raw_ptr =",
        "        for k0 in range(0, tl.minimum(KP, 8192), BLOCK_K):\n            raw_ptr =",
        killed_by="tests/laws/test_limits.py::test_hca_at_a_million_tokens_in_lanes",
    ),
    mutant(
        "raw = -1 is a row of the ring",
        "usable & (raw >= 0)",
        "usable & (raw >= -1)",
        killed_by="test_any_page_size_and_window[24-12]",
    ),
    mutant(
        "the overlay's first row is the ring's",
        "usable & (overlay_row < 0)",
        "usable & (overlay_row <= 0)",
        killed_by="",
        equivalent="a row of the overlay is asked for later and wins; where it is not live, no "
        "token of the chunk is.",
    ),
    mutant("the overlay's first row is dead", "(overlay_row >= 0)", "(overlay_row > 0)"),
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
    ),
    mutant("the first compressed slot is dead", "usable & (slot >= 0)", "usable & (slot > 0)"),
    mutant(
        "a compressed page past the pool is live",
        "(cmp_physical < cmp_pages)",
        "(cmp_physical <= cmp_pages)",
        killed_by="test_a_page_beside_the_pool_is_dead[after-cmp]",
    ),
    mutant(
        "a ring page below the pool is live",
        "in_ring & (ring_physical >= 0)",
        "in_ring & (ring_physical >= -1)",
        killed_by="test_a_page_beside_the_pool_is_dead[before-ori]",
    ),
    mutant(
        "compressed pages go through the ring's table",
        "look_up(cmp_block_table_ptr, cmp_entries, cmp_page",
        "look_up(ori_block_table_ptr, ori_entries, cmp_page",
    ),
    mutant(
        "the place inside a compressed page is lost",
        "cmp_physical * B + (slot - cmp_page * B)",
        "cmp_physical * B",
    ),
    mutant(
        "no gap between the pools",
        "overlay_base = ori_pages * B + GAP",
        "overlay_base = ori_pages * B",
    ),
    mutant("columns past the length are live", "< length[:, None]", "<= length[:, None]"),
    mutant(
        "the first dead token is live",
        "u * X + x < num_tokens",
        "u * X + x <= num_tokens",
        killed_by="test_dead_tokens_are_dead_whatever_they_name",
    ),
    mutant(
        "every wave counts tokens from zero",
        "tl.where(first_token + u * X",
        "tl.where(u * X",
        killed_by="test_dead_tokens_are_dead_whatever_they_name",
    ),
    mutant(
        "a dead block is kept",
        "if tl.max(shared, axis=0) >= 0:",
        "if tl.max(shared, axis=0) >= -1:",
        killed_by="test_a_dead_block_is_left_out[1]",
    ),
    mutant(
        "a block is dead whose only slot is row 0",
        "if tl.max(shared, axis=0) >= 0:",
        "if tl.max(shared, axis=0) > 0:",
        killed_by="test_row_0_alone_keeps_a_block_alive",
    ),
    mutant(
        "live blocks stay where they were",
        "at = live_blocks * BLOCK_K",
        "at = k0",
        killed_by="test_a_dead_block_is_left_out[0]",
    ),
    mutant("a dead slot has no bias", "DEAD=NEG", "DEAD=0.0"),
    mutant(
        "only the last block's slots are counted", "live_slots += tl.sum", "live_slots = tl.sum"
    ),
    mutant(
        "a sharer's own dead columns are attended to",
        "bias = tl.where(row >= 0",
        "bias = tl.where(shared[None, :] >= 0",
        killed_by="test_sharers_have_one_row_of_rows[2]",
    ),
    mutant(
        "tokens behind the last are written",
        "mask = in_wave[:, None] & inside[None, :]",
        "mask = (x[:, None] >= 0) & inside[None, :]",
        killed_by="test_sharers_have_one_row_of_rows[8]",
    ),
    mutant(
        "a column that one sharer does not use is dead for all",
        "shared = tl.max(row, axis=0)",
        "shared = tl.min(row, axis=0)",
        killed_by="tests/chains/test_sharers.py::test_sharing_changes_no_byte[8-lanes]",
    ),
    mutant(
        "a tail is written as a whole block",
        "inside = at + k < KP",
        "inside = at + k < KP + BLOCK_K",
        killed_by="test_the_tail_of_a_row[129-144]",
    ),
)
