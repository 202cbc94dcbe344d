"""Tiles of a batch's tokens that share their KV, and their rows."""

from functools import partial

from mutants.mutant import Mutant

TESTS = "tests/chains/test_shared_batch.py"
SEGMENTS = "test_segments_against_their_references[8-fused]"
tile_map = partial(
    Mutant,
    file="dsv4_kernels/segments/tile_map.py",
    tests=TESTS,
    killed_by="test_tiles_of_any_map[40-8]",
)
resolver = partial(
    Mutant, file="dsv4_kernels/segments/shared_requests.py", tests=TESTS, killed_by=SEGMENTS
)
entry = partial(Mutant, file="dsv4_kernels/chains/batch.py", tests=TESTS)

MUTANTS = (
    tile_map(
        "a tile goes on into the next request",
        "return (request == before) & (position == position_before + 1)",
        "return (position == position_before + 1)",
    ),
    tile_map(
        "a tile goes on where a position is left out",
        "(position == position_before + 1)",
        "(position > position_before)",
    ),
    tile_map(
        "tiles are as long as a request",
        "& ((position & (X - 1)) != 0)",
        "& (position != 0)",
    ),
    tile_map(
        "there is room for as many tiles as come",
        "(p >= 0) & (u < U)",
        "(p >= 0)",
        killed_by="test_tiles_of_any_map[1-8]",
    ),
    tile_map(
        "a tile has its neighbour's first token too",
        "N - behind - n)",
        "N - behind - n + 1)",
    ),
    tile_map(
        "there is room for a tile's rest of each request, not of each stretch of its tokens",
        "stretches = max(2 * requests - 1, 1)",
        "stretches = max(requests, 1)",
        file="dsv4_kernels/buffers.py",
        killed_by="test_the_room_for_tiles_is_what_they_take",
    ),
    resolver(
        "the window's first column is a position late",
        "position = base - WINDOW + 1 + column",
        "position = base - WINDOW + 2 + column",
    ),
    resolver(
        "columns begin at the first token there is",
        "base = p - p % X",
        "base = p",
        killed_by="test_alone_packed_chunked_and_step_by_step[125-8-fused]",
    ),
    resolver(
        "a token sees one position more than its window",
        "(in_window < WINDOW)",
        "(in_window <= WINDOW)",
    ),
    resolver(
        "a token sees its neighbour's newest position",
        "(in_window >= 0) & ",
        "(in_window >= -1) & ",
    ),
    resolver(
        "a token sees a slot of its neighbour",
        "slot[None, :] < visible[:, None]",
        "slot[None, :] <= visible[:, None]",
    ),
    resolver(
        "a slot is visible one position late",
        "over = part + 1 + x",
        "over = part + x",
    ),
    resolver(
        "slots behind the longest request are visible",
        "tl.minimum(tl.minimum(whole, cmp_columns) + more, cmp_columns)",
        "tl.minimum(whole, 2**30) + more",
        killed_by="test_the_longest_request_bounds_the_columns[fused]",
    ),
    resolver(
        "what a token in no tile has is not said",
        "if tl.load(tile_of_ptr + n) < 0:",
        "if tl.load(tile_of_ptr + n) < -1:",
        killed_by="test_a_graph_replays_other_batches_of_its_capacity[fused]",
    ),
    entry(
        "lists are shared",
        'contract.require(not named, "sharers"',
        'contract.require(True, "sharers"',
        killed_by="test_what_cannot_be_shared_is_refused[lists]",
    ),
    entry(
        "a plan takes more requests than it has room for",
        'self.shrinking = {"S": "seq_lens"}',
        "self.shrinking = {}",
        killed_by="test_a_plan_has_room_for_its_requests",
    ),
    entry(
        "a batch's tiles end where a wave of so many does",
        'X = 1 if "tiled" in contract.sizes else contract.sizes.get("X", 1)',
        'X = contract.sizes.get("X", 1)',
        file="dsv4_kernels/launcher/plan.py",
        killed_by="test_a_token_has_its_bytes_in_any_wave[1-fused]",
    ),
)
