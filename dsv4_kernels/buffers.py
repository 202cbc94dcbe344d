"""Names of what `prefill_sparse_attn` takes, in its order (spec section 3)."""

ARGUMENTS = (
    "q", "ori_kv", "ori_block_table", "kv_overlay", "cmp_kv", "cmp_block_table",
    "cmp_sparse_indices", "cmp_sparse_lens", "attn_sink", "num_tokens", "freqs_cos", "freqs_sin",
    "wo_a", "wo_b", "wo_b_scale",
)  # fmt: skip

# Those with a row per token; a wave sees its own rows of them.
PER_TOKEN = ("q", "cmp_sparse_indices", "cmp_sparse_lens", "freqs_cos", "freqs_sin")
