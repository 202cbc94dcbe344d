"""The chain in two halves, for who exchanges heads or tokens between them.

    o_packed, live_slots = prefill_sparse_attn_heads(..)      attention and inverse RoPE
    attn_out = grouped_o_proj(o_packed, .., live_slots)       the grouped INT8 output projection

One after the other they give `prefill_sparse_attn`'s bytes. o_packed is group-major, the layout of
an all-to-all over groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from dsv4_kernels.buffers import ARGUMENTS, PER_TOKEN, Buffers
from dsv4_kernels.chains.prefill import GROUPS_PER_LAUNCH, WAVE_TOKENS, PrefillChain, check_widths
from dsv4_kernels.contract import Contract
from dsv4_kernels.device.untraced import untraced
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.segments.proj_b import MAX_RANK
from dsv4_kernels.segments.slots import check_slots, without_kv_head
from dsv4_kernels.segments.tiles import Tiles


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
    chain = PrefillChain(window=window, tiles=tiles)
    given = (
        q, ori_kv, ori_block_table, kv_overlay, cmp_kv, cmp_block_table, cmp_sparse_indices,
        cmp_sparse_lens, attn_sink, num_tokens, freqs_cos, freqs_sin,
    )  # fmt: skip
    arguments, contract = check_heads(given, groups=groups, window=window)
    wave_tokens = contract.integer("wave_tokens", wave_tokens, 1)
    T = contract["T"]
    o_packed = contract.output("o_packed", None) if out is None else out
    _check_output(contract, "o_packed", o_packed, "out", arguments)
    live_slots = contract.output("live_slots", live_slots)
    _check_output(contract, "live_slots", live_slots, "live_slots", arguments | {"out": o_packed})

    live = arguments["num_tokens"] = contract["num_tokens"]
    end = min(-(-live // wave_tokens) * wave_tokens, T)
    live_slots.zero_()
    o_packed[:, end:].zero_()
    for first in range(0, end, wave_tokens):
        last = min(first + wave_tokens, end)
        wave = arguments | chain.numbers(contract.sizes)
        wave |= {name: arguments[name][first:last] for name in PER_TOKEN if name in arguments}
        wave["first_token"] = first
        whole = last - first == T
        if whole:
            wave["o_packed"] = o_packed
        _run(chain.attention({**contract.sizes, "N": last - first}), wave)
        if not whole:  # a wave's rows of every group lie apart in the chunk's
            o_packed[:, first:last].copy_(wave["o_packed"])
        live_slots[first:last].copy_(wave["live_slots"])
    return o_packed, live_slots


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


def check_heads(given: tuple[Any, ...], *, groups: int, window: int) -> tuple[Buffers, Contract]:
    """The arguments of `prefill_sparse_attn_heads` by name, pools in three dimensions, and their
    contract, all letters of attention bound. Raises ContractError."""
    arguments = dict(zip(ARGUMENTS, given, strict=False))
    contract = Contract("prefill_sparse_attn_heads", rows="T")
    for name in ("ori_kv", "cmp_kv"):
        arguments[name] = without_kv_head(arguments[name])
    for name, value in arguments.items():
        if name != "num_tokens":
            contract.buffer(name, value)
    check_slots(contract, num_tokens=arguments["num_tokens"], window=window, first_token=0)
    check_widths(contract, "freqs_cos")
    H, C = contract["H"], contract["C"]
    G = contract.integer("groups", groups, 1)
    contract.require(H % G == 0, "groups", f"a divisor of H={H}", str(G))
    contract.sizes |= dict(G=G, J=H // G * C)
    return arguments, contract


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


def _check_output(
    contract: Contract, name: str, out: torch.Tensor, argument: str, inputs: Mapping[str, Any]
) -> None:
    """An output that no wave overwrites what another still reads."""
    contract.buffer(name, out, argument)
    leaf = out.requires_grad and out.is_leaf
    contract.require(
        not leaf, argument, "a tensor that may be written", "a leaf that requires grad"
    )
    begin, end = out.data_ptr(), out.data_ptr() + out.nbytes
    for other, tensor in inputs.items():
        if isinstance(tensor, torch.Tensor) and tensor.nbytes:
            first = tensor.data_ptr()
            apart = end <= first or first + tensor.nbytes <= begin
            contract.require(apart, argument, f"memory apart from `{other}`", "an overlap")


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
