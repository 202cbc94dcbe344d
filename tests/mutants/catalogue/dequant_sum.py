"""The sum over groups: order, scales, one rounding."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/segments/dequant_sum.py", tests="tests/segments/test_dequant_sum.py"
)

RAGGED = "test_against_reference[130-3-600]"
CHUNKS = "test_chunks_of_groups_give_the_bytes_of_one_launch"
LOOP = "for g in range(first_group, first_group + group_count):"
ADD = "acc += partial.to(tl.float32) * scale[:, None]"

MUTANTS = (
    mutant(
        "groups are added in descending order",
        "row = t0 + tl.cast(g, tl.int64) * N",
        "row = t0 + tl.cast(2 * first_group + group_count - 1 - g, tl.int64) * N",
        killed_by="test_the_order_of_groups_is_ascending",
    ),
    mutant(
        "the last group is dropped",
        LOOP,
        "for g in range(first_group, first_group + group_count - 1):",
        killed_by=RAGGED,
    ),
    mutant(
        "the first group is dropped",
        LOOP,
        "for g in range(first_group + 1, first_group + group_count):",
        killed_by=RAGGED,
    ),
    mutant(
        "every group has the first group's scale",
        "tl.load(scale_ptr + row + t,",
        "tl.load(scale_ptr + t0 + t,",
        killed_by=RAGGED,
    ),
    mutant(
        "the activation scale is dropped",
        ADD,
        "acc += partial.to(tl.float32)",
        killed_by=RAGGED,
    ),
    mutant(
        "the activation scale divides",
        ADD,
        "acc += partial.to(tl.float32) / scale[:, None]",
        killed_by=RAGGED,
    ),
    mutant(
        "a partial is rounded to bf16",
        ADD,
        "acc += partial.to(tl.float32).to(tl.bfloat16).to(tl.float32) * scale[:, None]",
        killed_by="test_partials_are_exact_in_fp32",
    ),
    mutant(
        "the sum is rounded to bf16 after every group",
        ADD,
        f"{ADD}\n            acc = acc.to(tl.bfloat16).to(tl.float32)",
        killed_by=RAGGED,
    ),
    mutant(
        "wo_b_scale is dropped",
        "acc * wo_b_scale[None, :]",
        "acc",
        killed_by=RAGGED,
    ),
    mutant(
        "every tile of columns has the first one's wo_b_scale",
        "tl.load(wo_b_scale_ptr + d,",
        "tl.load(wo_b_scale_ptr + d % BLOCK_D,",
        killed_by=RAGGED,
    ),
    mutant(
        "cut to bf16, not rounded",
        "out.to(attn_out_ptr.dtype.element_ty)",
        "(out.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True).to(tl.bfloat16)",
        killed_by=RAGGED,
    ),
    mutant(
        "the last token is not written",
        "in_tokens = t0 + t < N",
        "in_tokens = t0 + t < N - 1",
        killed_by=RAGGED,
    ),
    mutant(
        "the last column is not written",
        "in_tokens[:, None] & (d < D)[None, :]",
        "in_tokens[:, None] & (d < D - 1)[None, :]",
        killed_by=RAGGED,
    ),
    mutant(
        "a dead token is what its scales make of it",
        "tl.where(alive[:, None], acc * wo_b_scale[None, :], 0.0)",
        "acc * wo_b_scale[None, :]",
        killed_by="test_a_dead_token_is_exact_zeros_whatever_the_scales_hold",
    ),
    mutant(
        "every tile has the first one's live tokens",
        "tl.load(live_slots_ptr + t0 + t,",
        "tl.load(live_slots_ptr + t,",
        killed_by="test_a_dead_token_is_exact_zeros_whatever_the_scales_hold",
    ),
    mutant(
        "a token of one live slot is dead",
        "mask=in_tokens, other=0) > 0",
        "mask=in_tokens, other=0) > 1",
        killed_by=RAGGED,
    ),
    mutant(
        "partials of dead lanes are ones",
        "mask=mask, other=0)\n",
        "mask=mask, other=1)\n",
        equivalent="lanes do not mix, and those outside of the mask are not stored.",
    ),
    mutant(
        "every launch has the first groups",
        LOOP,
        "for g in range(group_count):",
        killed_by=CHUNKS,
    ),
    mutant(
        "every launch begins with zeros",
        "        if FIRST:\n",
        "        if FIRST or BLOCK_T > 0:\n",
        killed_by=CHUNKS,
    ),
    mutant(
        "sums are put down in bf16",
        "tl.store(sums_tile_ptr + d[None, :], acc, mask=mask)",
        "tl.store(sums_tile_ptr + d[None, :], acc.to(tl.bfloat16).to(tl.float32), mask=mask)",
        killed_by="test_sums_between_chunks_are_fp32",
    ),
    mutant(
        "the second group too begins with zeros",
        'first, last = groups.start == 0, groups.stop == contract["G"]',
        'first, last = groups.start <= 1, groups.stop == contract["G"]',
        killed_by=CHUNKS,
    ),
    mutant(
        "a launch of some groups makes an output",
        "part = _FIRST if groups.start == 0 else _LAST if groups.stop == G else _BETWEEN",
        "part = _FIRST if groups.start == 0 else _LAST",
        killed_by="test_what_a_launch_of_some_groups_moves",
    ),
    mutant(
        "sums that are taken up and put down are moved once",
        'Cost(moved(tensors).bytes + size(tensors["sums"]))',
        "moved(tensors)",
        killed_by="test_what_a_launch_of_some_groups_moves",
    ),
    mutant(
        "tiles of the caller are for launches of all groups only",
        "return part.with_tiles(segment.chosen)",
        "return part",
        killed_by="test_chunks_have_the_tiles_that_are_chosen",
    ),
)
