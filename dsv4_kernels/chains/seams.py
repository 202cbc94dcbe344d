"""The chain in two halves, for who exchanges heads or tokens between them.

    o_packed, live_slots = prefill_sparse_attn_heads(..)      attention and inverse RoPE of a chunk
    o_packed, live_slots = sparse_attn_heads(..)              or of a server's batch
    attn_out = grouped_o_proj(o_packed, .., live_slots)       the grouped INT8 output projection

One after the other they give `prefill_sparse_attn`'s bytes, or `sparse_attn`'s. o_packed is
group-major, the layout of an all-to-all over groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from dsv4_kernels.buffers import ARGUMENTS, WEIGHTS, Buffers, span_bytes
from dsv4_kernels.chains import batch
from dsv4_kernels.chains.attention import form_of
from dsv4_kernels.chains.prefill import GROUPS_PER_LAUNCH, WAVE_TOKENS, PrefillChain
from dsv4_kernels.contract import Contract
from dsv4_kernels.device.untraced import untraced
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.segments.proj_b import MAX_RANK
from dsv4_kernels.segments.slots import without_kv_head
from dsv4_kernels.segments.tiles import Tiles

O_PROJ = tuple(name for name in WEIGHTS if name.startswith("wo_"))  # what attention does not take

# What the heads take of the entries' arguments, in their order.
PREFILL_HEADS = tuple(name for name in ARGUMENTS if name not in O_PROJ)
BATCH_HEADS = tuple(name for name in batch.ARGUMENTS if name not in O_PROJ)


@untraced
@torch.no_grad()
def prefill_sparse_attn_heads(
    q: torch.Tensor,  # [T, H, C] bf16
    ori_kv: torch.Tensor,  # [pages, B, C] bf16
    ori_block_table: torch.Tensor,  # [n] int32
    kv_overlay: torch.Tensor,  # [T, C] bf16
    cmp_kv: torch.Tensor,  # [pages, B, C] bf16
    cmp_block_table: torch.Tensor,  # [m] int32
    cmp_sparse_indices: torch.Tensor,  # [T, K] int32
    cmp_sparse_lens: torch.Tensor,  # [T] int32
    attn_sink: torch.Tensor,  # [H] fp32
    num_tokens: int,
    freqs_cos: torch.Tensor,  # [T, P] bf16
    freqs_sin: torch.Tensor,  # [T, P] bf16
    *,
    groups: int,
    window: int = 128,
    out: torch.Tensor | None = None,
    live_slots: torch.Tensor | None = None,
    wave_tokens: int = WAVE_TOKENS,
    tiles: Mapping[str, Tiles] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention through to inverse RoPE, for any number of heads.

    Args:
        q, ..., freqs_sin: as `prefill_sparse_attn` takes them.
        groups: G, of the output projection for these heads; divides H.
        window, wave_tokens, tiles: as there.
        out, live_slots: outputs, [G, T, J] bf16 and [T] int32; allocated if None.

    Returns (o_packed [G, T, J] bf16 with J = (H/G)*C, live_slots [T] int32), on the current stream
    and without synchronising; rows past num_tokens are zeros in both. There is no gradient. Raises
    ContractError before anything is launched or written.
    """
    given = (
        q, ori_kv, ori_block_table, kv_overlay, cmp_kv, cmp_block_table, cmp_sparse_indices,
        cmp_sparse_lens, attn_sink, num_tokens, freqs_cos, freqs_sin,
    )  # fmt: skip
    half = prefill_half(given, groups=groups, window=window, tiles=tiles)
    return _attention(*half, wave_tokens, out, live_slots)


@untraced
@torch.no_grad()
def sparse_attn_heads(
    q: torch.Tensor,  # [T, H, C] bf16
    ori_kv: torch.Tensor,  # [pages, B1, C] bf16
    ori_block_table: torch.Tensor,  # [S, n1] int32
    cmp_kv: torch.Tensor | None,  # [pages, B2, C] bf16
    cmp_block_table: torch.Tensor | None,  # [S, n2] int32
    cmp_indices: torch.Tensor | None,  # [T, K] int32
    query_start_loc: torch.Tensor,  # [S + 1] int32
    seq_lens: torch.Tensor,  # [S] int32
    attn_sink: torch.Tensor,  # [H] fp32
    rope_cos: torch.Tensor,  # [T, P] bf16 or fp32
    rope_sin: torch.Tensor,  # [T, P] bf16 or fp32
    *,
    groups: int,
    compress_ratio: int,
    window: int = 128,
    softmax_scale: float | None = None,
    max_seq_len: int | None = None,
    rope_layout: str = "interleaved",
    ori_indices: torch.Tensor | None = None,
    token_map: tuple[torch.Tensor, torch.Tensor] | None = None,
    sharers: int = 1,
    out: torch.Tensor | None = None,
    live_slots: torch.Tensor | None = None,
    wave_tokens: int = WAVE_TOKENS,
    tiles: Mapping[str, Tiles] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of a server's batch through to inverse RoPE, for any number of heads.

    No value is read on the host: lengths, tables and live tokens are the device's.

    Args:
        q, ..., rope_sin: as `sparse_attn` takes them.
        groups: G, of the output projection for these heads; divides H.
        compress_ratio, ..., token_map, sharers, wave_tokens, tiles: as there; sharers is 1 on CUDA.
        out, live_slots: outputs, [G, T, J] bf16 and [T] int32; allocated if None.

    Returns (o_packed [G, T, J] bf16 with J = (H/G)*C, live_slots [T] int32), on the current stream
    and without synchronising; both are zeros for a token that is dead or has no live column. There
    is no gradient. Raises ContractError before anything is launched or written.
    """
    given = (
        q, ori_kv, ori_block_table, cmp_kv, cmp_block_table, cmp_indices, query_start_loc,
        seq_lens, attn_sink, rope_cos, rope_sin,
    )  # fmt: skip
    half = batch_half(
        given, groups=groups, compress_ratio=compress_ratio, window=window,
        softmax_scale=softmax_scale, max_seq_len=max_seq_len, rope_layout=rope_layout,
        sharers=sharers,
        ori_indices=ori_indices, token_map=token_map, tiles=tiles,
    )  # fmt: skip
    return _attention(*half, wave_tokens, out, live_slots)


@untraced
@torch.no_grad()
def grouped_o_proj(
    o_packed: torch.Tensor,  # [G, T, J] bf16
    wo_a: torch.Tensor,  # [G, R, J] bf16
    wo_b: torch.Tensor,  # [D, G*R] int8
    wo_b_scale: torch.Tensor,  # [D] fp32
    *,
    live_slots: torch.Tensor | None = None,  # [T] int32
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    wave_tokens: int = WAVE_TOKENS,
    schedule: str = "decoupled",
    groups_per_launch: int = GROUPS_PER_LAUNCH,
    tiles: Mapping[str, Tiles] | None = None,
) -> torch.Tensor:
    """The grouped INT8 output projection: proj_a, a scale per group and token, proj_b, their sum.

    Args:
        o_packed: attention's output, group by group.
        wo_a, wo_b, wo_b_scale: of these groups.
        live_slots: a token with none gets exact zeros whatever the weights hold; all count as live
            if None.
        out: output, [T, D] bf16 or fp32; allocated if None.
        out_dtype: of what is allocated. torch.float32 is these groups' part before the one
            rounding, for `tp.reduce`.
        wave_tokens, schedule, groups_per_launch, tiles: as `prefill_sparse_attn` takes them.

    Returns attn_out [T, D], on the current stream and without synchronising. There is no gradient.
    Raises ContractError before anything is launched or written.
    """
    chain = PrefillChain(schedule=schedule, groups_per_launch=groups_per_launch, tiles=tiles)
    contract = check_o_proj(o_packed, wo_a, wo_b, wo_b_scale, live_slots)
    wave_tokens = contract.integer("wave_tokens", wave_tokens, 1)
    T, D = contract["T"], contract["D"]
    if live_slots is None:
        live_slots = torch.ones(T, dtype=torch.int32, device=o_packed.device)
    known = out_dtype in (torch.bfloat16, torch.float32)
    contract.require(known, "out_dtype", "torch.bfloat16 or torch.float32", repr(out_dtype))
    if out is None:
        out = torch.empty((T, D), dtype=out_dtype, device=o_packed.device)
    given = dict(
        o_packed=o_packed, wo_a=wo_a, wo_b=wo_b, wo_b_scale=wo_b_scale, live_slots=live_slots
    )
    _check_output(contract, "attn_out", out, "out", given)

    for first in range(0, T, wave_tokens):
        last = min(first + wave_tokens, T)
        wave: Buffers = dict(
            wo_a=wo_a,
            wo_b=wo_b,
            wo_b_scale=wo_b_scale,
            o_packed=o_packed[:, first:last].contiguous(),
            live_slots=live_slots[first:last],
            attn_out=out[first:last],
        )
        _run(chain.projection({**contract.sizes, "N": last - first}), wave)
    return out


# A chain, attention's arguments as its segments take them, and their contract.
Half = tuple[PrefillChain, Buffers, Contract]


def prefill_half(given: tuple[Any, ...], *, groups: int, window: int, **options: Any) -> Half:
    """Of `prefill_sparse_attn_heads`, all letters of attention bound. Raises ContractError."""
    op = "prefill_sparse_attn_heads"
    chain = PrefillChain(window=window, attention=form_of(op, None, given[0]), **options)
    arguments = dict(zip(PREFILL_HEADS, given, strict=True))
    for name in ("ori_kv", "cmp_kv"):
        arguments[name] = without_kv_head(arguments[name])
    contract = chain.check_attention(op, arguments, groups)
    arguments["num_tokens"] = contract["num_tokens"]
    return chain, arguments, contract


def batch_half(
    given: tuple[Any, ...],
    *,
    groups: int,
    compress_ratio: int,
    window: int,
    max_seq_len: int | None,
    ori_indices: torch.Tensor | None,
    token_map: tuple[torch.Tensor, torch.Tensor] | None,
    **options: Any,
) -> Half:
    """Of `sparse_attn_heads`, likewise."""
    op, named = "sparse_attn_heads", dict(zip(BATCH_HEADS, given, strict=True))
    named |= dict(ori_indices=ori_indices, token_map=token_map)
    layout = batch.layout_of(
        op, named, compress_ratio=compress_ratio, window=window, max_seq_len=max_seq_len
    )
    attention = form_of(op, None, named["q"])
    chain = batch.BatchChain(
        layout.fixed, mapped=token_map is not None, attention=attention, **options
    )
    arguments = layout.views(named)
    return chain, arguments, chain.check_attention(op, arguments, groups)


def check_o_proj(
    o_packed: torch.Tensor,
    wo_a: torch.Tensor,
    wo_b: torch.Tensor,
    wo_b_scale: torch.Tensor,
    live_slots: torch.Tensor | None,
) -> Contract:
    """The contract of `grouped_o_proj`, all its letters bound. Raises ContractError."""
    contract = Contract("grouped_o_proj", rows="T")
    given = dict(o_packed=o_packed, wo_a=wo_a, wo_b=wo_b, wo_b_scale=wo_b_scale)
    for name, value in given.items():
        contract.buffer(name, value)
    if live_slots is not None:
        contract.buffer("live_slots", live_slots)
    G, R, J = (contract[letter] for letter in ("G", "R", "J"))
    contract.require(G >= 1 and J >= 1, "wo_a", "[G, R, J] with G, J >= 1", f"G = {G}, J = {J}")
    contract.require(1 <= R <= MAX_RANK, "wo_a", f"[G, R, J] with R in 1..{MAX_RANK}", f"R = {R}")
    return contract


def _attention(
    chain: PrefillChain,
    arguments: Buffers,
    contract: Contract,
    wave_tokens: int,
    out: torch.Tensor | None,
    live_slots: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """o_packed and live_slots, wave by wave."""
    wave_tokens = contract.integer("wave_tokens", wave_tokens, 1)
    T, live = contract["T"], contract["num_tokens"]
    o_packed = contract.output("o_packed", None) if out is None else out
    _check_output(contract, "o_packed", o_packed, "out", arguments)
    live_slots = contract.output("live_slots", live_slots)
    _check_output(contract, "live_slots", live_slots, "live_slots", arguments | {"out": o_packed})

    end = min(-(-live // wave_tokens) * wave_tokens, T)
    live_slots[end:].zero_()
    o_packed[:, end:].zero_()
    for first in range(0, end, wave_tokens):
        last = min(first + wave_tokens, end)
        wave = arguments | chain.numbers(contract.sizes)
        wave |= {name: arguments[name][first:last] for name in chain.per_token}
        wave |= dict(first_token=first, tokens=last - first, live_slots=live_slots[first:last])
        whole = last - first == T
        if whole:
            wave["o_packed"] = o_packed
        _run(chain.attention({**contract.sizes, "N": last - first}), wave)
        if not whole:  # a wave's rows of every group lie apart in the chunk's
            o_packed[:, first:last].copy_(wave["o_packed"])
    return o_packed, live_slots


def _check_output(
    contract: Contract, name: str, out: torch.Tensor, argument: str, inputs: Mapping[str, Any]
) -> None:
    """An output that no wave overwrites what another still reads."""
    contract.buffer(name, out, argument)
    contract.may_be_written(argument, out)
    nbytes = {k: span_bytes(v) for k, v in inputs.items() if isinstance(v, torch.Tensor)}
    contract.apart(argument, out, inputs, nbytes)


def _run(nodes: Iterable[Node], buffers: Buffers) -> None:
    """Run nodes one after the other; what a node makes that is not there yet is allocated."""
    for node in nodes:
        segment = node.work
        given = {name: buffers[name] for name in segment.reads + segment.updates + segment.numbers}
        given |= {name: buffers.get(name) for name in segment.writes}
        groups = dict(group_range=node.part("groups")) if segment.by_groups else {}
        made = segment(None, **given, **groups)
        names = segment.writes + segment.updates
        buffers.update(zip(names, made if len(names) > 1 else (made,), strict=True))
