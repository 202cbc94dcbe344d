"""The event waits made of a schedule's edges, and the proof that every edge is enforced."""

import dataclasses
import itertools
import random
from pathlib import Path

import pytest
import torch

from dsv4_kernels import device as devices
from dsv4_kernels.chains.prefill import ATTENTIONS, SCHEDULES, wave_nodes
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.launcher import executors
from dsv4_kernels.launcher.executors import OnStreams
from dsv4_kernels.launcher.graph import Node, edges
from dsv4_kernels.launcher.lanes import FORK, synchronise
from dsv4_kernels.launcher.order import in_order_of_issue, issue
from dsv4_kernels.launcher.overlap import critical_path, overlaps
from dsv4_kernels.launcher.overlap import happens_before as known_before
from stand_in import Entry, IllegalCall, StandIn, happens_before

FLASH = PRESETS["FLASH"]


def schedule_nodes(
    schedule: str, groups: int, chunk: int, waves: int = 1, slots: int = 1, **options: str
) -> tuple[Node, ...]:
    """All launches of a run, in their order of issue. Of several waves the last is the shortest."""
    last = waves - 1 if waves > 1 else None
    dims = dataclasses.replace(FLASH, groups=groups, heads=8 * groups)
    one = wave_nodes(dims, 128, schedule=schedule, groups_per_launch=chunk, **options)
    return in_order_of_issue(
        [
            dataclasses.replace(node, wave=wave, slot=wave % slots, tokens=1 if wave == last else 3)
            for wave in range(waves)
            for node in one
        ]
    )


SCHEDULES_AND_CHUNKS = [
    pytest.param(schedule_nodes(name, groups, chunk), id=f"{name}-{groups}-{chunk}")
    for name in SCHEDULES
    for groups in (8, 16)
    for chunk in (1, 2, 3, 4, 8, 16)
] + [
    pytest.param(
        schedule_nodes(name, 4, chunk, waves, slots), id=f"{name}-4-{chunk}-{waves}-waves-{slots}"
    )
    for name in SCHEDULES
    for chunk in (1, 2, 4)
    for waves, slots in ((3, 1), (3, 2), (4, 3))
]
SCHEDULES_AND_CHUNKS += [
    pytest.param(
        schedule_nodes("decoupled", 4, 2, waves=3, slots=2, attention=attention), id=attention
    )
    for attention in [*ATTENTIONS][1:]
]
every_schedule = pytest.mark.parametrize("nodes", SCHEDULES_AND_CHUNKS)
DEVICE = torch.device("privateuseone", 0)  # what torch calls an npu before torch_npu names it


def log_of(nodes: tuple[Node, ...]) -> list[Entry]:
    """What OnStreams issues for the nodes, between a launch of the caller's before and after."""
    api = StandIn(DEVICE)
    places = {id(node): place for place, node in enumerate(nodes)}
    executor = OnStreams(DEVICE, api, launch=lambda node, _: api.launched(places[id(node)]))
    api.launched("before")
    executor(nodes, [])
    api.launched("after")
    return api.log


def conflicts(nodes: tuple[Node, ...]) -> list[tuple[int, int]]:
    """Every pair of nodes that must not run at a time, found without `edges`: they touch the same
    memory, and one of them writes."""
    found = []
    for (i, a), (j, b) in itertools.combinations(enumerate(nodes), 2):
        for buffer in {*a.reads, *a.updates, *a.writes} & {*b.reads, *b.updates, *b.writes}:
            written = buffer in {*a.writes, *a.updates, *b.writes, *b.updates}
            if written and memory(a, buffer) & memory(b, buffer):
                found.append((i, j))
                break
    return found


def memory(node: Node, buffer: str) -> set[tuple]:
    """The places of a buffer that a node touches, one for each group and copy."""
    if buffer in ("attn_out", "live_blocks", "live_slots"):
        return {(node.wave,)}
    groups = node.part("groups")
    by_group = {"o_packed", "scale", "partial"}  # and by token inside of it
    has_groups = buffer in {"o_r", "codes", "wo_a", "wo_b"} | by_group
    if not has_groups or groups is None:
        groups = range(32)
    n = node.tokens if buffer in by_group else 1
    return {(node.slot, place) for place in range(groups.start * n, groups.stop * n)}


def unproven(log: list[Entry], nodes: tuple[Node, ...], pairs) -> list[tuple]:
    """Pairs that the log does not keep apart, those with the caller's stream included."""
    before = happens_before(log)
    needed = [*pairs]
    needed += [("before", place) for place in range(len(nodes))]
    needed += [(place, "after") for place in range(len(nodes))]
    return [(first, then) for first, then in needed if first not in before[then]]


@every_schedule
def test_every_conflict_is_ordered(nodes):
    assert unproven(log_of(nodes), nodes, conflicts(nodes)) == []


@every_schedule
def test_no_wait_can_be_dropped(nodes):
    log, pairs = log_of(nodes), conflicts(nodes)
    waits = [i for i, entry in enumerate(log) if entry.kind == "wait"]
    assert waits
    for i in waits:
        assert unproven(log[:i] + log[i + 1 :], nodes, pairs), f"needless: {log[i]}"


@every_schedule
def test_no_event_is_recorded_for_nobody(nodes):
    log = log_of(nodes)
    recorded = [entry.what for entry in log if entry.kind == "record"]
    assert len(recorded) == len(set(recorded))
    assert set(recorded) == {entry.what for entry in log if entry.kind == "wait"}


@every_schedule
def test_the_counted_overlap_is_what_the_log_allows(nodes):
    """`overlap.happens_before`, from the waits, says what the streams and events say."""
    before = happens_before(log_of(nodes))
    for place, known in enumerate(known_before(nodes)):
        assert known == before[place] - {"before"}


def test_launches_on_one_stream_each_lane():
    nodes = schedule_nodes("decoupled", 8, 2)
    streams = {}
    for entry in log_of(nodes):
        if entry.kind == "launch" and isinstance(entry.what, int):
            streams.setdefault(nodes[entry.what].lane, set()).add(entry.stream)
    assert set(streams) == {"cube", "vector", "mix", "gather"}
    assert all(len(own) == 1 for own in streams.values())
    assert len(set.union(*streams.values())) == 4


def labels(nodes, kind=None):
    return {
        (nodes[e.before].label, nodes[e.after].label)
        for e in edges(nodes)
        if kind is None or e.kind == kind
    }


def test_groups_are_independent_until_the_sum():
    """The seed's point: proj_b of a group waits for its own quant only."""
    nodes = schedule_nodes("decoupled", 8, 2)
    into_proj_b = {before for before, after in labels(nodes) if after == "proj_b[2:4]"}
    assert into_proj_b == {"group_quant[2:4]"}
    into_quant = {before for before, after in labels(nodes) if after == "group_quant[2:4]"}
    assert into_quant == {"proj_a[2:4]"}
    into_proj_a = {before for before, after in labels(nodes) if after == "proj_a[2:4]"}
    assert into_proj_a == {"merge_finish[2:4]"}


def test_chunks_are_added_up_as_they_end():
    """Each behind the chunk before it, whose sums it takes up, and nothing of the chunks to come;
    the last one also needs to know which tokens are live."""
    nodes = schedule_nodes("decoupled", 8, 2)
    chunks = ("0:2", "2:4", "4:6", "6:8")
    for at, chunk in enumerate(chunks):
        into = {before for before, after in labels(nodes) if after == f"dequant_sum[{chunk}]"}
        before = {f"dequant_sum[{chunks[at - 1]}]"} if at else set()
        live = {"resolve_slots"} if at == 3 else set()
        assert into == {f"proj_b[{chunk}]", f"group_quant[{chunk}]"} | before | live


def test_the_row_barrier_waits_for_every_group():
    nodes = schedule_nodes("row_barrier", 8, 2)
    into_quant = {before for before, after in labels(nodes, "RAW") if after == "row_quant"}
    assert into_quant == {f"proj_a[{c}]" for c in ("0:2", "2:4", "4:6", "6:8")}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("groups", "per_launch"), [(1, 1), (3, 2), (8, 3), (16, 16), (2, 4)])
def test_every_group_is_launched_once(schedule, groups, per_launch):
    nodes = schedule_nodes(schedule, groups, per_launch)
    by_groups = ["merge_finish", "proj_a"]
    by_groups += ["group_quant", "proj_b", "dequant_sum"] if schedule == "decoupled" else []
    for name in by_groups:
        ranges = [node.part("groups") or range(groups) for node in nodes if node.name == name]
        ranges.sort(key=lambda part: part.start)
        covered = list(itertools.chain.from_iterable(ranges))
        assert covered == list(range(groups))
        assert all(len(chunk) <= per_launch for chunk in ranges)


# -- the order of issue


def test_a_lane_takes_what_may_begin_first():
    """The second wave's gather is issued ahead of what must wait for the first wave."""
    nodes = schedule_nodes("decoupled", 8, 4, waves=2, slots=2)
    place = {(node.label, node.wave): at for at, node in enumerate(nodes)}
    assert place["gather_kv", 1] < place["proj_a[0:4]", 0]
    assert place["gather_kv", 1] < place["dequant_sum[4:8]", 0]


def test_the_order_is_one_that_the_edges_allow():
    """Whatever the weights: drawn nodes, drawn weights."""
    for seed in range(30):
        draw = random.Random(seed)
        nodes = [dataclasses.replace(n, weight=draw.randrange(9)) for n in random_nodes(seed)]
        places = [each.place for each in issue(nodes)]
        assert sorted(places) == list(range(len(nodes)))
        for edge in edges(nodes):
            assert places.index(edge.before) < places.index(edge.after)


def test_nothing_begins_before_what_it_needs_or_while_its_lane_is_busy():
    nodes = schedule_nodes("decoupled", 8, 2, waves=3, slots=2)
    issued = {each.place: each for each in issue(nodes)}
    assert min(each.begin for each in issued.values()) == 0
    assert all(each.end - each.begin == nodes[each.place].weight for each in issued.values())
    for edge in edges(nodes):
        assert issued[edge.before].end <= issued[edge.after].begin
    for lane in {node.lane for node in nodes}:
        own = [each for each in issued.values() if nodes[each.place].lane == lane]
        for earlier, later in itertools.pairwise(own):
            assert earlier.end <= later.begin


# -- what may overlap, as a number


@pytest.mark.parametrize(("preset", "more", "less"), [("FLASH", 4, 6), ("PRO", 21, 39)])
def test_a_sum_by_chunks_moves_more_and_takes_less(preset, more, less):
    """MiB of one wave, in all and on the heaviest path, beside a sum of all groups at the end: why
    chunks are added up as they end. The figures stand in launcher/README.md."""
    by_chunks = wave_nodes(PRESETS[preset], 128)
    (at_the_end,) = (
        node for node in wave_nodes(PRESETS[preset], 128, groups_per_launch=16)
        if node.name == "dequant_sum"
    )  # fmt: skip
    together = (*(node for node in by_chunks if node.name != "dequant_sum"), at_the_end)

    def weights(nodes: tuple[Node, ...]) -> tuple[float, float]:
        issued = in_order_of_issue(nodes)
        path = sum(issued[place].weight for place in critical_path(issued))
        return sum(node.weight for node in issued) / 2**20, path / 2**20

    (total, path), (before, path_before) = weights(by_chunks), weights(together)
    assert (round(total - before), round(path_before - path)) == (more, less)
    readme = Path(executors.__file__).with_name("README.md").read_text()
    assert f"{more} MiB a wave of {preset}" in readme
    assert f"{less} MiB of {preset}" in readme


def test_nothing_runs_beside_anything_where_all_is_one_chain():
    nodes = (write("a", weight=3), read("a", weight=2))
    assert {lane: found.share() for lane, found in overlaps(nodes).items()} == {
        "vector": 0.0, "cube": 0.0,
    }  # fmt: skip


def test_two_lanes_without_an_edge_may_run_at_a_time():
    nodes = (write("a", weight=3), read("b", weight=2), read("a", weight=5))
    found = overlaps(nodes)
    assert found["vector"].beside == {"cube": 3, "any": 3}
    assert found["cube"].beside == {"vector": 2, "any": 2}
    assert (found["cube"].share("vector"), found["cube"].total) == (2 / 7, 7)


# -- edges


def write(buffer: str, **fields) -> Node:
    return Node("writer", "vector", writes=(buffer,), **fields)


def read(buffer: str, **fields) -> Node:
    return Node("reader", "cube", reads=(buffer,), **fields)


def groups(*ends: int) -> tuple:
    return (("groups", range(*ends)),)


def test_the_three_kinds_of_edge():
    nodes = (write("kv"), read("kv"), write("kv"))
    assert [tuple(edge) for edge in edges(nodes)] == [
        (0, 1, "kv", "RAW"), (0, 2, "kv", "WAW"), (1, 2, "kv", "WAR"),
    ]  # fmt: skip


def test_what_follows_through_a_later_write_has_no_edge_of_its_own():
    nodes = (write("kv"), write("kv"), read("kv"))
    assert [tuple(edge)[:2] for edge in edges(nodes)] == [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    ("buffer", "second", "meet"),
    [("o_r", (2, 4), False), ("o_r", (1, 3), True), ("kv", (2, 4), True)],
)
def test_groups_apart_meet_only_in_buffers_without_groups(buffer, second, meet):
    nodes = (write(buffer, parts=groups(0, 2)), read(buffer, parts=groups(*second)))
    assert bool(list(edges(nodes))) == meet


@pytest.mark.parametrize(
    ("buffer", "field", "meet"),
    [
        ("kv", "slot", False),  # a workspace of its own
        ("kv", "wave", True),  # the same workspace, taken by the next wave
        ("attn_out", "wave", False),  # other rows of the output
        ("attn_out", "slot", True),
        ("live_slots", "wave", False),  # likewise
        ("live_slots", "slot", True),
        ("q", "slot", True),  # an argument is there once
    ],
)
def test_waves_meet_in_what_they_share(buffer, field, meet):
    nodes = (write(buffer), read(buffer, **{field: 1}))
    assert bool(list(edges(nodes))) == meet


def random_nodes(seed: int) -> tuple[Node, ...]:
    """Nodes on all lanes that read and write a few buffers at random."""
    draw = random.Random(seed)

    def some() -> tuple[str, ...]:
        return tuple(draw.sample("abcde", draw.randrange(3)))

    lanes = ("vector", "mix", "cube")
    return tuple(Node(str(i), draw.choice(lanes), reads=some(), writes=some()) for i in range(12))


def test_any_schedule_is_enforced_without_a_needless_wait():
    """The shipped schedules have few nodes that wait for two lanes; these do."""
    most = 0
    for seed in range(100):
        nodes = random_nodes(seed)
        log, pairs = log_of(nodes), conflicts(nodes)
        assert unproven(log, nodes, pairs) == [], seed
        for i, entry in enumerate(log):
            if entry.kind == "wait":
                dropped = log[:i] + log[i + 1 :]
                assert unproven(dropped, nodes, pairs), (seed, f"needless: {entry}")
        most = max(most, *(len(step.waits) for step in synchronise(nodes).steps))
    assert most == 2


def test_only_the_latest_of_a_lane_is_waited_for():
    nodes = (write("a"), write("b"), read("a"), read("b"))
    first, second, third, fourth = synchronise(nodes).steps
    assert first.waits == (FORK,)
    assert second.waits == ()
    assert third.waits == (0,)
    assert fourth.waits == (1,)
    both = Node("both", "cube", reads=("a", "b"))
    assert synchronise((*nodes[:2], both)).steps[2].waits == (1,)


@pytest.mark.parametrize(("buffer", "elsewhere"), [("o_packed", True), ("o_r", False)])
def test_a_shorter_wave_has_its_groups_elsewhere(buffer, elsewhere):
    """[G, N, J] of 1 token has group 3 where 3 tokens have group 1; [N, G, R] has it where it was.
    Nor is group 1 done with once that of the shorter wave is written."""

    def of(group, tokens, **access):
        parts = (("groups", range(group, group + 1)),)
        return Node(f"{group}", "cube", parts=parts, tokens=tokens, **access)

    first = of(1, 3, reads=(buffer,))
    for nodes in (
        (first, of(3, 1, writes=(buffer,))),
        (first, of(1, 1, writes=(buffer,)), of(3, 1, writes=(buffer,))),
    ):
        last = len(nodes) - 1
        found = {(edge.before, edge.after, edge.kind) for edge in edges(nodes)}
        assert ((0, last, "WAR") in found) == elsewhere


def test_what_another_lane_knew_needs_no_wait_of_its_own():
    relay = Node("relay", "mix", reads=("a",), writes=("b",))
    both = Node("both", "cube", reads=("a", "b"))
    plan = synchronise((write("a"), relay, both))
    assert plan.steps[2].waits == (1,)
    assert plan.joins == (2,)


# -- failures


@pytest.mark.parametrize("at", range(13))
def test_whatever_fails_the_lanes_are_joined(at):
    """The caller's next work is behind all that was launched before the failure."""
    nodes = schedule_nodes("decoupled", 8, 4)
    api = StandIn(DEVICE)

    def launch(node, waves):
        if nodes.index(node) == at:
            raise KeyboardInterrupt
        api.launched(node.label)

    with pytest.raises(KeyboardInterrupt):
        OnStreams(DEVICE, api, launch=launch)(nodes, [])
    api.launched("after")
    before = happens_before(api.log)
    assert before["after"] == {node.label for node in nodes[:at]}


# -- the stand-in rejects wrong use


def test_the_stand_in_rejects_wrong_use():
    api, elsewhere = StandIn(DEVICE), StandIn(torch.device("privateuseone", 1))
    stream = api.Stream(DEVICE)
    with pytest.raises(IllegalCall, match="nobody recorded"):
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


def test_the_stand_in_knows_the_rules_of_a_capture():
    api = StandIn(DEVICE)
    outside, inside, other = api.Event(), api.Event(), api.Stream(DEVICE)
    outside.record(api.current)
    graph = api.NPUGraph()
    with pytest.raises(IllegalCall, match="905"), api.graph(graph):
        api.current.wait_event(outside)
    assert not api.is_current_stream_capturing()
    with pytest.raises(IllegalCall, match="capture failed"):
        graph.replay()

    def not_joined() -> None:
        with api.graph(graph):
            inside.record(api.current)
            other.wait_event(inside)

    with pytest.raises(IllegalCall, match="904"):
        not_joined()
    with api.graph(graph):
        assert api.is_current_stream_capturing()
        inside.record(api.current)
        other.wait_event(inside)
        with api.stream(other):
            api.launched("a launch")
        inside.record(other)
        api.current.wait_event(inside)
    graph.replay()
    with pytest.raises(IllegalCall, match="907"):
        api.current.wait_event(inside)


def test_streams_are_made_once():
    api = StandIn(DEVICE)
    first, second = (devices.lane_streams(DEVICE, api, lanes) for lanes in (("a", "b"), ("b",)))
    assert first["b"] is second["b"]
    assert first["a"] is not first["b"]


def test_a_cpu_runs_in_order():
    assert executors.default(torch.device("cpu")) is executors.in_order


def test_an_executor_forgets_what_it_ran_long_ago():
    """A plan whose pools grow from run to run binds new nodes every time."""
    executor = OnStreams(DEVICE, StandIn(DEVICE), launch=lambda node, waves: None)
    for _ in range(200):
        executor((write("kv"), read("kv")), [])
    assert len(executor._known) == 64
