"""The merge: rescaling, the sink, rounding, and the sorting of heads by group."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/segments/merge_norm.py", tests="tests/segments/test_merge_norm.py"
)
bound = partial(
    mutant,
    file="reference/merge_norm.py",
    killed_by="test_the_bound_takes_a_neighbour_only_beside_a_tie",
)

MUTANTS = (
    mutant(
        "what came before is not rescaled",
        "o = old[:, None] * o +",
        "o = o +",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "the row sum is not rescaled",
        "return m_new, old * l + new * l_block",
        "return m_new, l + new * l_block",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "a new block is not rescaled",
        "new[:, None] * o_block",
        "o_block",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "the first block is skipped",
        "for b in range(tl.minimum(blocks, NB)):",
        "for b in range(1, tl.minimum(blocks, NB)):",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "the last block is skipped",
        "for b in range(tl.minimum(blocks, NB)):",
        "for b in range(tl.minimum(blocks, NB) - 1):",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "dead blocks are joined",
        "for b in range(tl.minimum(blocks, NB)):",
        "for b in range(NB):",
        killed_by="test_blocks_behind_the_live_ones_are_not_read",
    ),
    mutant(
        "a count of blocks is believed",
        "for b in range(tl.minimum(blocks, NB)):",
        "for b in range(blocks):",
        killed_by="test_a_count_beyond_the_blocks_is_all_of_them",
    ),
    mutant(
        "every token has the first tile's count",
        "live_blocks_ptr + t // X",
        "live_blocks_ptr",
        killed_by="test_sharers_have_one_count",
    ),
    mutant(
        "the sink is dropped",
        "l + tl.exp(sink - m)",
        "l",
        killed_by="test_the_sink_is_in_the_denominator_only_and_unscaled",
    ),
    mutant(
        "the sink is scaled like a score",
        "tl.exp(sink - m)",
        "tl.exp(sink * 0.125 - m)",
        killed_by="test_the_sink_is_in_the_denominator_only_and_unscaled",
    ),
    mutant(
        "the sink adds to the output as well",
        "o / denominator[:, None]",
        "(o + (denominator - l)[:, None]) / denominator[:, None]",
        killed_by="test_the_sink_is_in_the_denominator_only_and_unscaled",
    ),
    mutant(
        "the sink is outside of the denominator",
        "return l + tl.exp(sink - m)",
        "return l * (1.0 + tl.exp(sink - m))",
        killed_by="test_the_sink_is_in_the_denominator_only_and_unscaled",
    ),
    mutant(
        "the sink is not rescaled by the maximum",
        "tl.exp(sink - m)",
        "tl.exp(sink)",
        killed_by="test_the_sink_is_in_the_denominator_only_and_unscaled",
    ),
    mutant(
        "every group has the first group's sinks",
        "attn_sink_ptr, h, in_group)",
        "attn_sink_ptr, h_local, in_group)",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "the running maximum starts at 0",
        "LOWEST=NEG",
        "LOWEST=0.0",
        killed_by="test_scores_of_any_size",
    ),
    mutant(
        "the running maximum is a minimum",
        "tl.where(m_block > m, m_block, m)",
        "tl.where(m_block < m, m_block, m)",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "cut to bf16, not rounded",
        "n.to(tl.bfloat16)",
        "(n.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True).to(tl.bfloat16)",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "the rope part is rounded ahead of the rotation",
        "(c - (C - P))[None, :], n,",
        "(c - (C - P))[None, :], n.to(tl.bfloat16).to(tl.float32),",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "the last nope column is not written",
        "(c < C - P)[None, :]",
        "(c < C - P - 1)[None, :]",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "a rope column is written as nope",
        "(c < C - P)[None, :]",
        "(c <= C - P)[None, :]",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "the first rope column is not written",
        "(c >= C - P)[None, :]",
        "(c > C - P)[None, :]",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "groups in reversed order",
        "(g.to(tl.int64) * N + t) * HG * C",
        "((G - 1 - g).to(tl.int64) * N + t) * HG * C",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "heads dealt to the groups in turn",
        "h = g * HG + h_local",
        "h = h_local * G + g",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "heads of a group in reversed order",
        "* HG * C + h_local[:, None] * C",
        "* HG * C + (HG - 1 - h_local)[:, None] * C",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "the last head of a group is not written",
        "in_group = h_local < HG",
        "in_group = h_local < HG - 1",
        killed_by="test_against_reference[64-16-8-2]",
    ),
    mutant(
        "a token with nothing to attend to is not zero",
        "n = tl.where(alive, o / denominator[:, None], 0.0)",
        "n = o / denominator[:, None]",
        killed_by="test_a_token_without_live_slots_is_zero_whatever_it_holds",
    ),
    mutant(
        "a token with one live slot is zero",
        "tl.load(live_slots_ptr + t) > 0",
        "tl.load(live_slots_ptr + t) > 1",
        killed_by="test_one_live_slot_is_enough",
    ),
    mutant(
        "the maximum of two takes care of NaN",
        "tl.where(m_block > m, m_block, m)",
        "tl.maximum(m_block, m)",
        equivalent="they differ for a NaN in m_block only, and then exp(m_block - m_new) is NaN "
        "in both.",
    ),
    mutant(
        "the running maximum starts at -inf",
        "LOWEST=NEG",
        'LOWEST=float("-inf")',
        equivalent="a block's maximum is at least NEG, so the first step multiplies the zeros it "
        "starts from by exp(-inf) = 0 where it otherwise multiplies them by a number in [0, 1].",
    ),
    bound(
        "every neighbour is within the bound",
        'narrowed(by_group(n, G), by_group(error, G), want["o_packed"].cpu())',
        'want["o_packed"].cpu().double().abs() / 128',
    ),
    bound(
        "the bound of a dead token is a live one's",
        "torch.where(alive, (weight[..., None] * o).sum(1) / denominator, 0.0)",
        "(weight[..., None] * o).sum(1) / denominator",
    ),
)
