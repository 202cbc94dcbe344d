"""The definition of the numerics, in torch: each segment narrows exactly where its kernel does.

Same names, same inputs as the kernels; one file a segment. `oracle` is the whole chain in fp64 and
narrows nowhere; `rounded_chain` is that with a choice of where to narrow; `bounds` says how far
kernel and reference may be apart, and why. Not shipped.
"""

from reference.chain import prefill_segments, prefill_sparse_attn
from reference.column_bias import column_bias
from reference.dequant_sum import dequant_sum
from reference.fp8_quant import fp8_quant
from reference.gather_kv import gather_kv
from reference.group_quant import dequantise, group_quant, quantise
from reference.inverse_rope import inverse_rope
from reference.merge_norm import merge_norm
from reference.oracle import oracle
from reference.proj_a import proj_a
from reference.proj_b import proj_b
from reference.proj_b_dequant import proj_b_dequant
from reference.qk_softmax_pv import qk_softmax_pv
from reference.rounding_points import ROUNDING_POINTS, rounded_chain
from reference.row_quant import row_quant

__all__ = [
    "ROUNDING_POINTS",
    "column_bias",
    "dequant_sum",
    "dequantise",
    "fp8_quant",
    "gather_kv",
    "group_quant",
    "inverse_rope",
    "merge_norm",
    "oracle",
    "prefill_segments",
    "prefill_sparse_attn",
    "proj_a",
    "proj_b",
    "proj_b_dequant",
    "qk_softmax_pv",
    "quantise",
    "rounded_chain",
    "row_quant",
]
