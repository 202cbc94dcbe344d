"""Cores with in-order pipes: the scalar unit issues, pipes perform, flags order them.

Flags count: a set adds one, a wait takes one (assumed; README.md). A block flag goes from a cube
core to both of its vector cores, or from both of them to it, when both have set it (assumed too).
"""

from __future__ import annotations

import functools
import random
import re
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from typing import Any

import numpy as np

from dsv4_kernels.backends.hivm import cube, vector
from dsv4_kernels.backends.hivm.instruction import (
    Barrier,
    BlockSet,
    Flag,
    Instruction,
    Library,
    Set,
    Wait,
    Work,
)
from dsv4_kernels.backends.hivm.memory import OutOfBounds, Space, View, dense
from dsv4_kernels.backends.hivm.order import Agent, Clock, Order, Unchecked
from dsv4_kernels.backends.hivm.report import Kind, Report, Stopped
from dsv4_kernels.backends.hivm.scalar import Function

PIPES = ("S", "MTE2", "MTE1", "M", "FIX", "V", "MTE3")
# S runs one access after the other. M: LocalMmad.cpp itself puts barriers between short products
# only, and relies on the order of the others.
IN_ORDER = ("S", "M")
MEMORIES = {"AIC": ("cbuf", "cc", "ca", "cb"), "AIV": ("ub",)}

# How fast a pipe moves in a random order, next to the others: a slow one is overtaken 250 times.
SPEEDS = (0.02, 0.2, 1.0, 5.0)

_ISSUED = (None,)  # what the scalar code yields where others may move


class Signal:
    """A flag: what its setters knew, one clock for every time that it is raised."""

    def __init__(self) -> None:
        self.raised: deque[Clock] = deque()
        self._owed = 0  # sets that waits have taken before they came

    def put(self, clock: Clock) -> None:
        if self._owed:
            self._owed -= 1
        else:
            self.raised.append(clock)

    def skip(self) -> None:
        """Take one, now or when it comes, and learn nothing."""
        if self.raised:
            self.raised.popleft()
        else:
            self._owed += 1


class Core:
    """One AIC or AIV at work on one program: see `scalar.CoreInterface` and `instruction.Site`."""

    def __init__(
        self, machine: Machine, kind: str, program: int, sub: int, sizes: dict[str, int]
    ) -> None:
        self.kind, self.program, self.sub = kind, program, sub
        self.name = f"AIV{sub}" if kind == "AIV" else kind
        self.agents = {pipe: machine.agent(self, pipe) for pipe in PIPES}
        self.queues: dict[str, deque[tuple[Instruction, str, Clock]]] = {
            pipe: deque() for pipe in PIPES
        }
        self.flags: dict[Flag, Signal] = defaultdict(Signal)
        self.block_flags: dict[tuple[int, int], Signal] = defaultdict(Signal)  # by flag and sender
        self.waits_for = ""  # what the scalar unit stalls on
        self._machine = machine
        self._label = ""
        self._memories = {
            name: Space(name, machine.garbage(sizes[name])) for name in MEMORIES[kind]
        }
        self._scalar: Generator[Any, None, None] | None = None

    def start(self, scalar: Generator[Any, None, None]) -> None:
        self._scalar = scalar

    # -- what the scalar code does

    def at(self, space: str, offset: int, shape: tuple[int, ...], type: str) -> View:
        return dense(self._memories[space], offset, shape, type)

    def call(self, name: str, operands: tuple[Any, ...], line: int) -> Iterable[Any]:
        self._machine.report.calls[name] += 1
        self._label = f"{self.name}:{line} {name}"
        make, match = library(name)
        for instruction in make(self, match, operands):
            self._issue(instruction, self._label)
        return _ISSUED

    def set_flag(self, pipe: str, waits: str, event: int, line: int) -> Iterable[Any]:
        return self._issue(Set((pipe, waits, event)), f"{self.name}:{line} set_flag")

    def wait_flag(self, pipe: str, waits: str, event: int, line: int) -> Iterable[Any]:
        flag, deaf = (pipe, waits, event), line in self._machine.deaf
        if waits == "S":
            return self._wait([self.flags[flag]], deaf, _words(flag))
        return self._issue(Wait(flag, deaf), f"{self.name}:{line} wait_flag")

    def barrier(self, pipe: str, line: int) -> Iterable[Any]:
        if pipe == "ALL":
            return self._stall(self._drained, "all pipes")
        if line in self._machine.deaf:
            return _ISSUED
        return self._issue(Barrier(pipe), f"{self.name}:{line} pipe_barrier")

    def block_set(self, pipe: str, flag: int, line: int) -> Iterable[Any]:
        return self._issue(BlockSet(pipe, flag), f"{self.name}:{line} sync_block_set")

    def block_wait(self, flag: int, line: int) -> Iterable[Any]:
        senders = range(2) if self.kind == "AIC" else range(1)
        signals = [self.block_flags[flag, sender] for sender in senders]
        return self._wait(signals, line in self._machine.deaf, f"block flag {flag}")

    def load(self, view: View, index: tuple[int, ...], line: int) -> int | float:
        element, label = view.element(index), f"{self.name}:{line} memref.load"
        if element.space.is_global and self._machine.order.written(element):
            self._machine.report.note("cached load", element.space.name, label)
        self._machine.perform(self, Work("S", (element,), (), lambda: None), label, None)
        return element.get().item()

    def store(self, value: int | float, view: View, index: tuple[int, ...], line: int) -> None:
        element = view.element(index)
        work = Work("S", (), (element,), lambda: element.put(value))
        self._machine.perform(self, work, f"{self.name}:{line} memref.store", None)

    def _issue(self, instruction: Instruction, label: str) -> Iterable[Any]:
        if instruction.pipe == "S":
            self._machine.perform(self, instruction, label, None)
        else:
            clock = self._machine.order.clock(self.agents["S"])
            self.queues[instruction.pipe].append((instruction, label, clock))
        return _ISSUED

    def _wait(self, signals: Sequence[Signal], deaf: bool, words: str) -> Iterable[Any]:
        """The scalar unit waits for all of the signals."""
        if not deaf:
            yield from self._stall(lambda: all(signal.raised for signal in signals), words)
        for signal in signals:
            self.take(signal, "S", deaf)

    def _stall(self, ready: Callable[[], bool], words: str) -> Iterable[Any]:
        while not ready():
            yield words

    def _drained(self) -> bool:
        if any(self.queues.values()):
            return False
        for agent in self.agents.values():
            self._machine.order.learn(self.agents["S"], self._machine.order.clock(agent))
        return True

    # -- what library functions ask for

    def memory(self, name: str) -> Space:
        return self._memories[name]

    def garbage(self, size: int) -> np.ndarray[Any, Any]:
        return self._machine.garbage(size)

    def note(self, kind: Kind, where: str) -> None:
        self._machine.report.note(kind, where, self._label)

    # -- moving on

    def take(self, signal: Signal, pipe: str, deaf: bool) -> None:
        """Lower a flag that a pipe waited for; a deaf one learns nothing by it."""
        clock = signal.skip() if deaf else signal.raised.popleft()
        if clock is not None:
            self._machine.order.learn(self.agents[pipe], clock)

    def put(self, signal: Signal, clock: Clock) -> None:
        signal.put(clock)
        self._machine.report.deepest = max(self._machine.report.deepest, len(signal.raised))

    def ready(self, pipe: str) -> bool:
        """Whether the pipe's next instruction can be performed."""
        queue = self.queues[pipe]
        if not queue:
            return False
        head = queue[0][0]
        held = isinstance(head, Wait) and not head.deaf and not self.flags[head.flag].raised
        return not held

    def advance(self, pipe: str) -> None:
        """Perform the pipe's next instruction."""
        self._machine.perform(self, *self.queues[pipe].popleft())

    def scalar_step(self) -> bool:
        """The scalar code up to its next point; False where it could only wait or is done."""
        if self._scalar is None:
            return False
        try:
            self.waits_for = next(self._scalar) or ""
        except StopIteration:
            self._scalar, self.waits_for = None, ""
            return True
        return not self.waits_for

    @property
    def done(self) -> bool:
        return self._scalar is None and not any(self.queues.values())

    @property
    def scalar_done(self) -> bool:
        return self._scalar is None

    def stuck(self) -> str:
        """What every pipe waits for, in words."""
        waits = {"S": self.waits_for} if self.waits_for else {}
        for pipe, queue in self.queues.items():
            if queue:
                instruction, label, _ = queue[0]
                flag = _words(instruction.flag) if isinstance(instruction, Wait) else label
                waits[pipe] = f"{flag} ({label})"
        words = ", ".join(f"{pipe} waits for {what}" for pipe, what in waits.items())
        return f"program {self.program} {self.name}: {words}"


class Machine:
    """All cores that a launch runs on, and its memory.

    seed: None performs as soon as possible, core by core, and else in a random order. poison: the
    byte that memories hold at first. checked: judge the order of accesses. deaf: lines of the IR
    whose waits and barriers hold nothing up, though they still take their flags: what a missing one
    would do, for those who test the judge.
    """

    def __init__(
        self,
        kernel: Sequence[Function],
        report: Report,
        sizes: dict[str, int],
        *,
        seed: int | None = None,
        poison: int = 0xFF,
        checked: bool = True,
        deaf: Collection[int] = (),
    ) -> None:
        self.report, self.deaf = report, deaf
        self._random = None if seed is None else random.Random(seed)
        self._poison = poison
        self._agents: list[Agent] = []
        # Vector cores of a pair before the next program's: who is fed comes after who feeds it.
        self.cores = [
            (function, Core(self, function.core, program, sub, sizes))
            for program in range(report.grid)
            for function in kernel
            for sub in range(2 if function.paired else 1)
        ]
        self.order = Order(self._agents, report) if checked else Unchecked()

    def agent(self, core: Core, pipe: str) -> Agent:
        made = Agent(len(self._agents), core.program, core.name, pipe in IN_ORDER)
        self._agents.append(made)
        return made

    def garbage(self, size: int) -> np.ndarray[Any, Any]:
        return np.full(size, self._poison, np.uint8)

    def run(self, arguments: Sequence[Any]) -> None:
        """The launch to its end. arguments: as `Function.run` takes them.

        Raises Stopped where it cannot go on.
        """
        for function, core in self.cores:
            core.start(function.run(core, *arguments))
        cores = [core for _, core in self.cores]
        try:
            self._eagerly(cores) if self._random is None else self._at_random(cores, self._random)
        except OutOfBounds as error:
            self.report.note("out of bounds", *error.args)
            raise Stopped(self.report) from error
        for core in cores:
            left = [_words(flag) for flag, signal in core.flags.items() if signal.raised]
            left += [f"block flag {flag}" for (flag, _), s in core.block_flags.items() if s.raised]
            for flag in left:
                self.report.note("flag left", flag, core.name)

    def perform(
        self, core: Core, instruction: Instruction, label: str, issued: Clock | None
    ) -> None:
        """One instruction. issued: what the scalar unit knew then; None on the unit itself."""
        self.report.instructions += 1
        agent, order = core.agents[instruction.pipe], self.order
        if issued is not None:
            order.learn(agent, issued)
        if isinstance(instruction, Work):
            try:
                order.access(
                    agent, label, instruction.reads, instruction.writes, instruction.partly
                )
                instruction.run()
            except OutOfBounds as error:
                views = (*instruction.reads, *instruction.writes)
                names = ", ".join(dict.fromkeys(view.space.name for view in views))
                raise OutOfBounds(names, f"{label}: {error}") from error
        elif isinstance(instruction, Wait):
            core.take(core.flags[instruction.flag], instruction.pipe, instruction.deaf)
        elif isinstance(instruction, Set):
            core.put(core.flags[instruction.flag], order.clock(agent))
        elif isinstance(instruction, Barrier):
            order.barrier(agent)
        else:
            for other in self._other_kind(core):
                other.put(other.block_flags[instruction.flag, core.sub], order.clock(agent))

    def _other_kind(self, core: Core) -> list[Core]:
        """The cube core of a vector core's program, and the other way round."""
        cores = [other for _, other in self.cores]
        return [c for c in cores if c.program == core.program and c.kind != core.kind]

    def _eagerly(self, cores: Sequence[Core]) -> None:
        """Every instruction as soon as it can be, so about the order of the program's text."""
        while not all(core.done for core in cores):
            moved = [self._as_far_as_it_goes(core) for core in cores]
            if not any(moved):
                self._deadlock(cores)

    def _as_far_as_it_goes(self, core: Core) -> bool:
        moved = False
        while True:
            went = False
            for pipe in PIPES:
                while core.ready(pipe):
                    core.advance(pipe)
                    went = True
            went |= core.scalar_step()
            moved |= went
            if not went:
                return moved

    def _at_random(self, cores: Sequence[Core], chance: random.Random) -> None:
        """Whoever can move, by speeds drawn once for each scalar unit and pipe."""
        speeds = {(core, pipe): chance.choice(SPEEDS) for core in cores for pipe in PIPES}
        tried: dict[Core, int] = {}  # instructions performed when its scalar unit stalled
        while not all(core.done for core in cores):
            movable = [
                (core, "S")
                for core in cores
                if not core.scalar_done and tried.get(core) != self.report.instructions
            ]
            movable += [(core, pipe) for core in cores for pipe in PIPES if core.ready(pipe)]
            if not movable:
                self._deadlock(cores)
            core, pipe = chance.choices(movable, [speeds[choice] for choice in movable])[0]
            if pipe != "S":
                core.advance(pipe)
            elif not core.scalar_step():
                tried[core] = self.report.instructions

    def _deadlock(self, cores: Sequence[Core]) -> None:
        for core in cores:
            if not core.done:
                self.report.note("deadlock", "flags", core.stuck())
        raise Stopped(self.report)


@functools.cache
def library(name: str) -> tuple[Library, re.Match[str]]:
    """A library function's model, and its name taken apart. ValueError for an unknown one."""
    for pattern, make in (*cube.FUNCTIONS, *vector.FUNCTIONS):
        if match := re.fullmatch(pattern, name):
            return make, match
    raise ValueError(f"unknown library function `{name}`")


def _words(flag: Flag) -> str:
    return f"flag {flag[0]}->{flag[1]} {flag[2]}"
