"""row_barrier's second projection: one exact sum, two scales, one rounding."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant,
    file="dsv4_kernels/segments/proj_b_dequant.py",
    tests="tests/segments/test_proj_b_dequant.py",
)

SCALES = "acc.to(tl.float32) * row_scale[:, None] * wo_b_scale[None, :]"
RAGGED = "test_against_reference[130-3-200-130]"

MUTANTS = (
    mutant(
        "a dead token is what its scales make of it",
        "        out = tl.where(alive[:, None], out, 0.0)\n",
        "",
        killed_by="test_a_dead_token_is_exact_zeros_whatever_the_scales_hold",
    ),
    mutant(
        "a token of one live slot is dead",
        "mask=in_tokens, other=0) > 0",
        "mask=in_tokens, other=0) > 1",
        killed_by=RAGGED,
    ),
    mutant(
        "wo_b_scale is dropped",
        SCALES,
        "acc.to(tl.float32) * row_scale[:, None]",
        killed_by="test_scales_multiply_row_and_channel",
    ),
    mutant(
        "row_scale is dropped",
        SCALES,
        "acc.to(tl.float32) * wo_b_scale[None, :]",
        killed_by="test_scales_multiply_row_and_channel",
    ),
    mutant(
        "row_scale divides",
        SCALES,
        "acc.to(tl.float32) / row_scale[:, None] * wo_b_scale[None, :]",
        killed_by="test_scales_multiply_row_and_channel",
    ),
    mutant(
        "rounded to bf16 between the scales",
        SCALES,
        "(acc.to(tl.float32) * row_scale[:, None]).to(tl.bfloat16).to(tl.float32)"
        " * wo_b_scale[None, :]",
        killed_by=RAGGED,
    ),
    mutant(
        "cut to bf16, not rounded",
        "out.to(attn_out_ptr.dtype.element_ty)",
        "(out.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True).to(tl.bfloat16)",
        killed_by=RAGGED,
    ),
    mutant(
        "every token has the first one's scale",
        "tl.load(row_scale_ptr + t0 + t,",
        "tl.load(row_scale_ptr + 0 * t,",
        killed_by=RAGGED,
    ),
    mutant(
        "the last k is dropped",
        "in_hidden[:, None], K, BLOCK_T",
        "in_hidden[:, None], K - 1, BLOCK_T",
        killed_by=RAGGED,
    ),
    mutant(
        "the last column is not written",
        "in_hidden = d0 + d < D",
        "in_hidden = d0 + d < D - 1",
        killed_by=RAGGED,
    ),
    mutant(
        "only the first tile of columns is written",
        "d0 = (task // token_tiles * BLOCK_D).to(tl.int64)",
        "d0 = (task // token_tiles * 0).to(tl.int64)",
        killed_by=RAGGED,
    ),
    mutant(
        "token tiles vary slowest",
        "        t0 = (task % token_tiles * BLOCK_T).to(tl.int64)\n"
        "        d0 = (task // token_tiles * BLOCK_D).to(tl.int64)",
        "        t0 = (task // D_TILES * BLOCK_T).to(tl.int64)\n"
        "        d0 = (task % D_TILES * BLOCK_D).to(tl.int64)",
        equivalent="each of the D_TILES * token_tiles pairs still has one task, and no task reads "
        "what another writes.",
    ),
)
