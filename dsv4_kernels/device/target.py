"""What a launch needs to know of its device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Cores = Literal["cube", "vector"]


class CoreMemory(NamedTuple):
    """What an Ascend core has, in bytes: unified buffer of a vector core, L1 and L0C of a cube."""

    ub: int
    l1: int
    l0c: int


@dataclass(frozen=True)
class Target:
    """A device by its family, and how many programs a persistent grid should have there.

    memory: what tiles must fit into; None where a launch does not know, or a compiler is to say.
    """

    kind: str  # "npu" | "cuda" | "cpu"
    name: str
    cube_programs: int  # most programs of a kernel with a dot: cube cores, or threads of a CPU
    vector_programs: int  # most programs of a vector-only kernel
    memory: CoreMemory | None = None

    def grid(self, cores: Cores, tasks: int) -> tuple[int]:
        """Grid of a persistent kernel over `tasks`: never more programs than cores, at least 1."""
        most = self.cube_programs if cores == "cube" else self.vector_programs
        return (max(1, min(tasks, most)),)
