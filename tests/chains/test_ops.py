"""torch operators: the plain call's bytes, torch's own checks, compiled whole, and kept shapes."""

from typing import Any

import pytest
import torch
from torch.library import opcheck

from adversary import SMALL
from dsv4_kernels import (
    ContractError,
    grouped_o_proj,
    prefill_sparse_attn,
    prefill_sparse_attn_heads,
)
from dsv4_kernels import device as devices
from dsv4_kernels.chains import ops
from dsv4_kernels.inputs.prefill import make_inputs
from stand_in import StandIn

OPS = ("prefill_sparse_attn", "prefill_sparse_attn_heads", "grouped_o_proj")


def call(op, T=5, seed=3) -> tuple[Any, Any, Any]:
    """Arguments and options of an operator, and the plain call's results."""
    inputs = make_inputs(SMALL, tokens=T, start=40, seed=seed)
    args, window = inputs.args(), dict(window=inputs.window)
    if op == "prefill_sparse_attn":
        return args, window, (prefill_sparse_attn(*args, **window),)
    heads = prefill_sparse_attn_heads(*args[:12], groups=2, **window)
    if op == "prefill_sparse_attn_heads":
        return args[:12], dict(groups=2, **window), heads
    given = (heads[0], *args[12:], heads[1])
    return given, {}, (grouped_o_proj(*given[:4], live_slots=heads[1]),)


def outputs(op, want):
    names = ("out", "live_slots") if op == "prefill_sparse_attn_heads" else ("out",)
    return {name: torch.empty_like(tensor) for name, tensor in zip(names, want, strict=True)}


def tuples(results):
    return results if isinstance(results, tuple) else (results,)


@pytest.mark.parametrize("op", OPS)
def test_the_plain_call_s_bytes(op):
    args, options, want = call(op)
    got = tuples(getattr(torch.ops.dsv4, op)(*args, **options))
    assert all(map(torch.equal, got, want))
    out = outputs(op, want)
    assert getattr(torch.ops.dsv4, f"{op}_out")(*args, **out, **options) is None
    assert all(map(torch.equal, out.values(), want))


@pytest.mark.parametrize("op", OPS)
def test_torch_s_own_checks(op):
    args, options, want = call(op)
    opcheck(getattr(torch.ops.dsv4, op).default, args, options)
    opcheck(getattr(torch.ops.dsv4, f"{op}_out").default, args, options | outputs(op, want))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor's own imports
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("op", OPS)
def test_compiled_whole(op, backend):
    """Without a break, at several lengths, work of the graph's own around it."""
    torch._dynamo.reset()
    plain, into = getattr(torch.ops.dsv4, op), getattr(torch.ops.dsv4, f"{op}_out")

    def functional(first, rest, options):
        return tuple(x + 1 for x in tuples(plain(first * 1, *rest, **options)))

    def in_place(first, rest, options, out):
        into(first * 1, *rest, **out, **options)
        return tuple(x + 1 for x in out.values())

    functional = torch.compile(functional, backend=backend, fullgraph=True)
    in_place = torch.compile(in_place, backend=backend, fullgraph=True)
    for T in (6, 7, 3):
        args, options, want = call(op, T=T)
        more = tuple(x + 1 for x in want)
        assert all(map(torch.equal, functional(args[0], args[1:], options), more))
        out = outputs(op, want)
        assert all(map(torch.equal, in_place(args[0], args[1:], options, out), more))
        assert all(map(torch.equal, out.values(), want))


def test_fp32_parts():
    for op in ("prefill_sparse_attn", "grouped_o_proj"):
        args, options, (want,) = call(op)
        part = getattr(torch.ops.dsv4, op)(*args, **options, out_dtype=torch.float32)
        assert part.dtype == torch.float32
        assert part.bfloat16().equal(want)
        assert not part.equal(want.float())


@pytest.mark.parametrize(
    ("op", "place", "argument"),
    [
        ("prefill_sparse_attn", 12, "wo_a"),
        ("prefill_sparse_attn_heads", 3, "kv_overlay"),
        ("grouped_o_proj", 1, "wo_a"),
    ],
)
def test_a_trace_is_told_of_a_broken_contract(op, place, argument):
    args, options, _ = call(op)
    wrong = (*args[:place], args[place][..., :-1], *args[place + 1 :])
    with torch._subclasses.FakeTensorMode() as mode:
        fakes = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in wrong]
        with pytest.raises(ContractError, match=f"^{op}: `{argument}` must be"):
            getattr(torch.ops.dsv4, op)(*fakes, **options)


def test_as_many_shapes_are_kept_as_is_said(monkeypatch):
    monkeypatch.setattr(ops, "MOST_KEPT", 2)
    ops.kept.clear()
    made = []
    plan = ops.Plan
    monkeypatch.setattr(ops, "Plan", lambda *a, **k: made.append(1) or plan(*a, **k))
    for T, plans in ((3, 1), (4, 2), (3, 2), (5, 3), (3, 3), (4, 4)):
        args, options, (want,) = call("prefill_sparse_attn", T=T)
        assert torch.ops.dsv4.prefill_sparse_attn(*args, **options).equal(want)
        assert len(made) == plans
        assert len(ops.kept) <= 2
    # Other weights of the same shapes: another layer, the same workspace.
    args, options, (want,) = call("prefill_sparse_attn", T=4, seed=4)
    assert torch.ops.dsv4.prefill_sparse_attn(*args, **options).equal(want)
    assert len(made) == 4


@pytest.mark.parametrize("op", OPS)
def test_what_a_capture_meets_first_is_refused(op, monkeypatch):
    """A stand-in for torch.npu, whose graphs run nothing that they record."""
    args, options, _ = call(op)
    ops.kept.clear()
    api = StandIn(torch.device("cpu"))
    with monkeypatch.context() as patch:
        patch.setattr(devices, "stream_api", lambda device: api)
        patch.setattr(devices, "is_capturing", lambda api: True)
        with pytest.raises(ContractError, match=f"^{op}: `shapes` must be known before a capture"):
            getattr(torch.ops.dsv4, op)(*args, **options)
    ops.warm(op, *args, **options)
    with monkeypatch.context() as patch:
        patch.setattr(devices, "is_capturing", lambda api: True)
        getattr(torch.ops.dsv4, op)(*args, **options)


def test_warm_knows_its_operators():
    with pytest.raises(ContractError, match=r"^warm: `op` must be one of"):
        ops.warm("sparse")
