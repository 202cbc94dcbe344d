"""The boxes of the pipeline, one file each: kernel, what it declares of itself, public function.

| segment        | core     | reads                                  | writes             |
|----------------|----------|----------------------------------------|--------------------|
| gather_kv      | vector   | pools, tables, indices, lens           | kv                 |
| column_bias    | vector   | tables, indices, lens                  | bias, live_slots   |
| qk_softmax_pv  | cube+vec | q, kv, bias                            | m, l, o            |
| merge_norm     | vector   | m, l, o, live_slots, attn_sink         | o_packed, o_rope   |
| inverse_rope   | vector   | o_rope, live_slots, freqs_cos/sin      | o_packed (rope)    |
| proj_a         | cube     | o_packed, wo_a                         | o_r                |
| group_quant    | vector   | o_r                                    | codes, scale       |
| proj_b         | cube     | codes, wo_b                            | partial            |
| dequant_sum    | vector   | partial, scale, wo_b_scale             | attn_out           |

In place of the last three, the schedule row_barrier has

| row_quant      | vector   | o_r                                    | codes, row_scale   |
| proj_b_dequant | cube+vec | codes, wo_b, row_scale, wo_b_scale     | attn_out           |

segment.py is what they declare, slots.py the one definition of a live slot, tiles.py what all tiles
have in common, cost.py what cannot be avoided.
"""

from dsv4_kernels.segments import (
    column_bias,
    dequant_sum,
    gather_kv,
    group_quant,
    inverse_rope,
    merge_norm,
    proj_a,
    proj_b,
    proj_b_dequant,
    qk_softmax_pv,
    row_quant,
)
from dsv4_kernels.segments.segment import Segment

# In the order of the chain, then what only row_barrier has.
SEGMENTS: dict[str, Segment] = {
    module.SEGMENT.name: module.SEGMENT
    for module in (
        gather_kv, column_bias, qk_softmax_pv, merge_norm, inverse_rope, proj_a, group_quant,
        proj_b, dequant_sum, row_quant, proj_b_dequant,
    )
}  # fmt: skip
