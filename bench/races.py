"""Parts of the chain that race by themselves, by these kernels and by rivals, and their judges."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from bench import rivals, workloads
from bench.scale import DEVICE
from dsv4_kernels import prefill_sparse_attn
from dsv4_kernels.buffers import Buffers
from dsv4_kernels.inputs.prefill import PrefillInputs
from dsv4_kernels.launcher import executors
from dsv4_kernels.launcher.executors import Executor
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.segments import SEGMENTS
from dsv4_kernels.segments.cost import Cost
from dsv4_kernels.segments.slots import SLOTS
from reference import bounds
from reference.gather_kv import gather_kv
from reference.inverse_rope import turn_back
from reference.merge_norm import merge_norm
from reference.proj_a import proj_a as proj_a_reference
from reference.proj_b import proj_b as proj_b_reference
from reference.qk_softmax_pv import qk_softmax_pv
from reference.resolve_slots import resolve_slots

# Through to o_packed: FlashMLA has no inverse RoPE, which these have inside and are timed with.
ATTENTION = {
    "fused": ("resolve_slots", "gather_kv", "qk_softmax_pv", "merge_finish"),
    "one_kernel": ("resolve_slots", "attend_rows"),
}
PROJECTION = ("proj_a", "group_quant", "proj_b", "dequant_sum")

# Rivals round scores to bf16: numbers up to 64, half a spacing of 0.25, times C**-0.5 = 0.044, are
# 0.6 % of a probability at the most. P and output rounded to bf16 add 0.2 % each.
ATTENTION_REL_L2 = 1e-2
PROJ_A_REL_L2 = 2.0**-8  # a rival's o_r is rounded to bf16

_run = executors.default(DEVICE)


def attention_only(form: str) -> Executor:
    """An executor that leaves the chain after attention of this form."""

    def executor(nodes: Sequence[Node], waves: Sequence[Buffers]) -> None:
        _run(_of_attention(form, tuple(nodes)), waves)

    return executor


@functools.lru_cache(maxsize=8)
def _of_attention(form: str, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    return tuple(node for node in nodes if node.name in ATTENTION[form])


def attention(inputs: PrefillInputs, form: str) -> torch.Tensor:
    """[T, H, C] bf16 by these kernels, turned back: what `attention_only` leaves of every wave."""
    waves = []

    def executor(nodes: Sequence[Node], buffers: Sequence[Buffers]) -> None:
        for node in nodes:
            if node.name in ATTENTION[form]:
                node.run(buffers)
            if node.name == ATTENTION[form][-1]:
                heads = buffers[node.wave]["o_packed"].transpose(0, 1)
                waves.append(heads.reshape(-1, *inputs.q.shape[1:]))  # a copy: waves share it

    groups = inputs.wo_a.shape[0]
    options: dict[str, Any] = dict(window=inputs.window, groups_per_launch=groups, attention=form)
    prefill_sparse_attn(*inputs.args(), executor=executor, **options)
    return torch.cat(waves)


def judge_attention(inputs: PrefillInputs, got: torch.Tensor, *, turned: bool = False) -> None:
    """Assert that `got` [T, H, C] is the reference's within `ATTENTION_REL_L2`; turned: whether its
    rope columns have been turned back."""
    rows, cut = workloads.judged_rows(inputs)
    slots = {name: getattr(cut, name) for name in (*SLOTS, "num_tokens", "window")}
    kv_rows, bias, runs, blocks, live = resolve_slots(**slots)
    kv = gather_kv(cut.ori_kv, cut.kv_overlay, cut.cmp_kv, kv_rows, runs, blocks)
    m, l, o = qk_softmax_pv(cut.q, kv, bias, blocks)
    groups, rope_dim = cut.wo_a.shape[0], cut.freqs_cos.shape[1]
    merged = merge_norm(m, l, o, blocks, live, cut.attn_sink, groups=groups, rope_dim=rope_dim)
    want = _heads(*merged)
    if turned:
        want[..., -rope_dim:] = turn_back(want[..., -rope_dim:], cut.freqs_cos, cut.freqs_sin)
    assert bounds.relative_l2(got.cpu()[rows], want) <= ATTENTION_REL_L2


def projection(buffers: Buffers) -> torch.Tensor:
    """attn_out [T, D] from o_packed by these kernels, all groups in a launch."""
    for name in PROJECTION:
        SEGMENTS[name](None, **buffers)
    return buffers["attn_out"]


def proj_a(buffers: Buffers) -> torch.Tensor:
    """o_r [T, G, R] by these kernels."""
    SEGMENTS["proj_a"](None, **buffers)
    return buffers["o_r"]


def proj_b(buffers: Buffers) -> torch.Tensor:
    """partial [G, T, D] by these kernels."""
    SEGMENTS["proj_b"](None, **buffers)
    return buffers["partial"]


def rival_projection(buffers: Buffers) -> torch.Tensor:
    """The same as `projection`, in torch."""
    names = ("o_packed", "wo_a", "wo_b_by_group", "wo_b_scale")
    return rivals.projection(*(buffers[name] for name in names))


def rival_proj_a(rival: rivals.ProjA, buffers: Buffers) -> torch.Tensor:
    """The same as `proj_a`, in bf16."""
    return rival(buffers["o_packed"], buffers["wo_a"]).transpose(0, 1)


def rival_proj_b(buffers: Buffers) -> list[torch.Tensor]:
    """The same as `proj_b`, from codes that lie group by group."""
    return rivals.proj_b_int_mm(buffers["codes_by_group"], buffers["wo_b_by_group"])


def by_group(buffers: Buffers) -> Buffers:
    """A copy of `buffers` whose outputs are not yet written, with what rivals want to lie group by
    group."""
    copy = workloads.clone(buffers)
    copy |= {name: workloads.poisoned_like(copy[name]) for name in ("o_r", "partial", "attn_out")}
    copy["wo_b_by_group"] = rivals.split_by_group(copy["wo_b"], copy["wo_a"].shape[0])
    copy["codes_by_group"] = copy["codes"].transpose(0, 1).contiguous()
    return copy


def cost_of(race: str, buffers: Buffers) -> Cost:
    """Of the race "proj_a", "proj_b" or "projection": the two as one, with nothing in between."""
    tensors = workloads.tensors_of(buffers)

    def of_segment(name: str) -> Cost:
        segment = SEGMENTS[name]
        return segment.cost({name: tensors[name] for name in segment.reads + segment.writes})

    a, b = of_segment("proj_a"), of_segment("proj_b")
    if race != "projection":
        return {"proj_a": a, "proj_b": b}[race]
    ends = ("o_packed", "wo_a", "wo_b", "wo_b_scale", "attn_out")
    return Cost(sum(tensors[name].nbytes for name in ends), a.bf16_flop, b.int8_flop)


def judge_projection(buffers: Buffers, got: torch.Tensor) -> None:
    """Assert that `got` [T, D] is the exact product within what INT8 activations may cost."""
    o_r = proj_a_reference(buffers["o_packed"].cpu(), buffers["wo_a"].cpu())
    exact = o_r.flatten(1).double() @ buffers["wo_b"].cpu().double().T
    want = exact * buffers["wo_b_scale"].cpu().double()
    assert bounds.relative_l2(got, want) <= bounds.ORACLE_REL_L2


def judge_proj_a(buffers: Buffers, got: torch.Tensor) -> None:
    """Assert that `got` [T, G, R] is the reference's o_r up to bf16's rounding."""
    want = proj_a_reference(buffers["o_packed"].cpu(), buffers["wo_a"].cpu())
    assert bounds.relative_l2(got, want) <= PROJ_A_REL_L2


def judge_proj_b(buffers: Buffers, got: Sequence[torch.Tensor]) -> None:
    """Assert that `got`, [T, D] of every group, is the reference's partial to the last bit."""
    want = proj_b_reference(buffers["codes"].cpu(), buffers["wo_b"].cpu())
    assert torch.equal(torch.stack(list(got)).cpu(), want)


def _heads(o_packed: torch.Tensor, o_rope: torch.Tensor) -> torch.Tensor:
    """[N, H, C] fp32, the rope columns not yet rotated back."""
    N, H, P = o_rope.shape
    heads = o_packed.transpose(0, 1).reshape(N, H, -1).float()
    heads[..., -P:] = o_rope
    return heads
