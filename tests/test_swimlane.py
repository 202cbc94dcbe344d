"""The swimlane: every launch once, in its lane, and a critical path that explains the makespan."""

import json

import pytest

from adversary import SMALL
from dsv4_kernels import pipeline
from dsv4_kernels.__main__ import main
from dsv4_kernels.inputs import make_inputs
from dsv4_kernels.pipeline import SCHEDULES, edges
from dsv4_kernels.swimlane import EventClock, Span, Swimlane, critical_path, record, trace
from stand_in import StandIn

SMALL_RUN = ["--tokens", "1", "--preset", "FLASH", "--layer", "SWA"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_launch_is_recorded_once(schedule, device, seed):
    inputs = make_inputs(SMALL, tokens=3, start=40, seed=seed, device=device)
    lane = record(inputs, schedule, groups_per_launch=1)
    assert [span.node for span in lane.spans] == [*SCHEDULES[schedule](SMALL.groups, 1)]
    assert all(0 <= span.begin < span.end <= lane.makespan for span in lane.spans)
    assert lane.critical[0] == 0 or lane.spans[lane.critical[0]].node.name == "column_bias"
    assert lane.spans[lane.critical[-1]].end == lane.makespan


def overlapped() -> tuple[Span, ...]:
    """Two chunks of groups as a device with lanes would run them: the second quant is slow."""
    nodes = pipeline.decoupled(2, 1)
    times = {
        "gather_kv": (0, 5), "column_bias": (5, 7), "qk_softmax_pv": (7, 20),
        "merge_norm": (20, 24), "inverse_rope": (24, 26), "proj_a[0:1]": (26, 36),
        "group_quant[0:1]": (36, 38), "proj_a[1:2]": (36, 46), "group_quant[1:2]": (46, 60),
        "proj_b[0:1]": (46, 50), "proj_b[1:2]": (60, 64), "dequant_sum": (64, 66),
    }  # fmt: skip
    return tuple(Span(node, *times[node.label]) for node in nodes)


def test_the_critical_path_is_what_waited_for_what():
    spans = overlapped()
    path = [spans[place].node.label for place in critical_path(spans)]
    assert path == [
        "gather_kv", "column_bias", "qk_softmax_pv", "merge_norm", "inverse_rope", "proj_a[0:1]",
        "proj_a[1:2]", "group_quant[1:2]", "proj_b[1:2]", "dequant_sum",
    ]  # fmt: skip


def test_the_critical_path_is_a_chain_of_edges_and_lanes():
    spans = overlapped()
    needed = {(edge.before, edge.after) for edge in edges([span.node for span in spans])}
    path = critical_path(spans)
    for before, after in zip(path, path[1:], strict=False):  # noqa: RUF007
        same_lane = spans[before].node.lane == spans[after].node.lane
        assert (before, after) in needed or same_lane


def test_the_trace_has_a_process_per_schedule_and_a_thread_per_lane():
    lanes = [Swimlane("decoupled", overlapped(), critical_path(overlapped()))] * 2
    written = json.loads(json.dumps(trace(lanes, "title")))["traceEvents"]
    spans = [event for event in written if event["ph"] == "X"]
    assert {event["pid"] for event in spans} == {0, 1}
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in written if e["name"] == "thread_name"}
    assert sorted(names.values()) == sorted(["vector", "mix", "cube"] * 2)
    quant = next(e for e in spans if e["name"] == "group_quant[1:2]")
    assert (quant["ts"], quant["dur"], quant["cat"]) == (46, 14, "critical")
    assert names[quant["pid"], quant["tid"]] == "vector"


def test_events_stand_before_and_after_every_launch(monkeypatch, seed):
    inputs = make_inputs(SMALL, tokens=3, start=40, seed=seed)
    api = StandIn(inputs.q.device)
    nodes = pipeline.decoupled(SMALL.groups, 1)
    clock = EventClock(nodes, inputs.q.device, api)
    launch = pipeline.Node.run

    def noted(node, buffers):
        api.launched(node)
        launch(node, buffers)

    monkeypatch.setattr(pipeline.Node, "run", noted)
    from dsv4_kernels import PrefillSparseAttn

    plan = PrefillSparseAttn(
        *inputs.args(), window=inputs.window, groups_per_launch=1, executor=clock
    )
    plan.run(*inputs.args())
    places = [i for i, entry in enumerate(api.log) if entry.kind == "launch"]
    assert [api.log[i].what for i in places] == [*nodes]
    for i in places:
        around = api.log[i - 1], api.log[i], api.log[i + 1]
        assert [entry.kind for entry in around] == ["record", "launch", "record"]
        assert len({entry.stream for entry in around}) == 1
    spans = clock.spans()
    assert [span.node for span in spans] == [*nodes]
    assert all(span.end > span.begin >= 0 for span in spans)


def test_the_command_writes_both_files(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    files = [str(tmp_path / "lanes.json"), str(tmp_path / "lanes.png")]
    assert main(["swimlane", *SMALL_RUN, "--json", files[0], "--png", files[1]]) == 0
    assert json.loads((tmp_path / "lanes.json").read_text())["traceEvents"]
    assert (tmp_path / "lanes.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "makespan decoupled / row_barrier: " in printed
    assert printed.count("dequant_sum") == 1


@pytest.mark.parametrize("tokens", ["0", "-3"])
def test_no_tokens_is_one_sentence(tokens, capsys):
    pytest.importorskip("matplotlib")
    assert main(["swimlane", "--tokens", tokens]) == 2
    assert f"`--tokens` must be at least 1, got {tokens}\n" in capsys.readouterr().err
