"""The same work through what a user would take otherwise: torch, FlashMLA, DeepGEMM.

Plain functions of a chunk's inputs, in bf16 with fp32 softmax as such code is written; every step
that these kernels spare a user - page tables, liveness, compaction - is part of a rival's time.
Nothing here waits for the device, so that every rival can be recorded as a graph too.

FlashMLA and DeepGEMM need a Hopper GPU and their packages (`flash_mla`, `deep_gemm`). Their two
functions were written from the packages' interfaces and have not been run yet.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch.nn.functional import pad

from bench.roof import int_mm
from dsv4_kernels.inputs.prefill import PrefillInputs
from reference.group_quant import AMAX_FLOOR

Attention = Callable[[PrefillInputs], torch.Tensor]
ProjA = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

FLASH_MLA_COLUMNS = 128  # it takes index columns in multiples of this
INT_MM_ROWS = 32  # torch._int_mm wants more than 16 rows on CUDA


def available(package: str) -> bool:
    """Whether a rival's package is installed."""
    return importlib.util.find_spec(package) is not None


def attention_eager(inputs: PrefillInputs) -> torch.Tensor:
    """[T, H, C] bf16: rows gathered, two batched products, softmax with the sink as a column."""
    rows, row, live = _slots(inputs)
    T, H, C = inputs.q.shape
    kv = rows[row]  # [T, K, C]
    scores = (inputs.q @ kv.transpose(1, 2)).float() * C**-0.5
    scores = scores.masked_fill(~live[:, None], -torch.inf)
    sink = inputs.attn_sink.view(1, H, 1).expand(T, H, 1)
    p = torch.softmax(torch.cat([scores, sink], dim=2), dim=2)[..., :-1]
    p = p.nan_to_num(0.0)  # a head without sink of a token without live slots
    return p.bfloat16() @ kv


def attention_flash_mla(inputs: PrefillInputs) -> torch.Tensor:
    """[T, H, C] bf16 by `flash_mla_sparse_fwd`, live indices first."""
    from flash_mla import flash_mla_sparse_fwd  # pyright: ignore[reportMissingImports]

    rows, row, live = _slots(inputs)
    T, K = row.shape
    columns = K + -K % FLASH_MLA_COLUMNS
    place = (live.cumsum(1) - 1).masked_fill(~live, columns)  # dead ones into a column cut off
    indices = row.new_zeros(T, columns + 1).scatter_(1, place, row)[:, :columns].int()
    out, _, _ = flash_mla_sparse_fwd(
        inputs.q,
        rows[:, None],
        indices[:, None],
        inputs.q.shape[2] ** -0.5,
        attn_sink=inputs.attn_sink,
        topk_length=live.sum(1, dtype=torch.int32),
    )
    return out


def inverse_rope(o: torch.Tensor, inputs: PrefillInputs) -> torch.Tensor:
    """[T, H, C] bf16 with the last P columns of every head rotated back."""
    P = inputs.freqs_cos.shape[1]
    cos, sin = (f[:, None, : P // 2].float() for f in (inputs.freqs_cos, inputs.freqs_sin))
    even, odd = o[..., -P::2].float(), o[..., 1 - P :: 2].float()
    rotated = torch.stack([even * cos + odd * sin, odd * cos - even * sin], dim=-1)
    return torch.cat([o[..., :-P], rotated.flatten(-2).to(o.dtype)], dim=-1)


def pack(o: torch.Tensor, groups: int) -> torch.Tensor:
    """[T, H, C] as [G, T, J], a view."""
    return o.view(o.shape[0], groups, -1).transpose(0, 1)


def proj_a_bmm(o_packed: torch.Tensor, wo_a: torch.Tensor) -> torch.Tensor:
    """[G, T, R] bf16 by `torch.bmm`."""
    return torch.bmm(o_packed, wo_a.transpose(1, 2))


def proj_a_deep_gemm(o_packed: torch.Tensor, wo_a: torch.Tensor) -> torch.Tensor:
    """[G, T, R] bf16 by DeepGEMM's einsum over tokens b, groups h, inputs r and outputs d."""
    import deep_gemm  # pyright: ignore[reportMissingImports]

    tokens_first = o_packed.transpose(0, 1).contiguous()
    out = o_packed.new_empty(tokens_first.shape[0], *wo_a.shape[:2])
    deep_gemm.einsum("bhr,hdr->bhd", tokens_first, wo_a, out)
    return out.transpose(0, 1)


def group_quant(o_r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [G, T, R] int8 and their scale [G, T, 1] fp32."""
    scale = o_r.float().abs().amax(dim=2, keepdim=True).clamp_min(AMAX_FLOOR) / 127
    return torch.round(o_r.float() / scale).to(torch.int8), scale


def split_by_group(wo_b: torch.Tensor, groups: int) -> tuple[torch.Tensor, ...]:
    """A contiguous [D, R] per group: how a user of `torch._int_mm` would load the weights."""
    return tuple(part.contiguous() for part in wo_b.chunk(groups, dim=1))


def proj_b_int_mm(codes: torch.Tensor, wo_b: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Per group [T, D] int32, by `torch._int_mm`."""
    T = codes.shape[1]
    if codes.is_cuda and T < INT_MM_ROWS:
        codes = pad(codes, (0, 0, 0, INT_MM_ROWS - T))
    return [int_mm(c.contiguous(), w.t())[:T] for c, w in zip(codes, wo_b, strict=True)]


def projection(
    o_packed: torch.Tensor,
    wo_a: torch.Tensor,
    wo_b: tuple[torch.Tensor, ...],
    wo_b_scale: torch.Tensor,
    proj_a: ProjA = proj_a_bmm,
) -> torch.Tensor:
    """[T, D] bf16 from [G, T, J] bf16; wo_b as `split_by_group` gives it."""
    codes, scale = group_quant(proj_a(o_packed, wo_a))
    partial = proj_b_int_mm(codes, wo_b)
    acc = partial[0].float() * scale[0]
    for one, its_scale in zip(partial[1:], scale[1:], strict=True):
        acc += one.float() * its_scale
    return (acc * wo_b_scale).bfloat16()


def chain(
    inputs: PrefillInputs,
    wo_b: tuple[torch.Tensor, ...],
    attention: Attention = attention_eager,
    proj_a: ProjA = proj_a_bmm,
) -> torch.Tensor:
    """[T, D] bf16: the whole chain."""
    o_packed = pack(inverse_rope(attention(inputs), inputs), groups=len(wo_b))
    return projection(o_packed, inputs.wo_a, wo_b, inputs.wo_b_scale, proj_a)


def _slots(inputs: PrefillInputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(rows of all pools [*, C], the one each slot names [T, K] int64, live [T, K]).

    It trusts the page tables, as a server's own code may.
    """
    pools = [pool.flatten(0, -2) for pool in (inputs.ori_kv, inputs.kv_overlay, inputs.cmp_kv)]
    device, (T, K) = inputs.q.device, inputs.cmp_sparse_indices.shape
    in_page = torch.arange(inputs.ori_kv.shape[1], device=device)
    tables = (inputs.ori_block_table, inputs.cmp_block_table)
    ring, compressed = ((table[:, None] * len(in_page) + in_page).flatten() for table in tables)
    overlay = torch.arange(T, device=device) + len(pools[0])
    compressed = compressed + len(pools[0]) + T
    row_of_raw = torch.cat([ring[: inputs.window], overlay, compressed])

    raw = inputs.cmp_sparse_indices.long()
    live = torch.arange(K, device=device) < inputs.cmp_sparse_lens[:, None]
    live &= (raw >= 0) & (torch.arange(T, device=device) < inputs.num_tokens)[:, None]
    row = row_of_raw[raw.clamp(0, len(row_of_raw) - 1)].masked_fill(~live, 0)
    return torch.cat(pools), row, live
