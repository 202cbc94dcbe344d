"""Merge, rotation back and packing in one: what each takes, and where it goes."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant,
    file="dsv4_kernels/segments/merge_finish.py",
    tests="tests/segments/test_merge_finish.py",
)
bound = partial(mutant, file="reference/merge_finish.py")

REFERENCE = "test_against_reference[64-16-8-2]"
TURN = "turned_back(even, odd, cos_ptr, sin_ptr, P, INTERLEAVED)"

MUTANTS = (
    mutant(
        "the sink is dropped",
        "with_sink(m, l, attn_sink_ptr, h, in_group)[:, None]",
        "l[:, None]",
        killed_by=REFERENCE,
    ),
    mutant(
        "every group has the first group's sinks",
        "attn_sink_ptr, h, in_group",
        "attn_sink_ptr, h_local, in_group",
        killed_by=REFERENCE,
    ),
    mutant(
        "rope columns are divided without the sink",
        "even / denominator, odd / denominator",
        "even / l[:, None], odd / l[:, None]",
        killed_by=REFERENCE,
    ),
    mutant(
        "turned forward",
        TURN,
        "turned_back(even, -odd, cos_ptr, sin_ptr, P, INTERLEAVED)",
        killed_by="test_every_pair_is_turned_back_by_its_own_angle",
    ),
    mutant(
        "the halves of a pair swapped",
        TURN,
        "turned_back(odd, even, cos_ptr, sin_ptr, P, INTERLEAVED)",
        killed_by="test_every_pair_is_turned_back_by_its_own_angle",
    ),
    mutant(
        "sines for cosines",
        "cos_ptr = freqs_cos_ptr",
        "cos_ptr = freqs_sin_ptr",
        killed_by="test_every_pair_is_turned_back_by_its_own_angle",
    ),
    mutant(
        "half tables are read as interleaved ones",
        "tiles: MergeFinishTiles, interleaved: bool = False",
        "tiles: MergeFinishTiles, interleaved: bool = True",
        killed_by="test_every_pair_is_turned_back_by_its_own_angle",
    ),
    mutant(
        "servers' tables are read as half ones",
        "functools.partial(_launch, interleaved=True)",
        "functools.partial(_launch, interleaved=False)",
        killed_by="test_tables_that_servers_hold[dtype0]",
    ),
    mutant(
        "rows of sin lie without a gap",
        "t * sin_blocks * BLOCK",
        "t * P",
        killed_by="test_tables_that_servers_hold[dtype0]",
    ),
    mutant(
        "the first columns are turned",
        "o_rows_ptr + (C - P + p)[None, :]",
        "o_rows_ptr + p[None, :]",
        killed_by=REFERENCE,
    ),
    mutant(
        "written over the first columns of a head",
        "packed_rows_ptr + (C - P + p)[None, :]",
        "packed_rows_ptr + p[None, :]",
        killed_by=REFERENCE,
    ),
    mutant(
        "even columns are not rescaled by a new maximum",
        "even = old[:, None] * even +",
        "even = even +",
        killed_by=REFERENCE,
    ),
    mutant(
        "odd columns of a new block are not rescaled",
        "new[:, None] * odd_block",
        "odd_block",
        killed_by=REFERENCE,
    ),
    mutant(
        "nope columns are not rescaled by a new maximum",
        "o = old[:, None] * o +",
        "o = o +",
        killed_by=REFERENCE,
    ),
    mutant(
        "the last nope column is not written",
        "(c < C - P)[None, :]",
        "(c < C - P - 1)[None, :]",
        killed_by=REFERENCE,
    ),
    mutant(
        "rounded ahead of the rotation",
        "even / denominator, odd / denominator",
        "(even / denominator).to(tl.bfloat16).to(tl.float32), odd / denominator",
        killed_by=REFERENCE,
    ),
    mutant(
        "a dead token's rope columns are not zero",
        f"tl.where(alive, {TURN}, 0.0)",
        TURN,
        killed_by="test_a_token_without_live_slots_is_zero_whatever_it_holds",
    ),
    mutant(
        "a dead token's nope columns are not zero",
        "tl.where(alive, o / denominator, 0.0)",
        "o / denominator",
        killed_by="test_a_token_without_live_slots_is_zero_whatever_it_holds",
    ),
    mutant(
        "a token with one live slot is zero",
        "tl.load(live_slots_ptr + t) > 0",
        "tl.load(live_slots_ptr + t) > 1",
        killed_by="test_one_live_slot_is_enough",
    ),
    mutant(
        "dead blocks are joined",
        "range(tl.minimum(blocks, NB))",
        "range(NB)",
        killed_by="test_blocks_behind_the_live_ones_are_not_read",
    ),
    mutant(
        "a count of blocks is believed",
        "range(tl.minimum(blocks, NB))",
        "range(blocks)",
        killed_by="test_a_count_beyond_the_blocks_is_all_of_them",
    ),
    mutant(
        "every token has the first tile's count",
        "live_blocks_ptr + t // X",
        "live_blocks_ptr",
        killed_by="test_sharers_have_one_count",
    ),
    mutant(
        "groups in reversed order",
        "(g.to(tl.int64) * N + t)",
        "((G - 1 - g).to(tl.int64) * N + t)",
        killed_by=REFERENCE,
    ),
    mutant(
        "a range begins at the first group",
        "contract.groups.start, len(contract.groups)",
        "0, len(contract.groups)",
        killed_by="test_a_range_writes_its_groups_and_no_other[groups1]",
    ),
    mutant(
        "the last head of a group is not written",
        "in_group = h_local < HG",
        "in_group = h_local < HG - 1",
        killed_by=REFERENCE,
    ),
    mutant(
        "rows of half a block are taken",
        "low=MIN_ROPE_DIM",
        "low=MIN_ROPE_DIM // 2",
        killed_by="tests/segments/test_contract.py::test_wrong_sizes",
    ),
    mutant(
        "a rope dimension beyond the head's width is taken",
        "P <= C, ",
        "True, ",
        killed_by="tests/segments/test_contract.py::test_wrong_sizes",
    ),
    bound(
        "the rotation is exact",
        "turned_error(n[..., nope:], error[..., nope:], cos, sin)",
        "error[..., nope:] * 0",
        killed_by="test_the_bound_takes_a_neighbour_only_beside_a_tie[columns1]",
    ),
    bound(
        "the merge is exact",
        "torch.cat([error[..., :nope], turned], dim=-1)",
        "torch.cat([error[..., :nope] * 0, turned], dim=-1)",
        killed_by="test_the_bound_takes_a_neighbour_only_beside_a_tie[columns0]",
    ),
)
