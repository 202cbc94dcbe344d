"""One run of a plan behind the other, whichever stream and thread asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from dsv4_kernels import device as devices


class Turns:
    """``with turns.next():`` the current stream is behind the plan's last run.

    A run inside of a capture neither waits for nor records what is outside of it: its place is the
    graph's, and the order of replays is up to who replays.

    Also has the allocator keep the plan's memory until every stream that ran it is done with it, so
    that a plan may be dropped while a run of it is under way.
    """

    def __init__(self, device: torch.device, api: Any) -> None:
        self._device = device
        self._api = api
        self._last_run: Any = None  # its event
        self._streams: list[Any] = []  # of callers so far
        self._memory: list[torch.Tensor] = []

    def keep(self, tensor: torch.Tensor) -> None:
        """Memory that runs write."""
        self._memory.append(tensor)
        for stream in self._streams:
            devices.keep_for(tensor, stream)

    @contextlib.contextmanager
    def next(self) -> Iterator[None]:
        """Inside, no other thread runs on the device."""
        with devices.exclusively(self._device):
            if self._api is None or devices.is_capturing(self._api):
                yield
                return
            stream = self._api.current_stream(self._device)
            if stream not in self._streams:
                self._streams.append(stream)
                for tensor in self._memory:
                    devices.keep_for(tensor, stream)
            if self._last_run is not None:
                stream.wait_event(self._last_run)
            try:
                yield
            finally:
                self._last_run = self._last_run or self._api.Event()
                self._last_run.record(stream)
