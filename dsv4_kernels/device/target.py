"""What a launch needs to know of its device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cores = Literal["cube", "vector"]


class MissingDependency(ImportError):
    """Something that is not installed is needed; the message says what and how to get it."""


@dataclass(frozen=True)
class Target:
    """A device by its family, and how many programs a persistent grid should have there."""

    kind: str  # "npu" | "cuda" | "cpu"
    name: str
    cube_programs: int  # most programs of a kernel with a dot: cube cores, or threads of a CPU
    vector_programs: int  # most programs of a vector-only kernel

    def grid(self, cores: Cores, tasks: int) -> tuple[int]:
        """Grid of a persistent kernel over `tasks`: never more programs than cores, at least 1."""
        most = self.cube_programs if cores == "cube" else self.vector_programs
        return (max(1, min(tasks, most)),)
