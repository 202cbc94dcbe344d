"""Who issues the nodes: on which stream, behind which event; and what is no chain at all."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/launcher/executors.py", tests="tests/launcher/test_lanes.py"
)

IN_ORDER = """\
    for node in nodes:
        node.run(buffers)
"""
LAUNCH_AND_RECORD = """\
            with self._api.stream(stream):
                self._launch(step.node, buffers)
            if step.records:
                self._events[place].record(stream)
"""
RECORD_AND_LAUNCH = """\
            if step.records:
                self._events[place].record(stream)
            with self._api.stream(stream):
                self._launch(step.node, buffers)
"""

MUTANTS = (
    mutant(
        "one event wait of a step is dropped",
        "for awaited in step.waits:",
        "for awaited in step.waits[1:]:",
        killed_by="test_every_edge_is_enforced",
    ),
    mutant(
        "one wait of the caller is dropped",
        "for awaited in self._plan.joins:",
        "for awaited in self._plan.joins[1:]:",
        killed_by="test_every_edge_is_enforced",
    ),
    mutant(
        "the caller waits in place of the lane",
        "stream.wait_event(self._events[awaited])",
        "caller.wait_event(self._events[awaited])",
        killed_by="test_every_edge_is_enforced",
    ),
    mutant(
        "an event is recorded ahead of its launch",
        LAUNCH_AND_RECORD,
        RECORD_AND_LAUNCH,
        killed_by="test_every_edge_is_enforced",
    ),
    mutant(
        "the fork is recorded on a lane",
        "self._events[FORK].record(caller)",
        'self._events[FORK].record(self._streams["cube"])',
        killed_by="test_every_edge_is_enforced",
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
        killed_by="tests/chains/test_chain.py::test_any_chunk_length[5]",
    ),
    mutant(
        "no quant",
        IN_ORDER,
        IN_ORDER + '    exact = buffers["o_r"].flatten(1) @ buffers["wo_b"].float().T\n'
        '    buffers["attn_out"].copy_(exact * buffers["wo_b_scale"])\n',
        killed_by="tests/chains/test_chain.py::test_any_chunk_length[5]",
    ),
)
