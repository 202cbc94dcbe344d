"""Who issues the nodes: on which stream, behind which event; and what is no chain at all."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/launcher/executors.py", tests="tests/launcher/test_lanes.py"
)

IN_ORDER = """\
    for node in nodes:
        node.run(waves)
"""
LAUNCH_AND_RECORD = """\
                with self._api.stream(stream):
                    self._launch(node, waves)
                if step.records:
                    self._record(events, place, stream)
"""
RECORD_AND_LAUNCH = """\
                if step.records:
                    self._record(events, place, stream)
                with self._api.stream(stream):
                    self._launch(node, waves)
"""

MUTANTS = (
    mutant(
        "every run looks for its events",
        "if known is None:  # the nodes are kept",
        "if True:  # the nodes are kept",
        killed_by="tests/launcher/test_plan.py::"
        "test_a_run_like_the_one_before_looks_for_no_events_again",
    ),
    mutant(
        "one event wait of a step is dropped",
        "for awaited in step.waits:",
        "for awaited in step.waits[1:]:",
        killed_by="test_every_conflict_is_ordered",
    ),
    mutant(
        "one wait of the caller is dropped",
        "for awaited in plan.joins:",
        "for awaited in plan.joins[1:]:",
        killed_by="test_every_conflict_is_ordered",
    ),
    mutant(
        "the caller waits in place of the lane",
        "stream.wait_event(events[awaited])",
        "caller.wait_event(events[awaited])",
        killed_by="test_every_conflict_is_ordered",
    ),
    mutant(
        "an event is recorded ahead of its launch",
        LAUNCH_AND_RECORD,
        RECORD_AND_LAUNCH,
        killed_by="test_every_conflict_is_ordered",
    ),
    mutant(
        "the fork is recorded on a lane",
        "self._record(events, FORK, caller)",
        'self._record(events, FORK, streams["cube"])',
        killed_by="test_every_conflict_is_ordered",
    ),
    mutant(
        "all launches are on the caller's stream",
        "with self._api.stream(stream):",
        "with self._api.stream(caller):",
        killed_by="test_launches_on_one_stream_each_lane",
    ),
    mutant(
        "the last two nodes swap places",
        IN_ORDER,
        IN_ORDER.replace("in nodes:", "in (*nodes[:-2], nodes[-1], nodes[-2]):"),
        killed_by="tests/launcher/test_plan.py::test_any_legal_order_gives_the_same_bytes",
    ),
    mutant(
        "no quant",
        IN_ORDER,
        IN_ORDER + '    exact = waves[0]["o_r"].flatten(1) @ waves[0]["wo_b"].float().T\n'
        '    waves[0]["attn_out"].copy_(exact * waves[0]["wo_b_scale"])\n',
        killed_by="tests/launcher/test_plan.py::test_any_legal_order_gives_the_same_bytes",
    ),
    mutant(
        "a failure leaves before the lanes are joined",
        "                caller.wait_event(events[FORK])\n            raise",
        "                pass\n            raise",
        killed_by="test_whatever_fails_the_lanes_are_joined",
    ),
    mutant(
        "an interrupt is no failure",
        "except BaseException:",
        "except Exception:",
        killed_by="test_whatever_fails_the_lanes_are_joined",
    ),
    mutant(
        "a capture and a run share their events",
        "events = self._events[devices.is_capturing(self._api)]",
        "events = self._events[False]",
        equivalent="every event is recorded again before it is waited for in the same run; they are"
        " kept apart for drivers that refuse to record an event of a capture outside of it",
    ),
    mutant(
        "streams for a chain without overlap",
        "if api is None or (nodes is not None and not may_overlap(tuple(nodes))):",
        "if api is None:",
        killed_by="tests/launcher/test_plan.py::test_streams_only_where_something_may_overlap",
    ),
    mutant(
        "never a stream",
        "    return OnStreams(device, api)\n",
        "    return in_order\n",
        killed_by="tests/launcher/test_plan.py::test_streams_only_where_something_may_overlap",
    ),
    mutant(
        "what was run once is remembered for ever",
        "while len(self._known) >= _MOST_KNOWN:",
        "while False:",
        killed_by="test_an_executor_forgets_what_it_ran_long_ago",
    ),
)
