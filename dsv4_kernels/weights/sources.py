"""One function for each kind of tensors that a converter or a server holds in memory."""

from __future__ import annotations

import torch

from dsv4_kernels.contract import Contract
from dsv4_kernels.weights.convert import Conversion, Projection
from dsv4_kernels.weights.matrix import Named
from dsv4_kernels.weights.oproj import OProj
from dsv4_kernels.weights.wide import FP8


def from_fp8(
    wo_a: torch.Tensor,  # [G*R, J] e4m3
    wo_a_scale: torch.Tensor,  # [ceil(G*R/block), ceil(J/block)] e8m0 or fp32
    wo_b: torch.Tensor,  # [D, G*R] e4m3
    wo_b_scale: torch.Tensor,  # [ceil(D/block), ceil(G*R/block)] e8m0 or fp32
    groups: int,
    *,
    attn_sink: torch.Tensor | None = None,
) -> OProj:
    """The official checkpoint: wo_a exactly, wo_b quantised by rows.

    Blocks are square, of 128 in DeepSeek-V4 and of 32 in V4.1; their size follows from the shapes.

    Raises ContractError for another dtype or shape, and for a weight that is no finite number.
    """
    first = Projection(Named("wo_a", wo_a), Named("wo_a_scale", wo_a_scale))
    second = Projection(Named("wo_b", wo_b), Named("wo_b_scale", wo_b_scale))
    return _convert(Contract("from_fp8"), (first, FP8), (second, FP8), attn_sink, groups)


def from_bf16(
    wo_a: torch.Tensor,  # [G*R, J] bf16
    wo_b: torch.Tensor,  # [D, G*R] bf16
    groups: int,
    *,
    attn_sink: torch.Tensor | None = None,
) -> OProj:
    """What msModelSlim leaves in bf16: wo_a as it is, wo_b quantised by rows.

    Raises ContractError as `from_fp8`.
    """
    first, second = Projection(Named("wo_a", wo_a)), Projection(Named("wo_b", wo_b))
    contract, bf16 = Contract("from_bf16"), torch.bfloat16
    return _convert(contract, (first, bf16), (second, bf16), attn_sink, groups)


def from_int8(
    wo_a: torch.Tensor,  # [G*R, J] bf16
    wo_b: torch.Tensor,  # [D, G*R] int8
    weight_scale: torch.Tensor,  # [D] or [D, 1] fp32
    groups: int,
    *,
    weight_offset: torch.Tensor | None = None,  # [D] or [D, 1], all zero
    attn_sink: torch.Tensor | None = None,
) -> OProj:
    """What vllm-ascend's script and cann-recipes write: everything as it is, -128 included.

    Raises ContractError as `from_fp8`, and for an offset that is not zero: the kernels have none.
    """
    contract = Contract("from_int8")
    return _int8(contract, wo_a, wo_b, weight_scale, weight_offset, attn_sink, groups)


def from_vllm_ascend(
    wo_a: torch.Tensor,  # [G, J, R] bf16
    wo_b: torch.Tensor,  # [G*R, D] int8
    weight_scale: torch.Tensor,  # [D] or [D, 1] fp32
    *,
    weight_offset: torch.Tensor | None = None,  # [D] or [D, 1], all zero
    attn_sink: torch.Tensor | None = None,
) -> OProj:
    """A layer that vllm-ascend has loaded: wo_a [G, J, R] -> [G, R, J], wo_b transposed back.

    On an NPU its wo_b is in the format FRACTAL_NZ: pass ``torch_npu.npu_format_cast(wo_b, 2)``, the
    same values in rows. Copies both, so the layer's own can be freed.

    Raises ContractError as `from_int8`.
    """
    contract = Contract("from_vllm_ascend")
    Named("wo_a", wo_a).require(contract, "[G, J, R]", wo_a.dim() == 3, torch.bfloat16)
    groups = wo_a.shape[0]
    rows = groups * wo_a.shape[2]
    fits = wo_b.dim() == 2 and wo_b.shape[0] == rows
    Named("wo_b", wo_b).require(contract, f"[G*R={rows}, D]", fits, torch.int8)
    rows_first = wo_a.transpose(1, 2).reshape(rows, -1)
    return _int8(contract, rows_first, wo_b.T, weight_scale, weight_offset, attn_sink, groups)


def _int8(
    contract: Contract,
    wo_a: torch.Tensor,
    wo_b: torch.Tensor,
    weight_scale: torch.Tensor,
    weight_offset: torch.Tensor | None,
    attn_sink: torch.Tensor | None,
    groups: int,
) -> OProj:
    first = Projection(Named("wo_a", wo_a))
    scale, offset = Named("weight_scale", weight_scale), _named("weight_offset", weight_offset)
    second = Projection(Named("wo_b", wo_b), scale, offset)
    return _convert(contract, (first, torch.bfloat16), (second, torch.int8), attn_sink, groups)


def _convert(
    contract: Contract,
    first: tuple[Projection, torch.dtype],
    second: tuple[Projection, torch.dtype],
    attn_sink: torch.Tensor | None,
    groups: int,
) -> OProj:
    """All ranks' weights, of projections whose weights have just this dtype."""
    for projection, dtype in (first, second):
        weight = projection.weight
        weight.require(contract, "[rows, columns]", len(weight.shape) == 2, dtype)
    sink = _named("attn_sink", attn_sink)
    return Conversion(contract, first[0], second[0], sink, groups).oproj()


def _named(name: str, tensor: torch.Tensor | None) -> Named | None:
    return None if tensor is None else Named(name, tensor)
