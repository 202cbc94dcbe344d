"""torch operators: the plain call's bytes, torch's own checks, compiled whole, and kept shapes."""

import gc
import weakref
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
    sparse_attn,
    sparse_attn_heads,
    token_map,
)
from dsv4_kernels import device as devices
from dsv4_kernels.chains import ops
from dsv4_kernels.inputs.batch import Request, make_batch
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments.segment import Launch
from stand_in import StandIn

OPS = (
    "prefill_sparse_attn", "prefill_sparse_attn_heads", "grouped_o_proj", "sparse_attn",
    "sparse_attn_heads",
)  # fmt: skip
BATCHES = {  # kinds of a layer, and options of a batch
    "listed": dict(ratio=4), "visible": dict(ratio=4, listed=False), "window": dict(ratio=0),
    "hca": dict(ratio=128), "mapped": dict(ratio=4), "drafts": dict(ratio=4),
}  # fmt: skip


def call(op, T=5, seed=3) -> tuple[Any, Any, Any]:
    """Arguments and options of an operator, and the plain call's results."""
    if op.startswith("sparse_attn"):
        return batch_call(op, "listed", T, seed)
    inputs = make_inputs(SMALL, tokens=T, start=40, seed=seed)
    args, window = inputs.args(), dict(window=inputs.window)
    if op == "prefill_sparse_attn":
        return args, window, (prefill_sparse_attn(*args, **window),)
    heads = prefill_sparse_attn_heads(*args[:12], groups=2, **window)
    if op == "prefill_sparse_attn_heads":
        return args[:12], dict(groups=2, **window), heads
    given = (heads[0], *args[12:], heads[1])
    return given, {}, (grouped_o_proj(*given[:4], live_slots=heads[1]),)


def batch_call(op, kind, T=5, seed=3) -> tuple[Any, Any, Any]:
    requests = (Request(30, 2, key=1), Request(0, 1), Request(T + 20, T - 3, key=2))
    batch = make_batch(SMALL, requests, capacity=T, gap=72, seed=seed, **BATCHES[kind])
    options: dict[str, Any] = batch.options()
    if kind == "mapped":
        options["token_map"] = list(token_map(batch.query_start_loc, batch.seq_lens - 1, T))
    if kind == "drafts":
        rows = 32 * batch.ori_block_table[0, 0] + torch.arange(7, dtype=torch.int32)
        options["ori_indices"] = rows.repeat(T, 1)
    if op == "sparse_attn":
        return batch.args(), options, (sparse_attn(*batch.args(), **options),)
    options["groups"] = 2
    return batch.args()[:11], options, sparse_attn_heads(*batch.args()[:11], **options)


def outputs(op, want):
    names = ("out", "live_slots") if op.endswith("heads") else ("out",)
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


@pytest.fixture
def no_trial_of_vector_units():
    """Inductor would try each by a C++ program."""
    import torch._inductor.config

    with torch._inductor.config.patch({"cpp.vec_isa_ok": True}):
        yield


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor's own imports
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("op", OPS)
def test_compiled_whole(op, backend, no_trial_of_vector_units):
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
    for T in (6, 7, 4):
        args, options, want = call(op, T=T)
        more = tuple(x + 1 for x in want)
        assert all(map(torch.equal, functional(args[0], args[1:], options), more))
        out = outputs(op, want)
        assert all(map(torch.equal, in_place(args[0], args[1:], options, out), more))
        assert all(map(torch.equal, out.values(), want))


@pytest.mark.parametrize("op", ["sparse_attn", "sparse_attn_heads"])
@pytest.mark.parametrize("kind", BATCHES)
def test_every_kind_of_batch(op, kind):
    """As the plain call has it, eager and compiled, and by a trace's shapes."""
    torch._dynamo.reset()
    args, options, want = batch_call(op, kind)
    plain, into = getattr(torch.ops.dsv4, op), getattr(torch.ops.dsv4, f"{op}_out")
    assert all(map(torch.equal, tuples(plain(*args, **options)), want))
    compiled = torch.compile(
        lambda q, rest, options: plain(q * 1, *rest, **options), backend="aot_eager", fullgraph=True
    )
    assert all(map(torch.equal, tuples(compiled(args[0], args[1:], options)), want))
    out = outputs(op, want)
    into(*args, **out, **options)
    assert all(map(torch.equal, out.values(), want))


def other_lengths(op):
    """An operator's tensors of one batch, and what makes another of them in place."""
    make = dict(ratio=4, capacity=9, page_sizes=(128, 128), seed=5)
    first, second = (
        make_batch(SMALL, requests, **make)
        for requests in (
            (Request(30, 2, key=1), Request(50, 6, key=2)),
            (Request(70, 5, key=3), Request(0, 0)),
        )
    )
    taken = slice(0, 14 if op == "sparse_attn" else 11)
    held = [x.clone() for x in first.args()[taken]]

    def rewrite():
        for own, new in zip(held, second.args()[taken], strict=True):
            own[tuple(slice(n) for n in new.shape)].copy_(new)

    options = first.options() | (dict(groups=2) if op == "sparse_attn_heads" else {})
    run = sparse_attn if op == "sparse_attn" else sparse_attn_heads
    wants = [tuples(run(*b.args()[taken], **options)) for b in (first, second)]
    return held, options, wants, rewrite


@pytest.mark.parametrize("op", ["sparse_attn", "sparse_attn_heads"])
def test_a_compiled_call_serves_other_lengths_in_place(op):
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    held, options, (first, second), rewrite = other_lengths(op)
    counter = CompileCounterWithBackend("aot_eager")
    plain = getattr(torch.ops.dsv4, op)
    compiled = torch.compile(
        lambda *args: tuples(plain(*args, **options)), backend=counter, fullgraph=True
    )
    assert all(map(torch.equal, compiled(*held), first))
    rewrite()
    assert all(map(torch.equal, compiled(*held), second))
    assert counter.frame_count == 1


@pytest.mark.parametrize("op", ["sparse_attn", "sparse_attn_heads"])
def test_a_captured_call_serves_other_lengths_in_place(op, monkeypatch):
    """Its launches, as a graph would have recorded them, again."""
    held, options, (first, second), rewrite = other_lengths(op)
    out = outputs(op, first)
    ops.warm(f"{op}_out", *held, **out, **options)
    recorded, launch = [], Launch.__call__

    def noted(self, buffers):
        recorded.append((self, dict(buffers)))
        launch(self, buffers)

    with monkeypatch.context() as patch:
        patch.setattr(Launch, "__call__", noted)
        patch.setattr(devices, "is_capturing", lambda api: True)
        getattr(torch.ops.dsv4, f"{op}_out")(*held, **out, **options)
    assert all(map(torch.equal, out.values(), first))
    rewrite()
    for tensor in out.values():
        tensor.fill_(-1)
    with devices.launching(held[0].device):
        for launched, buffers in recorded:
            launch(launched, buffers)
    assert all(map(torch.equal, out.values(), second))


def test_a_batch_s_workspace_is_every_layer_s_and_keeps_no_tensor():
    ops.kept.clear()
    (*args, scale), options, (want,) = batch_call("sparse_attn", "listed")
    own = scale.clone()
    assert torch.ops.dsv4.sparse_attn(*args, own, **options).equal(want)
    gone = weakref.ref(own)
    del own
    gc.collect()
    assert gone() is None
    # Another layer's weights, a pool that has grown, tables that have: no other workspace.
    other, options, (want,) = batch_call("sparse_attn", "listed", seed=4)
    grown = list(other)
    grown[1] = torch.cat([other[1], other[1]])
    grown[2] = torch.cat([other[2], other[2]], 1)
    assert torch.ops.dsv4.sparse_attn(*grown, **options).equal(want)
    assert len(ops.kept) == 1
    for changed in (
        dict(window=20), dict(softmax_scale=0.5), dict(rope_layout="half"),
        dict(schedule="row_barrier"), dict(compress_ratio=5),
    ):  # fmt: skip
        told = options | changed
        got = torch.ops.dsv4.sparse_attn(*other, **told)
        assert got.equal(sparse_attn(*other, **told))
    assert len(ops.kept) == 6
    for kind in BATCHES:
        args, options, (want,) = batch_call("sparse_attn", kind)
        assert torch.ops.dsv4.sparse_attn(*args, **options).equal(want)
    narrow = options | dict(max_seq_len=8, ori_indices=None)
    args = (*args[:5], None, *args[6:])
    got = torch.ops.dsv4.sparse_attn(*args, **narrow)
    assert got.equal(sparse_attn(*args, **narrow))


def test_fp32_parts():
    for op in ("prefill_sparse_attn", "grouped_o_proj", "sparse_attn"):
        args, options, (want,) = call(op)
        part = getattr(torch.ops.dsv4, op)(*args, **options, out_dtype=torch.float32)
        assert part.dtype == torch.float32
        assert part.bfloat16().equal(want)
        assert not part.equal(want.float())


@pytest.mark.parametrize("op", ["prefill_sparse_attn", "grouped_o_proj", "sparse_attn"])
def test_a_trace_of_fp32_parts(op):
    args, options, _ = call(op)
    with torch._subclasses.FakeTensorMode() as mode:
        fakes = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args]
        part = getattr(torch.ops.dsv4, op)(*fakes, **options, out_dtype=torch.float32)
    assert part.dtype == torch.float32
    assert part.shape == (5, SMALL.hidden)


@pytest.mark.parametrize(
    ("op", "place", "argument"),
    [
        ("prefill_sparse_attn", 12, "wo_a"),
        ("prefill_sparse_attn_heads", 3, "kv_overlay"),
        ("grouped_o_proj", 1, "wo_a"),
        ("sparse_attn", 11, "wo_a"),
        ("sparse_attn", 3, "cmp_kv"),
        ("sparse_attn_heads", 10, "rope_sin"),
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
