"""Plans, schedules and executors: the same bytes however a chunk is run."""

import dataclasses
import itertools
import random
import threading

import pytest
import torch

import reference
from adversary import SMALL, adversarial_inputs
from against import chain
from dsv4_kernels import ContractError, PrefillSparseAttn
from dsv4_kernels import device as devices
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.executors import OnStreams, in_order
from dsv4_kernels.inputs import PrefillInputs, make_inputs
from dsv4_kernels.pipeline import SCHEDULES, WORKSPACE, Node, edges
from poison import SENTINELS, is_sentinel
from reference.bounds import CHAIN_CODE_FLIPS, CHAIN_COSINE, CHAIN_REL_L2, cosine, relative_l2
from stand_in import StandIn, happens_before

EIGHT_GROUPS = dataclasses.replace(SMALL, heads=16, head_dim=32, groups=8)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def plan_of(inputs: PrefillInputs, **options) -> PrefillSparseAttn:
    return PrefillSparseAttn(*inputs.args(), window=inputs.window, **options)


def check_schedule(inputs: PrefillInputs, schedule: str, groups_per_launch: int) -> torch.Tensor:
    """Against the schedule's own reference, by the chain's tolerances."""
    codes = []

    def executor(nodes, buffers):
        in_order(nodes, buffers)
        codes.append(buffers["codes"].clone())

    options = dict(schedule=schedule, groups_per_launch=groups_per_launch)
    out = chain(inputs, executor=executor, **options)
    on_cpu = inputs.to("cpu")
    want = reference.prefill_segments(*on_cpu.args(), window=inputs.window, schedule=schedule)
    assert relative_l2(out, want["attn_out"]) <= CHAIN_REL_L2
    assert cosine(out, want["attn_out"]) >= CHAIN_COSINE
    difference = (torch.cat(codes).cpu().int() - want["codes"].int()).abs()
    assert difference.max() <= 1
    assert (difference != 0).double().mean() <= CHAIN_CODE_FLIPS
    return out


@pytest.mark.parametrize("preset", PRESETS)
def test_every_schedule_at_full_widths(preset, device, seed):
    inputs = make_inputs(PRESETS[preset], tokens=3, start=5000, seed=seed, device=device)
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


def random_order(nodes: tuple[Node, ...], seed: int) -> list[Node]:
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
@pytest.mark.parametrize("groups_per_launch", [1, 2, 4])
def test_any_legal_order_gives_the_same_bytes(schedule, groups_per_launch, device, seed, poison):
    inputs = make_inputs(EIGHT_GROUPS, tokens=7, start=100, seed=seed, device=device)
    want = chain(inputs, schedule=schedule)
    orders = set()
    for draw in range(20):

        def executor(nodes, buffers, draw=draw):
            order = random_order(nodes, seed + draw)
            orders.add(tuple(node.label for node in order))
            in_order(order, buffers)

        options = dict(schedule=schedule, groups_per_launch=groups_per_launch)
        with poison.allocations():
            out = chain(inputs, wave_tokens=4, executor=executor, **options)
        assert torch.equal(out, want)
    assert len(orders) >= 4  # the fewest there are: two tables first, two chunks of groups


def test_a_launch_touches_its_own_groups_only(device, seed, poison):
    """One launch, alone on poison: what other groups have stays poison."""
    inputs = make_inputs(EIGHT_GROUPS, tokens=3, start=40, seed=seed, device=device)
    seen = set()

    def executor(nodes, buffers):
        for node in nodes:
            if node.groups is None:
                node.run(buffers)
                continue
            for name in node.writes:
                buffers[name].fill_(SENTINELS[buffers[name].dtype])
            node.run(buffers)
            for name in node.writes:
                groups = WORKSPACE[name][0].split().index("G")
                by_group = buffers[name].movedim(groups, 0)
                written = [g for g in range(8) if not is_sentinel(by_group[g]).any()]
                assert written == list(node.groups), (node.label, name)
            seen.add(node.label)

    chain(inputs, executor=executor, groups_per_launch=4)
    assert len(seen) == 6


def test_an_order_against_an_edge_shows(device, seed, poison):
    """That the test above can fail: dequant_sum ahead of the last proj_b reads poison."""
    inputs = make_inputs(EIGHT_GROUPS, tokens=7, start=100, seed=seed, device=device)

    def executor(nodes, buffers):
        in_order([*nodes[:-2], nodes[-1], nodes[-2]], buffers)

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
        ("cmp_sparse_indices", "K", dict(layer="HCA")),
        ("freqs_cos", "P", dict(dims=dataclasses.replace(SMALL, rope_dim=8))),
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
        ("q", inputs.q.half(), r"`q` must be \[T, H, C\] bfloat16, got .* float16"),
        ("num_tokens", 7, r"`num_tokens` must be an integer in 0\.\.6, got 7"),
        ("num_tokens", -1, r"`num_tokens` must be an integer in 0\.\.6, got -1"),
        ("wo_b", inputs.wo_b[:, ::2], r"`wo_b` must be \[D, G\*R=80\] int8"),
    ]:
        wrong = dataclasses.replace(inputs, **{name: value})
        with pytest.raises(ContractError, match=message):
            plan.run(*wrong.args(), out=out)
    with pytest.raises(ContractError, match=r"`out` must be \[T=6, D=72\] bfloat16"):
        plan.run(*inputs.args(), out=out.float())
    assert is_sentinel(out).all()
    with pytest.raises(ContractError, match="`args` must be 15 arguments, q to wo_b_scale, got 14"):
        plan.run(*inputs.args()[:-1])


def test_a_row_of_too_many_ranks_is_for_decoupled_only(device):
    inputs = make_inputs(
        dataclasses.replace(SMALL, o_lora_rank=70_000, hidden=1), tokens=1, device=device
    )
    plan_of(inputs)
    with pytest.raises(ContractError, match=r"`wo_a` .* G\*R <= 132104, got G\*R = 140000"):
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


@pytest.fixture
def npu(monkeypatch):
    """A stand-in for torch.npu: plans take their CPU tensors to be on its device."""
    api = StandIn(torch.device("cpu"))
    monkeypatch.setattr(devices, "stream_api", lambda device: api)
    launch = Node.run

    def noted(node, buffers, **options):
        api.launched((node.label, len(api.log)))
        launch(node, buffers, **options)

    monkeypatch.setattr(Node, "run", noted)
    monkeypatch.setattr(OnStreams.__init__, "__defaults__", (noted,))
    return api


@every_schedule
def test_streams_give_the_same_bytes(schedule, npu, seed):
    inputs = make_inputs(EIGHT_GROUPS, tokens=10, start=40, seed=seed)
    got = chain(inputs, schedule=schedule, groups_per_launch=2, wave_tokens=4)
    assert torch.equal(got, chain(inputs, schedule=schedule, executor=in_order))
    streams = {entry.stream for entry in npu.log if entry.kind == "launch"}
    assert len(streams) == 4  # three lanes, and the caller's for the run in order


def test_waves_follow_each_other(npu, seed):
    """They share a workspace: whatever the next wave launches is behind all of this one."""
    inputs = make_inputs(SMALL, tokens=10, start=40, seed=seed)
    chain(inputs, wave_tokens=4)
    before = happens_before(npu.log)
    launches = list(before)
    per_wave = len(launches) // 3
    waves = [set(launches[i : i + per_wave]) for i in range(0, len(launches), per_wave)]
    assert len(waves) == 3
    for earlier, later in itertools.pairwise(waves):
        assert all(earlier <= before[launch] for launch in later)


@every_schedule
@pytest.mark.parametrize("executor", [None, in_order], ids=["on streams", "in order"])
def test_a_plan_on_two_streams_keeps_its_runs_apart(schedule, executor, npu, seed):
    """In order, nothing but the plan's own event stands between two streams of its callers."""
    inputs = make_inputs(SMALL, tokens=5, start=40, seed=seed)
    plan = plan_of(inputs, schedule=schedule, executor=executor)
    for stream in (npu.current, npu.Stream(npu.device)):
        with npu.stream(stream):
            plan.run(*inputs.args())
    launches = list(before := happens_before(npu.log))
    first, second = launches[: len(launches) // 2], launches[len(launches) // 2 :]
    assert all(set(first) <= before[launch] for launch in second)


def test_capture_and_replay(npu, seed):
    inputs = make_inputs(SMALL, tokens=5, start=40, seed=seed)
    plan = plan_of(inputs)
    captured = plan.capture(*inputs.args())
    graph = captured._graph
    recorded = [e.what[0] for e in graph.log if e.kind == "launch"]
    assert recorded == [node.label for node in plan.nodes]
    # Nothing in the graph waits for something outside, which a capture does not allow.
    inside = set()
    for entry in graph.log:
        assert entry.kind != "wait" or entry.what in inside
        if entry.kind == "record":
            inside.add(entry.what)
    npu.log.clear()
    assert torch.equal(captured.replay(), chain(inputs, executor=in_order))
    kinds = [entry.kind for entry in npu.log[:3]]
    assert kinds == ["wait", "replay", "record"]  # behind the last run, and ahead of the next
