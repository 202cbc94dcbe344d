"""Plans, schedules and executors: the same bytes however a chunk is run."""

import dataclasses
import gc
import random
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy
import pytest
import torch

import reference
from adversary import SMALL, adversarial_inputs
from against import chain, check_hand_overs, full_widths
from dsv4_kernels import ContractError, PrefillSparseAttn, SparseAttn, sparse_attn
from dsv4_kernels.buffers import BUFFERS, WEIGHTS
from dsv4_kernels.chains.prefill import SCHEDULES
from dsv4_kernels.contract import Contract
from dsv4_kernels.dims import PRESETS, Dims
from dsv4_kernels.inputs.batch import BatchInputs, Request, make_batch
from dsv4_kernels.inputs.prefill import PrefillInputs, make_inputs
from dsv4_kernels.launcher import executors
from dsv4_kernels.launcher import plan as plans
from dsv4_kernels.launcher.executors import in_order
from dsv4_kernels.launcher.graph import Node, edges
from dsv4_kernels.launcher.plan import MOST_BINDINGS
from poison import SENTINELS, is_sentinel
from reference.bounds import relative_l2
from stand_in import IllegalCall, happens_before

CPU = torch.device("cpu")  # where a stand-in has its streams
EIGHT_GROUPS = dataclasses.replace(SMALL, heads=16, head_dim=32, groups=8)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)
Inputs = PrefillInputs | BatchInputs


def drawn_chunk(dims: Dims, tokens: int, capacity: int, seed: int) -> PrefillInputs:
    return make_inputs(dims, tokens=tokens, capacity=capacity, start=40, seed=seed)


def drawn_batch(dims: Dims, tokens: int, capacity: int, seed: int) -> BatchInputs:
    """A request of one token, and one of the others."""
    requests = (Request(50, 1, key=1), Request(70, tokens - 1, key=2))
    return make_batch(dims, requests, ratio=4, capacity=capacity, seed=seed)


@pytest.fixture(params=[drawn_chunk, drawn_batch], ids=["prefill", "batch"])
def drawn(request, seed, device):
    """Inputs of either entry: drawn(tokens, ..) on the device."""

    def draw(tokens: int, *, capacity: int | None = None, dims: Dims = SMALL, at: Any = device):
        made = request.param(dims, tokens, capacity or tokens, seed)
        return made if at.type == "cpu" else made.to(at)

    return draw


def plan_of(inputs: Inputs, **options) -> Any:
    if isinstance(inputs, BatchInputs):
        return SparseAttn(*inputs.args(), **inputs.options(), **options)
    return PrefillSparseAttn(*inputs.args(), window=inputs.window, **options)


def outcome(inputs: Inputs, **options) -> torch.Tensor:
    """Of the function."""
    if isinstance(inputs, BatchInputs):
        return sparse_attn(*inputs.args(), **inputs.options(), **options)
    return chain(inputs, **options)


def check_schedule(inputs: PrefillInputs, schedule: str, groups_per_launch: int) -> torch.Tensor:
    """Against the schedule's own reference, element by element."""
    return check_hand_overs(inputs, schedule=schedule, groups_per_launch=groups_per_launch)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_schedule_at_full_widths(preset, device):
    inputs = full_widths(preset, device)
    for schedule in SCHEDULES:
        outs = [check_schedule(inputs, schedule, 4)]
        outs += [chain(inputs, schedule=schedule, groups_per_launch=n) for n in (1, 2, 8, 16)]
        assert all(torch.equal(outs[0], out) for out in outs[1:])


def test_the_schedules_differ_by_their_quantisation(device, seed):
    inputs = make_inputs(EIGHT_GROUPS, tokens=5, start=100, seed=seed, device=device)
    inputs.wo_a[0] *= 50  # one loud group: the row's amax is its, the others' codes are coarse
    by_group, by_row = (chain(inputs, schedule=schedule) for schedule in SCHEDULES)
    exact = reference.oracle(*inputs.to("cpu").args(), window=inputs.window)
    assert not torch.equal(by_group, by_row)
    assert relative_l2(by_group, exact) < relative_l2(by_row, exact)


@every_schedule
def test_dead_memory_and_dead_tokens(schedule, generator, device, poison):
    inputs = adversarial_inputs(T=9, num_tokens=6, generator=generator, device=device)
    with poison.allocations():
        out = chain(inputs, schedule=schedule, groups_per_launch=1)
    assert out.isfinite().all()
    assert (out[6:] == 0).all()


@every_schedule
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_live_nan_reaches_its_row_and_only_it(schedule, bad, device, seed):
    inputs = make_inputs(SMALL, tokens=6, start=30, seed=seed, device=device)
    clean = chain(inputs, schedule=schedule)
    inputs.q[2, 0, 0] = bad
    got = chain(inputs, schedule=schedule)
    assert not got[2].isfinite().all()
    others = [0, 1, 3, 4, 5]
    assert torch.equal(got[others], clean[others])


# -- the order of launches


def random_order(nodes: Sequence[Node], seed: int) -> list[Node]:
    """The nodes in an order that their edges allow, drawn step by step."""
    draw = random.Random(seed)
    needs: dict[int, set[int]] = {place: set() for place in range(len(nodes))}
    for edge in edges(nodes):
        needs[edge.after].add(edge.before)
    order: list[int] = []
    while len(order) < len(nodes):
        ready = [p for p in needs if p not in order and needs[p] <= set(order)]
        order.append(draw.choice(ready))
    return [nodes[place] for place in order]


@every_schedule
@pytest.mark.parametrize("waves_in_flight", [1, 2, 3])
@pytest.mark.parametrize("groups_per_launch", [1, 4])
def test_any_legal_order_gives_the_same_bytes(
    schedule, groups_per_launch, waves_in_flight, device, seed, poison
):
    inputs = make_inputs(EIGHT_GROUPS, tokens=7, start=100, seed=seed, device=device)
    inputs.cmp_sparse_lens[:3] = 0  # a wave without a live block, whose counts are its own
    want = chain(inputs, schedule=schedule)
    orders = set()
    for draw in range(10):

        def executor(nodes, waves, draw=draw):
            order = random_order(nodes, seed + draw)
            orders.add(tuple((node.label, node.wave) for node in order))
            in_order(order, waves)

        options = dict(schedule=schedule, groups_per_launch=groups_per_launch)
        options |= dict(wave_tokens=3, waves_in_flight=waves_in_flight)
        with poison.allocations():
            out = chain(inputs, executor=executor, **options)
        assert torch.equal(out, want)
    assert len(orders) >= 4  # the fewest there are: two tables first, two chunks of groups


def test_a_launch_touches_its_own_groups_only(device, seed, poison):
    """One launch, alone on poison: what other groups have stays poison."""
    inputs = make_inputs(EIGHT_GROUPS, tokens=3, start=40, seed=seed, device=device)
    seen = set()

    def executor(nodes, waves):
        (buffers,) = waves
        for node in nodes:
            groups = node.part("groups") or range(8)
            grouped = [name for name in node.writes if "groups" in BUFFERS[name].axes]
            if not grouped:
                node.run(waves)
                continue
            before = {name: buffers[name].clone() for name in grouped}
            for name in grouped:
                buffers[name].fill_(SENTINELS[buffers[name].dtype])
            node.run(waves)
            for name in grouped:
                axis = BUFFERS[name].axes["groups"]
                by_group = buffers[name].movedim(axis, 0)
                written = [g for g in range(8) if not is_sentinel(by_group[g]).any()]
                assert written == list(groups), (node.label, name)
                for g in {*range(8)} - {*groups}:  # what other launches have made
                    by_group[g] = before[name].movedim(axis, 0)[g]
            seen.add(node.label)

    chain(inputs, executor=executor, groups_per_launch=4)
    assert {label.split("[")[0] for label in seen} == {
        "merge_finish", "proj_a", "group_quant", "proj_b",
    }  # fmt: skip
    assert len(seen) == 8


def test_an_order_against_an_edge_shows(device, seed, poison):
    """That the test above can fail: the last chunk's sum ahead of the one before reads poison."""
    inputs = make_inputs(EIGHT_GROUPS, tokens=7, start=100, seed=seed, device=device)

    def executor(nodes, waves):
        assert [node.label for node in nodes[-2:]] == ["dequant_sum[0:4]", "dequant_sum[4:8]"]
        in_order([*nodes[:-2], nodes[-1], nodes[-2]], waves)

    with poison.allocations():
        out = chain(inputs, executor=executor)
    assert not torch.equal(out, chain(inputs))


# -- plans


def test_a_plan_runs_as_often_as_one_likes(generator, device):
    first, second = (
        adversarial_inputs(T=9, num_tokens=n, generator=generator, device=device) for n in (8, 3)
    )
    plan = plan_of(first, wave_tokens=4)
    for inputs in (first, second, first, second):
        assert torch.equal(plan.run(*inputs.args()), chain(inputs))


def test_a_run_allocates_nothing(device, seed, monkeypatch):
    inputs = make_inputs(SMALL, tokens=10, start=40, seed=seed, device=device)
    plan = plan_of(inputs, wave_tokens=4)
    own = plan.run(*inputs.args())

    def empty(*args, **kwargs):
        raise AssertionError("allocated")

    monkeypatch.setattr(torch, "empty", empty)
    assert plan.run(*inputs.args()) is own
    out = torch.zeros_like(own)
    assert plan.run(*inputs.args(), out=out) is out
    assert torch.equal(out, own)


def test_pools_and_tables_may_grow(device, seed):
    """What a server does between two chunks of a request."""
    early = make_inputs(SMALL, tokens=6, start=30, seed=seed, device=device)
    late = make_inputs(SMALL, tokens=6, start=900, seed=seed, device=device)
    assert early.cmp_kv.shape != late.cmp_kv.shape
    plan = plan_of(early)
    assert torch.equal(plan.run(*late.args()), chain(late))


@pytest.mark.parametrize(
    ("argument", "letter", "change"),
    [
        ("q", "T", dict(tokens=7)),
        ("q", "H", dict(dims=dataclasses.replace(SMALL, heads=16))),
        ("q", "C", dict(dims=dataclasses.replace(SMALL, head_dim=32))),
        ("freqs_cos", "P", dict(dims=dataclasses.replace(SMALL, rope_dim=32))),
        ("wo_a", "G", dict(dims=dataclasses.replace(SMALL, groups=4))),
        ("wo_a", "R", dict(dims=dataclasses.replace(SMALL, o_lora_rank=41))),
        ("wo_b", "D", dict(dims=dataclasses.replace(SMALL, hidden=73))),
    ],
)
def test_other_sizes_are_refused(argument, letter, change, device, seed):
    own = dict(dims=SMALL, tokens=6, start=1000, seed=seed, device=device)
    plan = plan_of(make_inputs(**own))
    other = make_inputs(**own | change)
    size = rf"{letter}=\d+, got {letter} = \d+$"
    with pytest.raises(ContractError, match=f"`{argument}` must be of the plan's size, {size}"):
        plan.run(*other.args())


def test_another_device_is_refused(device, seed):
    inputs = make_inputs(SMALL, tokens=6, seed=seed, device=device)
    plan = plan_of(inputs)
    with pytest.raises(ContractError, match=f"`q` must be on {device} like the plan, got meta$"):
        plan.run(*inputs.to("meta").args())


def test_wrong_arguments_of_a_run_are_refused(device, seed, poison):
    inputs = make_inputs(SMALL, tokens=6, start=40, seed=seed, device=device)
    plan = plan_of(inputs)
    out = poison.tensor(6, SMALL.hidden, dtype=torch.bfloat16)
    for name, value, message in [
        ("cmp_sparse_lens", inputs.cmp_sparse_lens.long(), r"must be \[T=6\] int32"),  # would run
        ("q", inputs.q.half(), r"`q` must be \[T, H, C\] bfloat16, got .* float16"),
        ("num_tokens", 7, r"`num_tokens` must be an integer in 0\.\.6, got 7"),
        ("num_tokens", -1, r"`num_tokens` must be an integer in 0\.\.6, got -1"),
        ("attn_sink", inputs.attn_sink.repeat_interleave(2)[::2], "contiguous, got strides"),
        ("wo_b", inputs.wo_b[:, ::2], r"`wo_b` must be \[D, G\*R=80\] int8"),
    ]:
        wrong = dataclasses.replace(inputs, **{name: value})
        with pytest.raises(ContractError, match=message):
            plan.run(*wrong.args(), out=out)
    with pytest.raises(ContractError, match=r"`out` must be \[T=6, D=72\] bfloat16"):
        plan.run(*inputs.args(), out=out.half())
    assert is_sentinel(out).all()
    for args, kwargs, got in [
        ((*inputs.args(), 1), {}, "16 by place"),
        (inputs.args(), dict(q=inputs.q), "15 by place, twice: q"),
        (inputs.args(), dict(query=inputs.q), "15 by place, unknown: query$"),
        ((), dict(query=inputs.q), "0 by place, unknown: query, missing: q, ori_kv, .*freqs_sin"),
    ]:
        with pytest.raises(ContractError, match=f"15 arguments, q to wo_b_scale, got {got}$"):
            plan.run(*args, **kwargs)


def test_a_row_of_too_many_ranks_is_for_decoupled_only(device):
    inputs = make_inputs(
        dataclasses.replace(SMALL, o_lora_rank=70_000, hidden=1), tokens=1, device=device
    )
    plan_of(inputs)
    match = r"^proj_b_dequant: `codes` .* G\*R in 1\.\.132104, got G\*R = 140000$"
    with pytest.raises(ContractError, match=match):
        plan_of(inputs, schedule="row_barrier")


@pytest.mark.parametrize("shared", [True, False], ids=["one plan", "two plans"])
def test_threads_do_not_meet(shared, device, seed):
    chunks = [make_inputs(SMALL, tokens=6, start=s, seed=seed, device=device) for s in (40, 44)]
    plans = [plan_of(inputs, wave_tokens=3) for inputs in chunks]
    if shared:
        plans[1] = plans[0]
    want = [chain(inputs) for inputs in chunks]
    wrong = []

    def work(which: int) -> None:
        out = torch.empty_like(want[which])
        for _ in range(20):
            plans[which].run(*chunks[which].args(), out=out)
            if not torch.equal(out, want[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_cpu_has_no_graphs(device, seed):
    inputs = make_inputs(SMALL, tokens=3, seed=seed)
    if device.type == "cpu":
        with pytest.raises(ContractError, match="`q` must be on an NPU or a GPU, got cpu"):
            plan_of(inputs).capture(*inputs.args())


# -- on streams, up to the calls of torch.npu


@every_schedule
@pytest.mark.parametrize("waves_in_flight", [1, 2, None])
def test_streams_give_the_same_bytes(schedule, waves_in_flight, npu, seed):
    inputs = make_inputs(EIGHT_GROUPS, tokens=10, start=40, seed=seed)
    options = dict(schedule=schedule, groups_per_launch=2, wave_tokens=4)
    got = chain(inputs, waves_in_flight=waves_in_flight, **options)
    assert torch.equal(got, chain(inputs, schedule=schedule, executor=in_order))
    streams = {entry.stream for entry in npu.log if entry.kind == "launch"}
    assert len(streams) == 5  # four lanes, and the caller's for the run in order


def test_two_waves_are_in_flight_where_there_are_streams(npu, seed):
    inputs = make_inputs(SMALL, tokens=10, start=40, seed=seed)
    assert plan_of(inputs, wave_tokens=4).waves_in_flight == 2
    assert plan_of(inputs, wave_tokens=10).waves_in_flight == 1  # there is only one
    assert plan_of(inputs, wave_tokens=4, waves_in_flight=1).waves_in_flight == 1


@pytest.mark.parametrize("in_flight", [1, 2])
def test_a_wave_waits_for_the_one_whose_workspace_it_takes(in_flight, npu, seed):
    """And for no other: with two in flight the next wave's gather runs beside this projection."""
    inputs = make_inputs(SMALL, tokens=10, start=40, seed=seed)
    chain(inputs, wave_tokens=4, waves_in_flight=in_flight)
    before = happens_before(npu.log)
    at = {what[:2]: what for what in before}
    gathers = [at["gather_kv", wave] for wave in range(3)]
    attended = [at["qk_softmax_pv", wave] for wave in range(3)]
    assert attended[2 - in_flight] in before[gathers[2]]
    assert at["dequant_sum", 0] not in before[gathers[1]]
    assert (attended[0] in before[gathers[1]]) == (in_flight == 1)


@every_schedule
@pytest.mark.parametrize("executor", [None, in_order], ids=["on streams", "in order"])
def test_a_plan_on_two_streams_keeps_its_runs_apart(schedule, executor, npu, drawn):
    """In order, nothing but the plan's own event stands between two streams of its callers."""
    inputs = drawn(5, at=CPU)
    plan = plan_of(inputs, schedule=schedule, executor=executor)
    for stream in (npu.current, npu.Stream(npu._device)):
        with npu.stream(stream):
            plan.run(*inputs.args())
    launches = list(before := happens_before(npu.log))
    first, second = launches[: len(launches) // 2], launches[len(launches) // 2 :]
    assert all(set(first) <= before[launch] for launch in second)


def test_a_plan_on_two_streams_keeps_its_runs_apart_after_a_failure(npu, drawn, monkeypatch):
    """What a failed run had launched is done before the next one begins, on whatever stream."""
    inputs = drawn(5, at=CPU)
    plan = plan_of(inputs, executor=in_order)
    run = Node.run

    def failing(node, waves):
        run(node, waves)
        if node.name == "merge_finish":
            raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(Node, "run", failing)
        with pytest.raises(RuntimeError):
            plan.run(*inputs.args())
    failed = {entry.what for entry in npu.log if entry.kind == "launch"}
    with npu.stream(npu.Stream(CPU)):
        plan.run(*inputs.args())
    before = happens_before(npu.log)
    assert failed
    assert all(failed <= before[launch] for launch in before if launch not in failed)


def test_capture_and_replay(npu, drawn):
    inputs = drawn(5, at=CPU)
    plan = plan_of(inputs)
    captured = plan.capture(*inputs.args())
    recorded = [e.what[0] for e in captured._graph.log if e.kind == "launch"]
    assert sorted(recorded) == sorted(node.label for node in plan.nodes)
    npu.log.clear()
    captured.attn_out.fill_(torch.nan)
    assert torch.equal(captured.replay(), outcome(inputs, executor=in_order))
    kinds = [entry.kind for entry in npu.log[:3]]
    assert kinds == ["wait", "replay", "record"]  # behind the last run, and ahead of the next


def test_a_capture_keeps_its_arguments_alive(npu, drawn):
    inputs = drawn(5, at=CPU)
    captured = plan_of(inputs).capture(*inputs.args())
    npu.graphs[-1].launches = ()  # a device's graph keeps addresses, not tensors
    weak = weakref.ref(inputs.q)
    del inputs
    gc.collect()
    assert weak() is not None
    del captured
    gc.collect()
    assert weak() is None


def test_a_run_inside_of_anybody_s_capture(npu, drawn):
    """Twice, with an eager run in between: nothing waits across the border of a capture."""
    inputs = drawn(10, at=CPU)
    plan = plan_of(inputs, wave_tokens=4)
    want = outcome(inputs, executor=in_order)
    plan.run(*inputs.args())
    for _ in range(2):
        graph, out = npu.NPUGraph(), torch.empty_like(want)
        with npu.graph(graph):
            plan.run(*inputs.args(), out=out)
        out.fill_(torch.nan)
        graph.replay()
        assert torch.equal(out, want)
        assert torch.equal(plan.run(*inputs.args()), want)


def test_several_plans_in_one_graph_and_one_plan_in_several(npu, drawn):
    inputs = drawn(5, at=CPU)
    plans = [plan_of(inputs), plan_of(inputs, schedule="row_barrier")]
    graph = npu.NPUGraph()
    with npu.graph(graph):
        for plan in (*plans, *plans):
            plan.run(*inputs.args())
    launches = [e for e in graph.log if e.kind == "launch"]
    assert len(launches) == 2 * sum(len(plan.nodes) for plan in plans)
    for plan in plans:
        with npu.graph(npu.NPUGraph()):
            plan.run(*inputs.args())


def test_a_capture_is_recorded_on_the_arguments_device(npu, drawn):
    """The plan's, whichever device is current."""
    inputs = drawn(5, at=CPU)
    with npu.device("another"):
        assert plan_of(inputs).capture(*inputs.args())._graph.device == torch.device("cpu")


def test_a_failed_capture_leaves_the_plan_usable(npu, drawn):
    inputs = drawn(5, at=CPU)
    plan, graph = plan_of(inputs), npu.NPUGraph()
    want = plan.run(*inputs.args()).clone()

    def interrupted() -> None:
        with npu.graph(graph):
            plan.run(*inputs.args())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(IllegalCall, match="capture failed"):
        graph.replay()
    assert torch.equal(plan.run(*inputs.args()), want)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_run_that_failed_at_any_node_can_be_run_again(error, npu, drawn, monkeypatch):
    """The caller's next work is behind all that was launched, and the next run gives its bytes."""
    inputs = drawn(5, dims=EIGHT_GROUPS, at=CPU)
    plan = plan_of(inputs)
    want = plan.run(*inputs.args()).clone()
    run = Node.run
    for at in range(len(plan.nodes)):
        begin = len(npu.log)

        def failing(node, waves, begin=begin, at=at):
            if sum(entry.kind == "launch" for entry in npu.log[begin:]) == at:
                raise error
            run(node, waves)

        with monkeypatch.context() as patch:
            patch.setattr(plan._plan._executor, "_launch", failing)
            with pytest.raises(error):
                plan.run(*inputs.args())
        launched = {entry.what for entry in npu.log[begin:] if entry.kind == "launch"}
        assert len(launched) == at
        npu.launched(("after", at))
        assert launched <= happens_before(npu.log)["after", at]
        assert torch.equal(plan.run(*inputs.args()), want)


def test_the_allocator_keeps_the_memory_for_every_stream_that_ran(npu, drawn):
    """A plan dropped after a run on another stream than the one it was made on."""
    inputs = drawn(5, at=CPU)
    plan = plan_of(inputs)
    other = npu.Stream(npu._device)
    with npu.stream(other):
        plan.run(*inputs.args(), out=torch.empty(5, SMALL.hidden, dtype=torch.bfloat16))
        out = plan.run(*inputs.args())  # the plan's own, made after it has run on this stream
    kept = [tensor.data_ptr() for tensor, stream in npu.kept if stream is other]
    own = {name for node in plan.nodes for name in node.writes if name != "attn_out"}
    assert len(kept) == len(set(kept)) == len(own) + 1
    assert out.data_ptr() in kept


# -- what a run costs, and what it may be given


def test_a_run_checks_no_tensor_again(device, seed, monkeypatch):
    inputs = make_inputs(SMALL, tokens=10, start=40, seed=seed, device=device)
    plan = plan_of(inputs, wave_tokens=4)
    out = plan.run(*inputs.args()).clone()
    plan.run(*inputs.args(), out=torch.empty_like(out))

    def tensor(self, argument, *rest, **options):
        raise AssertionError(f"checked {argument}")

    def signature(arguments):
        raise AssertionError("another signature")

    monkeypatch.setattr(Contract, "tensor", tensor)
    with monkeypatch.context() as same:
        same.setattr(plans, "Signature", signature)  # made where shapes are others
        assert torch.equal(plan.run(*inputs.args(), out=torch.empty_like(out)), out)
    shorter = dataclasses.replace(inputs, cmp_kv=inputs.cmp_kv[:1].clone())
    with pytest.raises(AssertionError, match="checked"):
        plan.run(*shorter.args())


def test_a_run_like_the_one_before_looks_for_no_events_again(npu, seed, monkeypatch):
    inputs = make_inputs(SMALL, tokens=10, start=40, seed=seed)
    plan = plan_of(inputs, wave_tokens=4)
    out = plan.run(*inputs.args()).clone()

    def synchronise(nodes):
        raise AssertionError("looked for events")

    monkeypatch.setattr(executors, "synchronise", synchronise)
    assert torch.equal(plan.run(*inputs.args()), out)


def test_weights_are_bound_once(device, seed):
    inputs = make_inputs(SMALL, tokens=6, start=40, seed=seed, device=device)
    plan = plan_of(inputs)
    rest = {n: v for n, v in vars(inputs).items() if n not in (*WEIGHTS, "window")}
    want = chain(inputs)
    assert torch.equal(plan.run(**rest), want)
    louder = dataclasses.replace(inputs, wo_b_scale=2 * inputs.wo_b_scale)
    assert torch.equal(plan.run(**rest, wo_b_scale=louder.wo_b_scale), chain(louder))
    assert torch.equal(plan.run(**rest), want)


def test_fewer_columns_than_the_plan_has_room_for(device, seed):
    """The chunks of a request's HCA layer: K grows with the position."""
    chunks = [
        make_inputs(SMALL, layer="HCA", tokens=6, start=s, seed=seed, device=device)
        for s in (40, 20_000, 40_000)
    ]
    columns = [inputs.cmp_sparse_indices.shape[1] for inputs in chunks]
    assert columns[0] < columns[1] < columns[2]
    assert columns[2] > 2 * 128
    plan = plan_of(chunks[2], wave_tokens=4)
    for inputs in (chunks[0], chunks[2], chunks[1], chunks[0]):
        assert torch.equal(plan.run(*inputs.args()), chain(inputs))
    match = rf"`cmp_sparse_indices` must be of at most the plan's size, K={columns[0]}, got K = "
    with pytest.raises((ContractError, RuntimeError), match=match):
        plan_of(chunks[0]).run(*chunks[1].args())


@pytest.mark.parametrize("integer", [numpy.int32, numpy.int64, numpy.uint8])
def test_integers_of_numpy_are_integers(integer, device, seed):
    inputs = make_inputs(SMALL, tokens=5, capacity=6, start=40, seed=seed, device=device)
    own = dataclasses.replace(inputs, num_tokens=integer(5), window=integer(inputs.window))
    options = dict(wave_tokens=integer(4), groups_per_launch=integer(1), waves_in_flight=integer(1))
    assert torch.equal(chain(own, **options), chain(inputs))


READ = {
    PrefillInputs: ("kv_overlay", "q", "wo_a", "freqs_cos"),
    BatchInputs: ("ori_kv", "q", "wo_a", "rope_cos"),
}


def test_an_output_over_an_argument_is_refused(drawn, device):
    """A wave would read what the one before has written."""
    inputs = drawn(10)
    plan = plan_of(inputs, wave_tokens=4)
    want = outcome(inputs)
    for name in READ[type(inputs)]:
        own = getattr(inputs, name)
        memory = torch.empty(own.nbytes // 2 + 10**4, dtype=torch.bfloat16, device=device)
        size = own.nbytes // 2
        shared = memory[:size].view(own.dtype).view(own.shape).copy_(own)
        out = memory[size - 1 : size - 1 + want.numel()].view(want.shape)
        before = memory.clone()
        changed = dataclasses.replace(inputs, **{name: shared})
        with pytest.raises(ContractError, match=f"`out` must be memory apart from `{name}`"):
            plan.run(*changed.args(), out=out)
        assert torch.equal(memory.view(torch.int16), before.view(torch.int16))
        beside = memory[size : size + want.numel()].view(want.shape)
        try:
            got = plan.run(*changed.args(), out=beside)
        except ContractError as error:
            raise AssertionError("refuses memory right behind an argument") from error
        assert torch.equal(got, want)


def test_a_plan_s_last_output_is_no_argument_of_its_next_run(device, seed):
    dims = dataclasses.replace(SMALL, hidden=SMALL.head_dim)
    inputs = make_inputs(dims, tokens=6, start=40, seed=seed, device=device)
    plan = plan_of(inputs)
    again = dataclasses.replace(inputs, kv_overlay=plan.run(*inputs.args()))
    with pytest.raises(ContractError, match="`out` must be memory apart from `kv_overlay`"):
        plan.run(*again.args())
    plan.run(*again.args(), out=torch.empty_like(again.kv_overlay))


@pytest.mark.parametrize("made_in", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("run_in", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_a_plan_of_one_mode_runs_in_another(made_in, run_in, drawn):
    inputs = drawn(6, capacity=9)
    want = outcome(inputs)
    for name in ("q", "wo_a", "ori_kv"):
        getattr(inputs, name).requires_grad_()
    with made_in():
        plan = plan_of(inputs, wave_tokens=4)
        plan.run(*inputs.args())
        out = torch.empty_like(want)  # in inference mode a tensor of that mode
    try:
        with run_in():
            assert torch.equal(plan.run(*inputs.args()), want)
            assert torch.equal(plan.run(*inputs.args(), out=out), want)
            assert not plan.run(*inputs.args()).requires_grad
    except RuntimeError as error:  # torch's own refusal
        pytest.fail(str(error))


def test_a_leaf_is_no_output(drawn, device):
    inputs = drawn(6)
    out = torch.zeros(6, SMALL.hidden, dtype=torch.bfloat16, device=device, requires_grad=True)
    with pytest.raises(ContractError, match="`out` must be a tensor that may be written"):
        plan_of(inputs).run(*inputs.args(), out=out)
    assert (out == 0).all()


@pytest.mark.parametrize("wrong", [["decoupled"], None, "sideways", 3])
def test_a_schedule_that_there_is_not(wrong, device, seed):
    inputs = make_inputs(SMALL, tokens=3, seed=seed, device=device)
    with pytest.raises(ContractError, match="`schedule` must be one of decoupled, row_barr"):
        plan_of(inputs, schedule=wrong)


def test_few_bindings_are_remembered(device, seed):
    inputs = make_inputs(SMALL, tokens=3, start=400, seed=seed, device=device)
    plan = plan_of(inputs)
    want = chain(inputs)
    for pages in range(1, 12):
        pool = torch.cat([inputs.cmp_kv, inputs.cmp_kv.new_zeros(pages, *inputs.cmp_kv.shape[1:])])
        grown = dataclasses.replace(inputs, cmp_kv=pool)
        assert torch.equal(plan.run(*grown.args()), want)
    assert len(plan._plan._bindings) == MOST_BINDINGS


def test_a_plan_refuses_an_executor_that_cannot_be_called(seed):
    inputs = make_inputs(SMALL, tokens=1, start=40, seed=seed)
    message = "`executor` must be callable with nodes and waves, got 'streams'"
    with pytest.raises(ContractError, match=message):
        plan_of(inputs, executor="streams")


@every_schedule
def test_only_what_is_written_has_memory(schedule, device, seed):
    """A plan holds the buffers of its own schedule, each as large as its wave or its chunk."""
    inputs = make_inputs(SMALL, tokens=10, start=40, seed=seed, device=device)
    plan = plan_of(inputs, schedule=schedule, wave_tokens=4)
    (memory,) = plan._plan._memory
    made = {name for node in plan.nodes for name in node.writes} - {"attn_out"}
    assert memory.keys() | plan._plan._chunk.keys() == made
    assert [tensor.shape for tensor in plan._plan._chunk.values()] == [(10,)] * 2
    assert ("row_scale" in memory) == (schedule == "row_barrier")
    assert memory["kv"].shape == (4, 128, SMALL.head_dim)
    assert plan.workspace_bytes == sum(tensor.nbytes for tensor in memory.values()) + 10 * 8


@pytest.mark.parametrize(
    ("groups_per_launch", "tokens", "streams"),
    [(8, 4, False), (4, 4, True), (8, 10, True)],
    ids=["one chain", "two chunks of groups", "three waves"],
)
def test_streams_only_where_something_may_overlap(groups_per_launch, tokens, streams, npu, seed):
    inputs = make_inputs(EIGHT_GROUPS, tokens=tokens, start=40, seed=seed)
    plan = plan_of(inputs, groups_per_launch=groups_per_launch, wave_tokens=4)
    plan.run(*inputs.args())
    used = {entry.stream for entry in npu.log if entry.kind == "launch"}
    assert (len(used) == 4) == streams
    assert (used == {npu.current}) != streams
