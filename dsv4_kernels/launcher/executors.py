"""Who runs the nodes of a chain: one after the other, or a stream per lane.

An executor is called with nodes in an order that their edges allow and with the buffers of every
wave, issues every node, and never waits on the host. When it returns or raises, whatever the caller
queues next on its own stream comes after all that was issued.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dsv4_kernels import device as devices
from dsv4_kernels.buffers import Buffers
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.launcher.lanes import FORK, Synchronised, synchronise
from dsv4_kernels.launcher.overlap import may_overlap

Executor = Callable[[Sequence[Node], Sequence[Buffers]], None]

# Sets of nodes whose waits are remembered: more than a plan binds shapes at a time, each with a few
# numbers of live waves.
_MOST_KNOWN = 64


def in_order(nodes: Sequence[Node], waves: Sequence[Buffers]) -> None:
    """The plainest executor: every node in the order given, on the current stream."""
    for node in nodes:
        node.run(waves)


class OnStreams:
    """A stream per lane, and events where lanes meet.

    Every lane starts after the work that the caller's current stream holds, and that stream waits
    for the lanes at the end. All buffers must exist before: they were allocated on the caller's
    stream and are given back to it, so the caching allocator may re-use them as ever.

    Args:
        device: where the buffers are, npu or cuda.
        api: `torch.npu` or `torch.cuda`, for their Stream and Event.
        launch: runs one node; `Node.run` by default.
    """

    def __init__(
        self,
        device: torch.device,
        api: Any,
        launch: Callable[[Node, Sequence[Buffers]], None] = Node.run,
    ) -> None:
        self._device = device
        self._api = api
        self._launch = launch
        # An event that a capture recorded means nothing outside of it, and the reverse.
        self._events: dict[bool, dict[int, Any]] = {False: {}, True: {}}
        # By identity: a plan passes the same nodes at every run, and hashing them takes longer
        # than launching one.
        self._known: dict[int, tuple[Sequence[Node], Synchronised]] = {}

    def __call__(self, nodes: Sequence[Node], waves: Sequence[Buffers]) -> None:
        plan = self._synchronised(nodes)
        streams = devices.lane_streams(self._device, self._api, _lanes(nodes))
        events = self._events[devices.is_capturing(self._api)]
        caller = self._api.current_stream(self._device)
        used: dict[str, Any] = {}  # streams that hold something of this run
        self._record(events, FORK, caller)
        try:
            for place, (node, step) in enumerate(zip(nodes, plan.steps, strict=True)):
                stream = streams[node.lane]
                for awaited in step.waits:
                    stream.wait_event(events[awaited])
                used[node.lane] = stream
                with self._api.stream(stream):
                    self._launch(node, waves)
                if step.records:
                    self._record(events, place, stream)
        except BaseException:
            for stream in used.values():
                self._record(events, FORK, stream)
                caller.wait_event(events[FORK])
            raise
        for awaited in plan.joins:
            caller.wait_event(events[awaited])

    def _synchronised(self, nodes: Sequence[Node]) -> Synchronised:
        known = self._known.get(id(nodes))
        if known is None:  # the nodes are kept, so that their identity stays theirs
            while len(self._known) >= _MOST_KNOWN:
                self._known.pop(next(iter(self._known)))
            known = self._known[id(nodes)] = (nodes, synchronise(tuple(nodes)))
        return known[1]

    def _record(self, events: dict[int, Any], place: int, stream: Any) -> None:
        if place not in events:
            events[place] = self._api.Event()
        events[place].record(stream)


def _lanes(nodes: Sequence[Node]) -> tuple[str, ...]:
    return tuple(sorted({node.lane for node in nodes}))


def default(device: torch.device, nodes: Sequence[Node] | None = None) -> Executor:
    """`OnStreams` where the device has streams and something to gain by them, else `in_order`.

    nodes: of a run, in their order of issue. Where no two of them may run at a time, streams would
    add calls of events (`graph --overlap` counts them) and nothing else.
    """
    api = devices.stream_api(device)
    if api is None or (nodes is not None and not may_overlap(tuple(nodes))):
        return in_order
    return OnStreams(device, api)
