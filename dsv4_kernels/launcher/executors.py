"""Who runs the nodes of a schedule: one after the other, or a stream per lane.

An executor is called with nodes and buffers, issues every node in an order that the edges allow,
and never waits on the host. When it returns, whatever the caller queues next on its own stream
comes after all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dsv4_kernels import device as devices
from dsv4_kernels.chains.pipeline import LANES, Buffers, Node
from dsv4_kernels.launcher.lanes import FORK, synchronise

Executor = Callable[[Sequence[Node], Buffers], None]


def in_order(nodes: Sequence[Node], buffers: Buffers) -> None:
    """The plainest executor: every node in the order given, on the current stream."""
    for node in nodes:
        node.run(buffers)


class OnStreams:
    """A stream per lane, and events where lanes meet.

    Every lane starts after the work that the caller's current stream holds, and that stream waits
    for the lanes at the end. All buffers must exist before: they were allocated on the caller's
    stream and are given back to it, so the caching allocator may re-use them as ever.

    Args:
        nodes: the schedule; the same nodes must be passed to every call.
        device: where the buffers are, npu or cuda.
        api: `torch.npu` or `torch.cuda`, for their Stream and Event.
        launch: runs one node; `Node.run` by default.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        device: torch.device,
        api: Any,
        launch: Callable[[Node, Buffers], None] = Node.run,
    ) -> None:
        self._nodes = tuple(nodes)
        self._device = device
        self._api = api
        self._launch = launch
        self._plan = synchronise(self._nodes)
        self._streams = devices.lane_streams(device, api, tuple(LANES.values()))
        awaited = [FORK, *(i for i, step in enumerate(self._plan.steps) if step.records)]
        self._events = {place: api.Event() for place in awaited}

    def __call__(self, nodes: Sequence[Node], buffers: Buffers) -> None:
        if tuple(nodes) != self._nodes:
            raise ValueError("an OnStreams runs the nodes it was made for, no others")
        caller = self._api.current_stream(self._device)
        self._events[FORK].record(caller)
        for place, step in enumerate(self._plan.steps):
            stream = self._streams[step.node.lane]
            for awaited in step.waits:
                stream.wait_event(self._events[awaited])
            with self._api.stream(stream):
                self._launch(step.node, buffers)
            if step.records:
                self._events[place].record(stream)
        for awaited in self._plan.joins:
            caller.wait_event(self._events[awaited])


def default(nodes: Sequence[Node], device: torch.device) -> Executor:
    """`OnStreams` where the device has streams, `in_order` on the CPU."""
    api = devices.stream_api(device)
    return in_order if api is None else OnStreams(nodes, device, api)
