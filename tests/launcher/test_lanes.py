"""Edges, the event waits made of them, and the proof that every edge is enforced."""

import dataclasses
import itertools
import random

import pytest
import torch

from dsv4_kernels import device as devices
from dsv4_kernels.chains import pipeline
from dsv4_kernels.chains.pipeline import SCHEDULES, Node, edges
from dsv4_kernels.launcher import executors
from dsv4_kernels.launcher.executors import OnStreams
from dsv4_kernels.launcher.lanes import FORK, synchronise
from stand_in import Entry, StandIn, happens_before

SCHEDULES_AND_CHUNKS = [
    pytest.param(build(groups, chunk), id=f"{name}-{groups}-{chunk}")
    for name, build in SCHEDULES.items()
    for groups in (8, 16)
    for chunk in (1, 2, 3, 4, 8, 16)
]
every_schedule = pytest.mark.parametrize("nodes", SCHEDULES_AND_CHUNKS)
DEVICE = torch.device("privateuseone", 0)  # what torch calls an npu before torch_npu names it


def log_of(nodes: tuple[Node, ...]) -> list[Entry]:
    """What OnStreams issues for the nodes, between a launch of the caller's before and after."""
    api = StandIn(DEVICE)
    places = {node: place for place, node in enumerate(nodes)}
    executor = OnStreams(nodes, DEVICE, api, launch=lambda node, _: api.launched(places[node]))
    api.launched("before")
    executor(nodes, {})
    api.launched("after")
    return api.log


def unproven(log: list[Entry], nodes: tuple[Node, ...]) -> list[tuple]:
    """Edges that the log does not enforce, those from and to the caller's stream included."""
    before = happens_before(log)
    needed = [(edge.before, edge.after) for edge in edges(nodes)]
    needed += [("before", place) for place in range(len(nodes))]
    needed += [(place, "after") for place in range(len(nodes))]
    return [(first, then) for first, then in needed if first not in before[then]]


@every_schedule
def test_every_edge_is_enforced(nodes):
    assert unproven(log_of(nodes), nodes) == []


@every_schedule
def test_no_wait_can_be_dropped(nodes):
    log = log_of(nodes)
    waits = [i for i, entry in enumerate(log) if entry.kind == "wait"]
    assert waits
    for i in waits:
        assert unproven(log[:i] + log[i + 1 :], nodes), f"needless: {log[i]}"


@every_schedule
def test_no_event_is_recorded_for_nobody(nodes):
    log = log_of(nodes)
    recorded = [entry.what for entry in log if entry.kind == "record"]
    assert len(recorded) == len(set(recorded))
    assert set(recorded) == {entry.what for entry in log if entry.kind == "wait"}


def test_launches_on_one_stream_each_lane():
    nodes = pipeline.decoupled(8, 2)
    streams = {}
    for entry in log_of(nodes):
        if entry.kind == "launch" and isinstance(entry.what, int):
            streams.setdefault(nodes[entry.what].lane, set()).add(entry.stream)
    assert set(streams) == {"cube", "vector", "mix"}
    assert all(len(own) == 1 for own in streams.values())
    assert len(set.union(*streams.values())) == 3


def labels(nodes, kind=None):
    return {
        (nodes[e.before].label, nodes[e.after].label)
        for e in edges(nodes)
        if kind is None or e.kind == kind
    }


def test_groups_are_independent_until_the_sum():
    """The seed's point: proj_b of a group waits for its own quant only."""
    nodes = pipeline.decoupled(8, 2)
    into_proj_b = {before for before, after in labels(nodes) if after == "proj_b[2:4]"}
    assert into_proj_b == {"group_quant[2:4]"}
    into_quant = {before for before, after in labels(nodes) if after == "group_quant[2:4]"}
    assert into_quant == {"proj_a[2:4]"}
    into_proj_a = {before for before, after in labels(nodes) if after == "proj_a[2:4]"}
    assert into_proj_a == {"merge_norm", "inverse_rope"}
    into_sum = {before for before, after in labels(nodes) if after == "dequant_sum"}
    chunks = ("0:2", "2:4", "4:6", "6:8")
    assert into_sum == {f"{name}[{c}]" for name in ("proj_b", "group_quant") for c in chunks}


def test_the_row_barrier_waits_for_every_group():
    nodes = pipeline.row_barrier(8, 2)
    into_quant = {before for before, after in labels(nodes, "RAW") if after == "row_quant"}
    assert into_quant == {f"proj_a[{c}]" for c in ("0:2", "2:4", "4:6", "6:8")}


def test_proj_b_is_issued_behind_the_next_proj_a():
    order = [node.label for node in pipeline.decoupled(8, 4)][5:]
    assert order == [
        "proj_a[0:4]", "group_quant[0:4]", "proj_a[4:8]", "group_quant[4:8]", "proj_b[0:4]",
        "proj_b[4:8]", "dequant_sum",
    ]  # fmt: skip


@pytest.mark.parametrize("build", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize(("groups", "per_launch"), [(1, 1), (3, 2), (8, 3), (16, 16), (2, 4)])
def test_every_group_is_launched_once(build, groups, per_launch):
    for name in ("proj_a", "group_quant", "proj_b"):
        ranges = [node.groups for node in build(groups, per_launch) if node.name == name]
        covered = list(itertools.chain.from_iterable(ranges))
        assert covered in ([], list(range(groups)))
        assert all(len(chunk) <= per_launch for chunk in ranges)


def write(buffer: str, **fields) -> Node:
    return dataclasses.replace(pipeline.GATHER_KV, reads=(), writes=(buffer,), sizes=(), **fields)


def read(buffer: str, **fields) -> Node:
    return dataclasses.replace(pipeline.PROJ_A, reads=(buffer,), writes=(), **fields)


def test_the_three_kinds_of_edge():
    nodes = (write("kv"), read("kv"), write("kv"))
    assert [tuple(edge) for edge in edges(nodes)] == [
        (0, 1, "kv", "RAW"), (0, 2, "kv", "WAW"), (1, 2, "kv", "WAR"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("buffer", "second", "meet"),
    [("o_r", range(2, 4), False), ("o_r", range(1, 3), True), ("kv", range(2, 4), True)],
)
def test_groups_apart_meet_only_in_buffers_without_groups(buffer, second, meet):
    nodes = (write(buffer, groups=range(0, 2)), read(buffer, groups=second))
    assert bool(list(edges(nodes))) == meet


def random_nodes(seed: int) -> tuple[Node, ...]:
    """Nodes on all lanes that read and write a few buffers at random."""
    draw = random.Random(seed)

    def some() -> tuple[str, ...]:
        return tuple(draw.sample("abcde", draw.randrange(3)))

    kinds = (pipeline.GATHER_KV, pipeline.QK_SOFTMAX_PV, pipeline.PROJ_A)
    return tuple(
        # `sizes` makes every node another one; nothing is launched.
        dataclasses.replace(draw.choice(kinds), reads=some(), writes=some(), sizes=(str(place),))
        for place in range(12)
    )


def test_any_schedule_is_enforced_without_a_needless_wait():
    """The shipped schedules have no node that waits for two lanes; these do."""
    most = 0
    for seed in range(100):
        nodes = random_nodes(seed)
        log = log_of(nodes)
        assert unproven(log, nodes) == [], seed
        for i, entry in enumerate(log):
            if entry.kind == "wait":
                assert unproven(log[:i] + log[i + 1 :], nodes), (seed, f"needless: {entry}")
        most = max(most, *(len(step.waits) for step in synchronise(nodes).steps))
    assert most == 2


def test_only_the_latest_of_a_lane_is_waited_for():
    nodes = (write("a"), write("b"), read("a"), read("b"))
    first, second, third, fourth = synchronise(nodes).steps
    assert first.waits == (FORK,)
    assert second.waits == ()
    assert third.waits == (0,)
    assert fourth.waits == (1,)
    both = dataclasses.replace(pipeline.PROJ_A, reads=("a", "b"), writes=())
    assert synchronise((*nodes[:2], both)).steps[2].waits == (1,)


def test_what_another_lane_knew_needs_no_wait_of_its_own():
    relay = dataclasses.replace(pipeline.QK_SOFTMAX_PV, reads=("a",), writes=("b",))
    both = dataclasses.replace(pipeline.PROJ_A, reads=("a", "b"), writes=())
    plan = synchronise((write("a"), relay, both))
    assert plan.steps[2].waits == (1,)
    assert plan.joins == (2,)


# -- the stand-in rejects wrong use


def test_the_stand_in_rejects_wrong_use():
    api, elsewhere = StandIn(DEVICE), StandIn(torch.device("privateuseone", 1))
    stream = api.Stream(DEVICE)
    with pytest.raises(AssertionError, match="nobody recorded"):
        stream.wait_event(api.Event())
    with pytest.raises(AssertionError, match="another device"):
        api.Event().record(elsewhere.current)
    with pytest.raises(AssertionError, match="another device"):
        stream.wait_event(elsewhere.Event())
    with pytest.raises(AssertionError, match="unknown stream"), api.stream(elsewhere.current):
        pass
    with pytest.raises(AssertionError, match="a stream of"):
        api.Stream(torch.device("privateuseone", 1))
    with pytest.raises(AssertionError, match="the stream of"):
        api.current_stream(torch.device("privateuseone", 1))


def test_streams_are_made_once():
    api = StandIn(DEVICE)
    nodes = pipeline.decoupled(8, 4)
    first, second = (OnStreams(nodes, DEVICE, api) for _ in range(2))
    assert first._streams is second._streams
    assert devices.lane_streams(DEVICE, api, tuple(pipeline.LANES.values())) is first._streams


def test_an_executor_runs_its_own_nodes_only():
    executor = OnStreams(pipeline.decoupled(8, 4), DEVICE, StandIn(DEVICE))
    with pytest.raises(ValueError, match="no others"):
        executor(pipeline.decoupled(8, 2), {})


def test_a_cpu_runs_in_order():
    assert executors.default(pipeline.decoupled(8, 4), torch.device("cpu")) is executors.in_order
