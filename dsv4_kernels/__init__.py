"""DeepSeek-V4's prefill sparse attention and output projection as Triton-Ascend kernels.

    from dsv4_kernels import prefill_sparse_attn           # the whole chain of a chunk
    from dsv4_kernels import sparse_attn                   # or for a server's batch
    from dsv4_kernels import gather_kv, qk_softmax_pv      # or its segments, in segments/
    from dsv4_kernels import sparse_attn_heads, grouped_o_proj  # or its halves, chains/seams.py

| segment        | core     | reads                                  | writes             |
|----------------|----------|----------------------------------------|--------------------|
| resolve_slots  | vector   | tables, indices, lens | rows, bias, runs, live_blocks, live_slots |
| gather_kv      | vector   | pools, rows, runs, live_blocks         | kv                 |
| qk_softmax_pv  | cube+vec | q, kv, bias, live_blocks               | m, l, o            |
| merge_finish   | vector   | m, l, o, live blocks, slots, sink, rope tables | o_packed   |
| proj_a         | cube     | o_packed, wo_a                         | o_r                |
| group_quant    | vector   | o_r                                    | codes, scale       |
| proj_b         | cube     | codes, wo_b                            | partial            |
| dequant_sum    | vector   | partial, scale, live_slots, wo_b_scale | attn_out           |

In place of three of them, attention in lanes has

| qk             | cube     | q, kv, live_blocks                     | scores             |
| softmax        | vector   | scores, bias, live_blocks, attn_sink   | p                  |
| pv             | cube     | p, kv, live_blocks                     | o_heads, o_rope    |
| finish         | vector   | o_rope, live_slots, freqs_cos/sin      | o_heads (rope)     |
| proj_a_heads   | cube     | o_heads, wo_a                          | o_r                |

In place of the three between resolve_slots and proj_a, one kernel has on CUDA

| attend_rows    | cube+vec | pools, q, rows, bias, live blocks, slots, rope tables | o_packed |

In place of merge_finish, the form separate_tail has, for the same bytes of o_packed,

| merge_norm     | vector   | m, l, o, live blocks, slots, attn_sink | o_packed, o_rope   |
| inverse_rope   | vector   | o_rope, live_slots, freqs_cos/sin      | o_packed (rope)    |

In place of the last three, the schedule row_barrier has

| row_quant      | vector   | o_r                                    | codes, row_scale   |
| proj_b_dequant | cube+vec | codes, wo_b, scales, live_slots        | attn_out           |

Importing the package needs torch only. A segment is imported, and Triton with it, when it is first
asked for; what is missing for the device at hand is said then (`device.MissingDependency`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dsv4_kernels import device
from dsv4_kernels.contract import ContractError
from dsv4_kernels.device import MissingDependency

if TYPE_CHECKING:
    from dsv4_kernels.chains.batch import SparseAttn, sparse_attn
    from dsv4_kernels.chains.prefill import PrefillSparseAttn, prefill_sparse_attn
    from dsv4_kernels.chains.seams import (
        grouped_o_proj,
        prefill_sparse_attn_heads,
        sparse_attn_heads,
    )
    from dsv4_kernels.segments.attend_rows import attend_rows
    from dsv4_kernels.segments.dequant_sum import dequant_sum
    from dsv4_kernels.segments.finish import finish
    from dsv4_kernels.segments.gather_kv import gather_kv
    from dsv4_kernels.segments.group_quant import group_quant
    from dsv4_kernels.segments.inverse_rope import inverse_rope
    from dsv4_kernels.segments.merge_finish import merge_finish
    from dsv4_kernels.segments.merge_norm import merge_norm
    from dsv4_kernels.segments.proj_a import proj_a
    from dsv4_kernels.segments.proj_a_heads import proj_a_heads
    from dsv4_kernels.segments.proj_b import proj_b
    from dsv4_kernels.segments.proj_b_dequant import proj_b_dequant
    from dsv4_kernels.segments.pv import pv
    from dsv4_kernels.segments.qk import qk
    from dsv4_kernels.segments.qk_softmax_pv import qk_softmax_pv
    from dsv4_kernels.segments.requests import token_map
    from dsv4_kernels.segments.resolve_slots import resolve_slots
    from dsv4_kernels.segments.row_quant import row_quant
    from dsv4_kernels.segments.softmax import softmax

__version__ = "0.1.0"  # read by pyproject.toml

__all__ = [
    "ContractError",
    "MissingDependency",
    "PrefillSparseAttn",
    "SparseAttn",
    "attend_rows",
    "dequant_sum",
    "finish",
    "gather_kv",
    "group_quant",
    "grouped_o_proj",
    "inverse_rope",
    "merge_finish",
    "merge_norm",
    "prefill_sparse_attn",
    "prefill_sparse_attn_heads",
    "proj_a",
    "proj_a_heads",
    "proj_b",
    "proj_b_dequant",
    "pv",
    "qk",
    "qk_softmax_pv",
    "resolve_slots",
    "row_quant",
    "softmax",
    "sparse_attn",
    "sparse_attn_heads",
    "token_map",
]

_MODULES = {
    "SparseAttn": "chains.batch",
    "sparse_attn": "chains.batch",
    "token_map": "segments.requests",
    "prefill_sparse_attn": "chains.prefill",
    "PrefillSparseAttn": "chains.prefill",
    "prefill_sparse_attn_heads": "chains.seams",
    "sparse_attn_heads": "chains.seams",
    "grouped_o_proj": "chains.seams",
}  # others: segments/


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    device.require_triton()
    module = _MODULES.get(name, f"segments.{name}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    """The public names too that nobody has asked for yet."""
    return sorted({*globals(), *__all__})
