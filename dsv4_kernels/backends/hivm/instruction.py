"""What a pipe can be told: work on memory, a flag to set or to wait for, a barrier."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dsv4_kernels.backends.hivm.memory import Space, View
from dsv4_kernels.backends.hivm.report import Kind

# (pipe that sets, pipe that waits, event)
Flag = tuple[str, str, int | str]


@dataclass(frozen=True)
class Work:
    """Reads and writes memory; `run` does it. partly: see `Order.access`."""

    pipe: str
    reads: tuple[View, ...]
    writes: tuple[View, ...]
    run: Callable[[], None]
    partly: bool = False


@dataclass(frozen=True)
class Set:
    """Raises a flag when all before it in the pipe is done."""

    flag: Flag

    @property
    def pipe(self) -> str:
        return self.flag[0]


@dataclass(frozen=True)
class Wait:
    """Holds the pipe up until the flag is raised, and lowers it. deaf: does only the latter."""

    flag: Flag
    deaf: bool = False

    @property
    def pipe(self) -> str:
        return self.flag[1]


@dataclass(frozen=True)
class Barrier:
    """All before it in the pipe is done before what comes after."""

    pipe: str


@dataclass(frozen=True)
class BlockSet:
    """Raises a flag of the other kind of core when all before it in the pipe is done."""

    pipe: str
    flag: int


Instruction = Work | Set | Wait | Barrier | BlockSet


class Site(Protocol):
    """What a library function needs of the core that calls it. note: of this very call."""

    def memory(self, name: str) -> Space: ...
    def garbage(self, size: int) -> np.ndarray[Any, Any]: ...
    def note(self, kind: Kind, where: str) -> None: ...


# A library function: (core, its name taken apart, operands) -> instructions in their order.
Library = Callable[[Site, "re.Match[str]", tuple[Any, ...]], list[Instruction]]
