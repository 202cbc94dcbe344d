"""The swimlane: every launch once, in its lane, and a critical path that explains the makespan."""

import dataclasses
import itertools
import json
import random
import re

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from adversary import SMALL
from dsv4_kernels import PrefillSparseAttn
from dsv4_kernels import device as devices
from dsv4_kernels.__main__ import main
from dsv4_kernels.chains.prefill import SCHEDULES, wave_nodes
from dsv4_kernels.commands import terminal
from dsv4_kernels.commands.swimlane import command, picture
from dsv4_kernels.commands.swimlane.command import record
from dsv4_kernels.dims import PRESETS, Dims
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.launcher.clocks import EventClock, HostClock, Span, Timeline
from dsv4_kernels.launcher.graph import Node, edges
from dsv4_kernels.launcher.order import in_order_of_issue
from dsv4_kernels.segments import SEGMENTS
from stand_in import StandIn

FLASH = PRESETS["FLASH"]


def issued(dims: Dims, tokens: int, schedule: str, groups_per_launch: int) -> tuple[Node, ...]:
    """The launches of one wave, in their order of issue."""
    options = dict(schedule=schedule, groups_per_launch=groups_per_launch)
    return in_order_of_issue(wave_nodes(dims, tokens, **options))


every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def check_launches(timeline: Timeline, groups: int, groups_per_launch: int) -> None:
    """They are the schedule's, took time, and did not overlap on a lane."""
    launches = timeline.launches
    whole = dataclasses.replace(FLASH, groups=groups, heads=8 * groups)
    wanted = wave_nodes(whole, 1, schedule=timeline.schedule, groups_per_launch=groups_per_launch)
    assert sorted(launch.node.label for launch in launches) == sorted(n.label for n in wanted)
    assert min(launch.begin for launch in launches) == 0
    assert all(launch.begin < launch.end <= timeline.makespan for launch in launches)
    for lane in {launch.node.lane for launch in launches}:
        on_lane = [launch for launch in launches if launch.node.lane == lane]
        for earlier, later in itertools.pairwise(on_lane):
            assert earlier.end <= later.begin


def check_critical_path(timeline: Timeline) -> None:
    """A chain of edges and lane neighbours, from a launch that waits for none to the makespan; none
    at all where launches ran one after the other."""
    nodes = [launch.node for launch in timeline.launches]
    path = timeline.critical_path
    busy = sum(launch.duration for launch in timeline.launches)
    if busy == timeline.makespan:
        assert path == ()
        return
    needs = {(edge.before, edge.after) for edge in edges(nodes)}
    for lane in {node.lane for node in nodes}:
        needs |= {*itertools.pairwise(i for i, node in enumerate(nodes) if node.lane == lane)}
    assert {*itertools.pairwise(path)} <= needs
    assert path[0] not in {after for _, after in needs}
    assert timeline.launches[path[-1]].end == timeline.makespan


def test_every_launch_is_recorded_once(device, seed):
    inputs = make_inputs(SMALL, tokens=9, start=100, seed=seed, device=device)
    finished = []
    timelines = record(inputs, SCHEDULES, 1, 3, lambda: finished.append(1))
    assert len(finished) == 4 * len(SCHEDULES)
    assert [timeline.schedule for timeline in timelines] == [*SCHEDULES]
    for timeline in timelines:
        check_launches(timeline, SMALL.groups, 1)
        if device.type == "cpu":
            assert timeline.critical_path == ()
        else:
            check_critical_path(timeline)


@pytest.mark.parametrize(("makespans", "median"), [((5, 1, 3), 3), ((9, 7, 2, 8, 1), 7)])
def test_of_the_runs_the_one_of_median_makespan_is_shown(makespans, median, monkeypatch, seed):
    """The first, which compiles, is none of them, and is waited for; the schedules take turns."""
    node = issued(FLASH, 1, "decoupled", 8)[0]
    seen = []

    class Clock(HostClock):
        def __call__(self, nodes, waves):
            seen.append(len(nodes))

        def read(self):
            return [(Span(node, 0, end),) for end in (0.5, *makespans)]

    monkeypatch.setattr(command, "HostClock", Clock)
    monkeypatch.setattr(command.devices, "stream_api", lambda device: None)
    monkeypatch.setattr(command.devices, "synchronize", seen.append)
    inputs = make_inputs(SMALL, tokens=1, seed=seed)
    timelines = record(inputs, SCHEDULES, 1, len(makespans), lambda: None)
    assert [timeline.makespan for timeline in timelines] == [median] * 2
    turn = [len(issued(SMALL, 1, schedule, 1)) for schedule in SCHEDULES]
    assert turn[0] != turn[1]
    assert seen == [*turn, inputs.q.device, *turn * len(makespans)]


def test_launches_that_overlap_have_a_critical_path():
    """The second may begin ahead of the first's end, and is issued first."""
    first, second = (Node(name, name) for name in ("cube", "vector"))
    overlapping = Timeline("decoupled", (Span(second, 3, 5), Span(first, 0, 4)))
    assert overlapping.critical_path == (0,)
    one_by_one = Timeline("decoupled", (Span(second, 4, 5), Span(first, 0, 4)))
    assert one_by_one.critical_path == ()


# Of two lanes; the second launch of the cube waited for the vector core's.
DRAWN = Timeline(
    "decoupled",
    (
        Span(Node("proj_a", "cube", writes=("o_r",)), 0, 1000),
        Span(Node("group_quant", "vector", reads=("o_r",), writes=("codes",)), 1000, 3000),
        Span(Node("gather_kv", "gather"), 500, 2500),
        Span(Node("proj_b", "cube", reads=("codes",)), 3250, 4000),
    ),
)
QUICK = Timeline("quick", (Span(Node("proj_a", "cube"), 0, 2000),))


def test_a_trace_has_a_process_for_a_schedule_and_a_thread_for_a_lane():
    written = command.trace([DRAWN, QUICK], "of what")
    assert (written["displayTimeUnit"], written["otherData"]) == ("ms", {"title": "of what"})
    events = written["traceEvents"]
    names = [(e["pid"], e["args"]["name"]) for e in events if e["name"] == "process_name"]
    assert names == [(1, "decoupled: 4.000 ms"), (2, "quick: 2.000 ms")]
    for kind, values in (("thread_name", ("cube", "vector", "gather")),
                         ("thread_sort_index", (1, 2, 3))):  # fmt: skip
        said = [(e["pid"], e["tid"], *e["args"].values()) for e in events if e["name"] == kind]
        assert said == [(pid, i, v) for pid in (1, 2) for i, v in enumerate(values, start=1)]
    launches = [[*event.values()] for event in events if event["ph"] == "X"]
    assert launches == [
        ["X", "proj_a", "critical", 1, 1, 0, 1000],
        ["X", "group_quant", "critical", 1, 2, 1000, 2000],
        ["X", "gather_kv", "launch", 1, 3, 500, 2000],
        ["X", "proj_b", "critical", 1, 1, 3250, 750],
        ["X", "proj_a", "launch", 2, 1, 0, 2000],
    ]


def test_a_table_says_which_launches_made_the_makespan(capsys):
    terminal.console(80).print(command._table(DRAWN), command._table(QUICK))
    printed = [re.sub("[│┃]", " ", line).split() for line in capsys.readouterr().out.splitlines()]
    assert ["launch", "lane", "begin", "duration", "critical", "path"] in printed
    assert ["launch", "lane", "begin", "duration"] in printed
    assert ["proj_b", "cube", "3.250", "ms", "0.750", "ms", "yes"] in printed
    assert ["gather_kv", "gather", "0.500", "ms", "2.000", "ms"] in printed
    assert ["proj_a", "cube", "0.000", "ms", "2.000", "ms"] in printed


def test_a_verdict_is_by_the_last_schedule_and_says_what_was_timed(monkeypatch):
    monkeypatch.setattr(command.devices, "stream_api", lambda device: "streams")
    assert command.verdict([DRAWN, DRAWN, QUICK], torch.device("cpu")) == (
        "makespan decoupled / quick: 2.000, decoupled / quick: 2.000, medians of 5 runs; "
        "a stream per lane, timed by events"
    )


def test_bars_are_where_and_as_long_as_launches_were():
    """In milliseconds, a lane a row; behind those that made the makespan a darker one."""
    axes = Figure().subplots()
    picture._panel(axes, DRAWN, 4.32, {"cube": 0, "vector": 1, "gather": 2})
    own = picture._COLOURS
    rectangles = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    bars = [bar for bar in rectangles if round(bar.get_height(), 9) == picture._BAR]
    found = [
        (bar.get_y() + picture._BAR / 2, bar.get_x(), bar.get_width(), bar.get_facecolor())
        for bar in bars
        if bar.get_zorder() == 3
    ]
    assert found == [
        (pytest.approx(0), 0, 1, own["proj_a"]),
        (pytest.approx(1), 1, 2, own["group_quant"]),
        (pytest.approx(2), 0.5, 2, own["gather_kv"]),
        (pytest.approx(0), 3.25, 0.75, own["proj_b"]),
    ]
    behind = [(bar.get_x(), bar.get_width()) for bar in bars if bar.get_zorder() == 2]
    assert behind == [(0, 1), (1, 2), (3.25, 0.75)]
    assert axes.get_title(loc="left") == "decoupled: 4.000 ms"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cube", "vector", "gather"]
    assert [(text.get_text(), *text.get_position()) for text in axes.texts] == [
        ("proj_a", 0.5, 0), ("proj_b", 3.625, 0), ("group_quant", 2, 1), ("gather_kv", 1.5, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(("timelines", "critical"), [([QUICK, DRAWN], True), ([QUICK], False)])
def test_a_picture_has_all_lanes_in_every_panel_and_a_key_to_what_ran(
    timelines, critical, monkeypatch
):
    """In the segments' own order; the time axis ends behind the longest makespan."""
    drawn = []
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *what, **how: drawn.append((figure, what))
    )
    picture.draw(timelines, "of what", "on what", "there.png")
    ((figure, what),) = drawn
    assert what == ("there.png",)
    lanes = [*dict.fromkeys(x.node.lane for timeline in timelines for x in timeline.launches)]
    for axes in figure.axes:
        assert [label.get_text() for label in axes.get_yticklabels()] == lanes
        assert axes.get_xlim() == (0, pytest.approx(1.08 * timelines[-1].makespan / 1e3))
    assert len(figure.axes) == len(timelines)
    (legend,) = figure.legends
    names = {x.node.name for timeline in timelines for x in timeline.launches}
    ran = [name for name in SEGMENTS if name in names]
    assert [text.get_text() for text in legend.get_texts()] == [
        *ran, *["critical path"] * critical,
    ]  # fmt: skip
    assert (figure.get_suptitle(), figure.get_supxlabel()) == ("of what", "on what")


def test_a_label_is_on_its_bar_or_beside_it_or_nowhere():
    """Of 1000 places a character takes 5.5: three fit 17 microseconds."""

    def spans(*times):
        names = ("abc", "proj[0:4]", "defgh")
        return [Span(Node(n, "cube"), *at) for n, at in zip(names, times, strict=False)]

    def said(*times):
        return [*picture._labels(spans(*times), 1.0)]

    assert said((0, 17)) == [(0.0085, "abc", "center")]
    assert said((0, 16)) == [(0.016, "  abc", "left")]
    assert said((0, 17), (100, 150)) == [
        (0.0085, "abc", "center"), (0.125, "proj[0:4]", "center"),
    ]  # fmt: skip
    # In two lines, where the longer one fits.
    parts = (Node("proj", "cube", parts=(("groups", range(4)),)), 100, 130)
    assert [*picture._labels([Span(*parts)], 1.0)] == [(0.115, "proj\n[0:4]", "center")]
    # What stands close behind is told with it, where the bar after those leaves room.
    assert said((0, 10), (12, 20)) == [(0.02, "  abc, proj[0:4]", "left")]
    assert said((0, 10), (12, 20), (100, 101)) == [(0.101, "  defgh", "left")]
    assert said((0, 10), (30, 31)) == [(0.031, "  proj[0:4]", "left")]


def test_a_makespan_ends_with_the_last_to_end():
    node = issued(FLASH, 1, "decoupled", 8)[0]
    timeline = Timeline("decoupled", (Span(node, 0, 9), Span(node, 2, 4)))
    assert timeline.makespan == 9
    assert timeline.launches[1].duration == 2


@every_schedule
@pytest.mark.parametrize("groups_per_launch", [1, 3, 8])
def test_without_gaps_the_critical_path_is_as_long_as_the_run(schedule, groups_per_launch, seed):
    """Launches that begin as soon as they may: what made the makespan then fills all of it."""
    draw = random.Random(seed)
    nodes = issued(FLASH, 128, schedule, groups_per_launch)
    needs: list[set[int]] = [
        {i for i, earlier in enumerate(nodes[:place]) if earlier.lane == node.lane}
        for place, node in enumerate(nodes)
    ]
    for edge in edges(nodes):
        needs[edge.after].add(edge.before)
    for _ in range(20):
        launches: list[Span] = []
        for node, before in zip(nodes, needs, strict=True):
            begin = max((launches[i].end for i in before), default=0)
            launches.append(Span(node, begin, begin + draw.randint(1, 1000)))
        timeline = Timeline(schedule, tuple(launches))
        check_launches(timeline, 8, groups_per_launch)
        check_critical_path(timeline)
        if timeline.critical_path:
            assert sum(launches[i].duration for i in timeline.critical_path) == timeline.makespan


@every_schedule
def test_events_stand_before_and_after_every_launch(schedule, monkeypatch, seed):
    inputs = make_inputs(SMALL, tokens=3, start=40, seed=seed)
    api = StandIn(inputs.q.device)
    clock = EventClock(inputs.q.device, api)
    launch = Node.run
    nodes = []

    def noted(node, waves):
        nodes.append(node)
        api.launched(node)
        launch(node, waves)

    monkeypatch.setattr(Node, "run", noted)
    plan = PrefillSparseAttn(
        *inputs.args(),
        window=inputs.window,
        schedule=schedule,
        groups_per_launch=1,
        executor=clock,
    )
    plan.run(*inputs.args())
    plan.run(*inputs.args())
    places = [i for i, entry in enumerate(api.log) if entry.kind == "launch"]
    assert [api.log[i].what for i in places] == nodes
    for i in places:
        around = api.log[i - 1], api.log[i], api.log[i + 1]
        assert [entry.kind for entry in around] == ["record", "launch", "record"]
        assert len({entry.stream for entry in around}) == 1
    runs = clock.read()
    assert len(runs) == 2
    for launches in runs:
        check_launches(Timeline(schedule, launches), SMALL.groups, 1)
        # The stand-in's clock, in milliseconds, is the length of its log.
        assert {launch.duration for launch in launches} == {2000}


def test_the_command_prints_and_writes_what_ran(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(PRESETS, "FLASH", SMALL)
    files = [str(tmp_path / "lanes.json"), str(tmp_path / "lanes.png")]
    options = ["--tokens", "9", "--groups-per-launch", "1", "--json", files[0], "--png", files[1]]
    options += ["--layer", "HCA", "--start", "140", "--seed", "3"]
    asked = []
    monkeypatch.setattr(
        command, "make_inputs", lambda *a, **k: asked.append((*a, k)) or make_inputs(*a, **k)
    )
    assert main(["swimlane", *options]) == 0
    chunk = dict(layer="HCA", tokens=9, start=140, seed=3, device=devices.best())
    assert asked == [(SMALL, chunk)]
    printed = capsys.readouterr().out
    assert "FLASH HCA, T = 9, from position 140\n" in printed
    assert ("critical path" in printed) == (devices.best().type != "cpu")
    trace = json.loads((tmp_path / "lanes.json").read_text())
    makespans = []
    for pid, schedule in enumerate(SCHEDULES, start=1):
        events = [event for event in trace["traceEvents"] if event["pid"] == pid]
        lanes = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
        launches = [event for event in events if event["ph"] == "X"]
        assert [(e["name"], lanes[e["tid"]]) for e in launches] == [
            (node.label, node.lane) for node in issued(SMALL, 9, schedule, 1)
        ]
        assert all(e["dur"] > 0 and e["ts"] >= 0 for e in launches)
        last = max(launches, key=lambda e: e["ts"] + e["dur"])
        assert {e["cat"] for e in launches} == {"launch"} or devices.best().type != "cpu"
        makespans.append(last["ts"] + last["dur"])
        assert f"{schedule}: {makespans[-1] / 1e3:.3f} ms" in printed
    assert {event["pid"] for event in trace["traceEvents"]} == {1, 2}
    ratio = f"makespan decoupled / row_barrier: {makespans[0] / makespans[1]:.3f}"
    assert ratio in printed
    assert ratio in trace["otherData"]["title"]
    assert (tmp_path / "lanes.png").read_bytes().startswith(b"\x89PNG")


def test_on_a_cpu_the_ratio_is_said_to_mean_nothing_for_an_npu(
    monkeypatch, tmp_path, capsys, device
):
    if device.type != "cpu":
        pytest.skip("the device present has lanes")
    monkeypatch.setitem(PRESETS, "FLASH", SMALL)
    files = ["--json", str(tmp_path / "lanes.json"), "--png", str(tmp_path / "lanes.png")]
    assert main(["swimlane", "--tokens", "1", *files]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "each on all cores: the ratio says nothing about overlap on an NPU" in printed


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--tokens", "0"], "`--tokens` must be at least 1, got 0"),
        (["--tokens", "-3"], "`--tokens` must be at least 1, got -3"),
        (["--png", "/no/such/lanes.png"], "no folder to write /no/such/lanes.png to"),
    ],
)
def test_a_wrong_call_is_one_sentence(options, sentence, capsys):
    assert main(["swimlane", *options]) == 2
    assert capsys.readouterr().err == f"dsv4_kernels: {sentence}\n"


def test_a_third_schedule_is_one_entry(monkeypatch, tmp_path, capsys):
    """Nothing else has to know of it: the swimlane draws it, the diagram prints it."""
    monkeypatch.setitem(PRESETS, "FLASH", SMALL)
    monkeypatch.setitem(SCHEDULES, "third", SCHEDULES["decoupled"])
    files = ["--json", str(tmp_path / "lanes.json"), "--png", str(tmp_path / "lanes.png")]
    assert main(["swimlane", "--tokens", "2", *files]) == 0
    printed = capsys.readouterr().out
    assert "third: " in printed
    assert "decoupled / third: " in " ".join(printed.split())
    assert (tmp_path / "lanes.png").stat().st_size > 10_000
    assert main(["graph", "--schedule", "third"]) == 0
    assert "dequant_sum" in capsys.readouterr().out
