"""What an execution found, by kind and by the instructions that it concerns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal[
    "race",  # two accesses of one byte, one of them a write, in no order
    "unwritten",  # a read of bytes that nobody wrote
    "out of bounds",  # an access outside of its tensor or memory
    "deadlock",  # nobody can move
    "unaligned",  # a vector operand or a row of one that is not on 32 bytes
    "scratch alias",  # a scratch buffer that overlaps an operand
    "flag left",  # a flag still raised at the end
    "cached load",  # a scalar load, through the data cache, of what the launch itself wrote
]


class Finding(NamedTuple):
    """where: the memory or the flag. what: the instructions, by core and line of the IR."""

    kind: Kind
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind} in {self.where}: {self.what}"


@dataclass
class Report:
    """One executed launch.

    instructions: of all pipes and cores, scalar accesses of memory included, scalar arithmetic not.
    calls: of library functions, by name. findings: how often each. deepest: most that a flag was
    raised before a wait took one. seconds: of this host; they say nothing about an NPU.
    """

    kernel: str
    part: str
    grid: int
    retries: tuple[str, ...] = ()
    instructions: int = 0
    deepest: int = 0
    seconds: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)
    findings: Counter[Finding] = field(default_factory=Counter)

    def note(self, kind: Kind, where: str, what: str) -> None:
        self.findings[Finding(kind, where, what)] += 1

    def kinds(self) -> Counter[Kind]:
        """How many findings of each kind."""
        kinds: Counter[Kind] = Counter()
        for finding, times in self.findings.items():
            kinds[finding.kind] += times
        return kinds

    def __str__(self) -> str:
        head = f"{self.kernel}: {self.instructions} instructions, {len(self.findings)} findings"
        lines = [f"  {times} x {finding}" for finding, times in self.findings.most_common(10)]
        return "\n".join([head, *lines])


class Stopped(RuntimeError):
    """The launch cannot go on: out of bounds, or deadlocked. `report` has the finding."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report
