"""What other servers' attention got wrong, planted in the resolver of a batch."""

from functools import partial

from mutants.mutant import Mutant

wrong = partial(
    Mutant, file="dsv4_kernels/segments/requests.py", tests="tests/chains/test_adversarial.py"
)
BATCH = "tests/chains/test_batch.py::"

MUTANTS = (
    wrong(
        "page 0 is nobody's",
        "live & (physical >= 0) &",
        "live & (physical > 0) &",
        killed_by="test_page_zero_is_a_pad_of_one_request_and_live_of_another[ori]",
    ),
    wrong(
        "what a table names is live, whatever the length",
        "inside & (slot >= 0) & (slot < visible), first, last,",
        "inside & (slot >= 0), first, last + 10000,",
        killed_by="test_a_slot_that_is_not_visible_yet_is_dead",
    ),
    wrong(
        "a request of length 0 has a position all the same",
        "if (length > 0) & (length >= behind):\n                request = S - left\n"
        "                position = length - behind\n",
        "if length >= 0:\n                request = S - left\n"
        "                position = tl.maximum(length - behind, 0)\n",
        killed_by="test_a_length_of_zero_in_a_graph_s_batch",
    ),
    wrong(
        "a list's slot counts once, where its neighbour is another",
        "slot = tl.load(cmp_indices_ptr + t * I + at, mask=inside, other=-1)",
        "slot = tl.load(cmp_indices_ptr + t * I + at, mask=inside, other=-1)\n"
        "                            before = tl.maximum(at - 2, 0)\n"
        "                            twice = tl.load(cmp_indices_ptr + t * I + before, mask=inside)"
        "\n"
        "                            slot = tl.where((at >= 2) & (twice == slot), -1, slot)",
        killed_by="test_a_slot_that_is_listed_twice_counts_twice",
    ),
    wrong(
        "a list is as far as its first slot goes",
        "first, last = 0, visible - 1",
        "first, last = 0, tl.load(cmp_indices_ptr + t * I) if LISTED else visible - 1",
        killed_by="test_a_list_in_any_order",
    ),
    wrong(
        "a chunk begins with a slot",
        "visible = p // RATIO + tl.where(p % RATIO == RATIO - 1, 1, 0)",
        "visible = p // RATIO + 1",
        killed_by="test_a_chunk_that_begins_at_no_multiple_of_ratio_or_page[1]",
    ),
    wrong(
        "a window begins on a page",
        "page = page_of(slot, B, B_SHIFT)\n    physical",
        "page = page_of(slot - first + first // B * B, B, B_SHIFT)\n    physical",
        killed_by="test_a_chunk_that_begins_at_no_multiple_of_ratio_or_page[17]",
    ),
    wrong(
        "pages follow each other in memory",
        "return page.to(tl.int64) * page_blocks * BLOCK + in_page.to(tl.int64) * C",
        "return page.to(tl.int64) * (page_rows - 1) * C + in_page.to(tl.int64) * C",
        file="dsv4_kernels/segments/slots.py",
        killed_by="test_foreign_nan_between_pages_is_never_read[1000]",
    ),
    wrong(
        "of requests beyond the first 256 a token is nobody's",
        "for s0 in range(0, S, BLOCK_S):",
        "for s0 in range(0, tl.minimum(S, BLOCK_S), BLOCK_S):",
        killed_by="test_more_requests_than_live_ones",
    ),
    wrong(
        "the token behind the last is a request's",
        "found = tl.where((begin <= t) & (t < end),",
        "found = tl.where((begin <= t) & (t <= end),",
        killed_by="test_a_capacity_far_above_the_live_tokens",
    ),
    wrong(
        "a wave begins with the batch's first token",
        "t = first_token + n",
        "t = n",
        killed_by=f"{BATCH}test_a_request_ends_anywhere_in_a_wave[4]",
    ),
    wrong(
        "all draft tokens of a request stand at its end",
        "position = length - behind",
        "position = length - 1",
        killed_by=f"{BATCH}test_draft_tokens_of_a_request_see_their_own_past",
    ),
    wrong(
        "a window looks ahead",
        "row = rows_through(\n                            slot, (column < WINDOW) & (slot >= 0), "
        "p - WINDOW + 1, p,",
        "row = rows_through(\n                            slot, (column < BLOCK_K) & (slot >= 0), "
        "p - WINDOW + 1, p + BLOCK_K,",
        killed_by=f"{BATCH}test_a_table_is_garbage_behind_the_length_and_before_the_window",
    ),
)
