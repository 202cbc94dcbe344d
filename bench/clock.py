"""What a call costs: the host's time to launch it, and the device's to do it.

Memory is cold, as a layer's weights are whenever its turn comes: a call is given as several, each
on a copy of its own of the inputs, so many that together they do not fit a cache.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dsv4_kernels import device as devices

Call = Callable[[], Any]

# Twice the largest cache of a device named here, the 192 MiB L2 of a 910B.
COLD_BYTES = 2 * 192 * 2**20
MOST_COPIES = 16  # a call so small that it would take more runs from cache, and is called warm
SAMPLES = 5
HOST_SAMPLES = 3  # at the least; on a CPU each is a whole execution
SAMPLE_US = 10_000.0  # device time of a sample: a thousand times what reading an event costs


@dataclass(frozen=True)
class Times:
    """host_us: until a call returns; on a CPU that is until its work is done. device_us: of the
    work alone, between two events on the device; None on a CPU, which has no clock of its own."""

    host_us: float
    device_us: float | None

    @property
    def us(self) -> float:
        """What the work takes: on the device, where there is one."""
        return self.host_us if self.device_us is None else self.device_us


def copies(size: int, device: torch.device) -> int:
    """How many copies of `size` bytes of inputs a call needs to find memory cold."""
    if device.type == "cpu":
        return 1  # a call there takes long enough to walk through all of a cache
    return max(1, min(-(-COLD_BYTES // max(size, 1)), MOST_COPIES))


def measure(calls: Sequence[Call], device: torch.device, *, graph: bool) -> Times:
    """Medians over calls that have all run before, so that nothing is compiled here.

    Args:
        calls: the same work on different memory.
        graph: record the calls as a graph for the device's clock, so that short kernels are not
            timed by how fast the host launches them. False for what is a graph already, or for what
            is to be timed as a host launches it.
    """
    host = []
    for place in range(max(HOST_SAMPLES, len(calls))):
        devices.synchronize(device)
        begin = time.perf_counter()
        calls[place % len(calls)]()
        host.append(1e6 * (time.perf_counter() - begin))
    devices.synchronize(device)
    return Times(statistics.median(host), _device_us(calls, device, graph))


def _device_us(calls: Sequence[Call], device: torch.device, graph: bool) -> float | None:
    api = devices.stream_api(device)
    if api is None:
        return None
    run = _recorded(calls, api) if graph else _one_after_the_other(calls)
    repeats = max(1, round(SAMPLE_US / max(_elapsed_us(run, 1, api), 1.0)))
    samples = [_elapsed_us(run, repeats, api) for _ in range(SAMPLES)]
    return statistics.median(samples) / (repeats * len(calls))


def _recorded(calls: Sequence[Call], api: Any) -> Call:
    graph = devices.graph(api)
    api.synchronize()
    with api.graph(graph):
        for call in calls:
            call()
    return graph.replay


def _one_after_the_other(calls: Sequence[Call]) -> Call:
    def run() -> None:
        for call in calls:
            call()

    return run


def _elapsed_us(run: Call, repeats: int, api: Any) -> float:
    """Of `repeats` runs, behind one that the device is still busy with when they are queued."""
    begin, end = api.Event(enable_timing=True), api.Event(enable_timing=True)
    run()
    begin.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return 1e3 * begin.elapsed_time(end)
