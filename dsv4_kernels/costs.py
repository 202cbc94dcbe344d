"""What a segment has to move and multiply at the least, from the shapes of its tensors.

Bytes: each input once, each output once - of the pools the rows gathered, of o_packed the columns
that the segment writes. FLOP: the dots alone, two per multiplication and addition (spec section 9).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dsv4_kernels.inputs.prefill import PrefillInputs

POOLS = ("ori_kv", "kv_overlay", "cmp_kv")


@dataclass(frozen=True)
class Cost:
    """Bytes through global memory, and FLOP by the dtype that is multiplied."""

    bytes: int
    bf16_flop: int = 0
    int8_flop: int = 0


def segment_cost(
    segment: str, tensors: Mapping[str, torch.Tensor], live_keys: int | None = None
) -> Cost:
    """The cost of one segment for all its groups.

    Args:
        tensors: its inputs and outputs by buffer name; they may be on the meta device.
        live_keys: live (token, column) pairs, without which every column counts as one.
    """
    sizes = {name: _bytes(tensor) for name, tensor in tensors.items()}
    pools = sum(sizes.pop(name, 0) for name in POOLS)  # column_bias takes their shapes only
    if segment == "gather_kv":
        width = tensors["kv"].shape[-1] * tensors["kv"].element_size()
        sizes["pools"] = min(pools, sizes["kv"] if live_keys is None else live_keys * width)
    if segment in ("merge_norm", "inverse_rope"):
        _, H, P = tensors["o_rope"].shape
        G, _, J = tensors["o_packed"].shape
        C = G * J // H
        written = P if segment == "inverse_rope" else C - P
        sizes["o_packed"] = sizes["o_packed"] * written // C
    return Cost(sum(sizes.values()), **_flop(segment, tensors, live_keys))


def attention_cost(inputs: PrefillInputs, live_keys: int) -> Cost:
    """The cost of attention as one, up to its heads [T, H, C] in bf16: slots that are looked up,
    rows of the pools, queries in, heads out.

    Args:
        live_keys: live (token, column) pairs of the chunk.
    """
    _, H, C = inputs.q.shape
    pools = sum(_bytes(getattr(inputs, name)) for name in POOLS)
    once = (
        inputs.q, inputs.attn_sink, inputs.ori_block_table, inputs.cmp_block_table,
        inputs.cmp_sparse_indices, inputs.cmp_sparse_lens,
    )  # fmt: skip
    gathered = min(pools, live_keys * C * inputs.kv_overlay.element_size())
    return Cost(
        sum(map(_bytes, once)) + gathered + _bytes(inputs.q),
        bf16_flop=_attention_flop(live_keys, H, C),
    )


def chain_cost(inputs: PrefillInputs, live_keys: int) -> Cost:
    """The cost of the chain as one: what segments hand to each other costs nothing here.

    Args: as attention_cost.
    """
    attention = attention_cost(inputs, live_keys)
    once = (inputs.freqs_cos, inputs.freqs_sin, inputs.wo_a, inputs.wo_b, inputs.wo_b_scale)
    attn_out = inputs.q.shape[0] * inputs.wo_b.shape[0] * inputs.q.element_size()
    return Cost(
        attention.bytes - _bytes(inputs.q) + sum(map(_bytes, once)) + attn_out,
        bf16_flop=attention.bf16_flop + 2 * inputs.num_tokens * inputs.wo_a.numel(),
        int8_flop=2 * inputs.num_tokens * inputs.wo_b.numel(),
    )


def _flop(
    segment: str, tensors: Mapping[str, torch.Tensor], live_keys: int | None
) -> dict[str, int]:
    if segment == "qk_softmax_pv":
        _, H, C = tensors["q"].shape
        keys = tensors["bias"].numel() if live_keys is None else live_keys
        return {"bf16_flop": _attention_flop(keys, H, C)}
    if segment == "proj_a":
        return {"bf16_flop": 2 * tensors["o_packed"].shape[1] * tensors["wo_a"].numel()}
    if segment in ("proj_b", "proj_b_dequant"):
        return {"int8_flop": 2 * tensors["codes"].shape[0] * tensors["wo_b"].numel()}
    return {}


def _attention_flop(keys: int, H: int, C: int) -> int:
    """q . k and p . v of every key and head."""
    return 2 * 2 * keys * H * C


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
