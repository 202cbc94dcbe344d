"""The sum over groups: order, scales, one rounding."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/segments/dequant_sum.py", tests="tests/segments/test_dequant_sum.py"
)

RAGGED = "test_against_reference[130-3-600]"
ADD = "acc += partial.to(tl.float32) * scale[:, None]"

MUTANTS = (
    mutant(
        "groups are added in descending order",
        "row = t0 + tl.cast(g, tl.int64) * N",
        "row = t0 + tl.cast(G - 1 - g, tl.int64) * N",
        killed_by="test_the_order_of_groups_is_ascending",
    ),
    mutant(
        "the last group is dropped",
        "for g in range(G):",
        "for g in range(G - 1):",
        killed_by=RAGGED,
    ),
    mutant(
        "the first group is dropped",
        "for g in range(G):",
        "for g in range(1, G):",
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
        "mask=mask, other=0)",
        "mask=mask, other=1)",
        equivalent="lanes do not mix, and those outside of the mask are not stored.",
    ),
)
