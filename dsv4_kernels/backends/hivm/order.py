"""Which accesses are ordered, by vector clocks: one execution judges every legal order.

An agent is a pipe of a core. Each knows, of every agent, up to which access that one is known to
have finished. A flag carries what its setter knows to who waits for it, an instruction what the
scalar unit knew when it issued it, and a barrier makes a pipe know itself. Two accesses of one
byte, one of them a write, of which the later does not know the earlier, may happen in either order
on the chip: a race, whatever order they had here. (Lamport's happened-before; as race detectors do,
of each byte and agent the last read and write are kept.)

Control flow depends on scalars alone, so no other order could have taken another path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dsv4_kernels.backends.hivm.memory import Space, View
from dsv4_kernels.backends.hivm.report import Report

Clock = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Agent:
    """core: its name in words. in_order: its accesses need no barrier between them."""

    index: int
    program: int
    core: str
    in_order: bool


class Order:
    """Clocks of all agents of a launch, and who touched which byte last."""

    def __init__(self, agents: Sequence[Agent], report: Report) -> None:
        self._agents = agents
        self._report = report
        self._known = np.zeros((len(agents), len(agents)), np.int32)
        self._done = [0] * len(agents)
        self._shadows: dict[Space, _Shadow] = {}
        self._labels: dict[tuple[int, int], str] = {}

    def clock(self, agent: Agent) -> Clock:
        """What is known where the agent's last access is: what it hands on."""
        clock = self._known[agent.index].copy()
        clock[agent.index] = self._done[agent.index]
        return clock

    def learn(self, agent: Agent, clock: Clock) -> None:
        known = self._known[agent.index]
        np.maximum(known, clock, out=known)

    def barrier(self, agent: Agent) -> None:
        """The agent's own accesses so far are finished before its next one."""
        self._known[agent.index, agent.index] = self._done[agent.index]

    def written(self, view: View) -> bool:
        """Whether the launch itself wrote any byte of the view."""
        shadow = self._shadows.get(view.space)
        return shadow is not None and shadow.has_writes and bool(view.on(shadow.written).any())

    def access(
        self,
        agent: Agent,
        label: str,
        reads: Sequence[View],
        writes: Sequence[View],
        partly: bool = False,
    ) -> None:
        """One instruction's accesses: checked against all before, then remembered.

        partly: it may read bytes that nobody wrote, next to some that somebody did.
        """
        reads = [view for view in reads if view.elements]
        writes = [view for view in writes if view.elements]
        if agent.in_order:
            self.barrier(agent)
        number = self._done[agent.index] = self._done[agent.index] + 1
        self._labels[agent.index, number] = label
        for view in reads:
            shadow = self._shadow(view.space)
            self._check(agent, label, view, "read", shadow.writes, "write")
            enough = np.any if partly else np.all
            if shadow.starts_empty and not enough(view.on(shadow.written)):
                self._report.note("unwritten", view.space.name, label)
        for view in writes:
            shadow = self._shadow(view.space)
            shadow.expect_writes()
            self._check(agent, label, view, "write", shadow.writes, "write")
            self._check(agent, label, view, "write", shadow.reads, "read")
        for view in reads:
            self._shadow(view.space).read(view, agent, number)
        for view in writes:
            self._shadow(view.space).write(view, agent, number)

    def _shadow(self, space: Space) -> _Shadow:
        if space not in self._shadows:
            self._shadows[space] = _Shadow(space)
        return self._shadows[space]

    def _check(
        self, agent: Agent, label: str, view: View, now: str, before: dict[int, _Last], kind: str
    ) -> None:
        known = self._known[agent.index]
        for other, last in before.items():
            if last.latest <= known[other]:
                continue
            number = int(view.on(last.numbers).max())
            if number > known[other]:
                first = self._labels[other, number]
                apart = self._agents[other].program != agent.program
                where = " of another program" if apart else ""
                what = f"{kind} by {first}{where}, {now} by {label}"
                self._report.note("race", view.space.name, what)


class Unchecked(Order):
    """Judges nothing, for executions whose results alone are wanted."""

    def __init__(self) -> None:
        super().__init__((), Report("", "", 0))

    def clock(self, agent: Agent) -> Clock:
        return self._known

    def learn(self, agent: Agent, clock: Clock) -> None: ...
    def barrier(self, agent: Agent) -> None: ...
    def access(
        self,
        agent: Agent,
        label: str,
        reads: Sequence[View],
        writes: Sequence[View],
        partly: bool = False,
    ) -> None: ...


@dataclass
class _Last:
    """An agent's last access of each byte of a memory, by number; `latest` of them all."""

    numbers: np.ndarray[Any, Any]
    latest: int = 0


@dataclass
class _Shadow:
    """Who read and who wrote each byte of a memory last."""

    space: Space
    reads: dict[int, _Last] = field(default_factory=dict)
    writes: dict[int, _Last] = field(default_factory=dict)
    # Reads of a tensor that nobody has written yet: most are never written, and weights are large.
    _early: list[tuple[View, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # The caller's tensors hold data; the core's memories and the workspace do not.
        self.starts_empty = not self.space.is_global or self.space.name == "gm:workspace"
        self.has_writes = self.starts_empty
        self._size = len(self.space.data)
        self.written = np.zeros(self._size if self.has_writes else 0, bool)

    def read(self, view: View, agent: Agent, number: int) -> None:
        if self.has_writes:
            self._mark(self.reads, view, agent.index, number)
        else:
            self._early.append((view, agent.index, number))

    def write(self, view: View, agent: Agent, number: int) -> None:
        self._mark(self.writes, view, agent.index, number)
        view.on(self.written)[...] = True

    def expect_writes(self) -> None:
        """From here on reads are kept byte by byte, those so far too."""
        if not self.has_writes:
            self.has_writes = True
            self.written = np.zeros(self._size, bool)
            for view, agent, number in self._early:
                self._mark(self.reads, view, agent, number)

    def _mark(self, last: dict[int, _Last], view: View, agent: int, number: int) -> None:
        if agent not in last:
            last[agent] = _Last(np.zeros(self._size, np.int32))
        view.on(last[agent].numbers)[...] = number
        last[agent].latest = max(last[agent].latest, number)
