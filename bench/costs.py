"""What attention and the chain have to move and multiply at the least, each as one.

What segments hand to each other costs nothing here; the segments' own costs stand in their files.
"""

from __future__ import annotations

from dsv4_kernels.inputs.prefill import PrefillInputs
from dsv4_kernels.segments.cost import Cost, attention_flop, size

POOLS = ("ori_kv", "kv_overlay", "cmp_kv")


def attention_cost(inputs: PrefillInputs, live_keys: int) -> Cost:
    """The cost of attention as one, up to its heads [T, H, C] in bf16: slots that are looked up,
    rows of the pools, queries in, heads out.

    Args:
        live_keys: live (token, column) pairs of the chunk.
    """
    _, H, C = inputs.q.shape
    pools = sum(size(getattr(inputs, name)) for name in POOLS)
    once = (
        inputs.q, inputs.attn_sink, inputs.ori_block_table, inputs.cmp_block_table,
        inputs.cmp_sparse_indices, inputs.cmp_sparse_lens,
    )  # fmt: skip
    gathered = min(pools, live_keys * C * inputs.kv_overlay.element_size())
    return Cost(
        sum(map(size, once)) + gathered + size(inputs.q),
        bf16_flop=attention_flop(live_keys, H, C),
    )


def chain_cost(inputs: PrefillInputs, live_keys: int) -> Cost:
    """The cost of the chain as one: what segments hand to each other costs nothing here.

    Args: as attention_cost.
    """
    attention = attention_cost(inputs, live_keys)
    once = (inputs.freqs_cos, inputs.freqs_sin, inputs.wo_a, inputs.wo_b, inputs.wo_b_scale)
    attn_out = inputs.q.shape[0] * inputs.wo_b.shape[0] * inputs.q.element_size()
    return Cost(
        attention.bytes - size(inputs.q) + sum(map(size, once)) + attn_out,
        bf16_flop=attention.bf16_flop + 2 * inputs.num_tokens * inputs.wo_a.numel(),
        int8_flop=2 * inputs.num_tokens * inputs.wo_b.numel(),
    )
