"""The definition of the numerics, in torch: each segment narrows exactly where its kernel does.

One file a segment, of the kernel's name: the reference, for the same inputs, and `bound`, how far
the kernel may be from it, and why. Here are those of the whole chain: in its segments, as `oracle`
in fp64 that narrows nowhere, and as `rounded_chain` with a choice of where to narrow. Not shipped.
"""

from reference.chain import prefill_segments, prefill_sparse_attn
from reference.oracle import oracle
from reference.rounding_points import ROUNDING_POINTS, rounded_chain

__all__ = [
    "ROUNDING_POINTS",
    "oracle",
    "prefill_segments",
    "prefill_sparse_attn",
    "rounded_chain",
]
