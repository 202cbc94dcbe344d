"""A mutant as data: where it is, what is wrong with it, and who must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """One small wrong edit.

    wrong: what it does wrong, in a few words. old, new: a fragment that `file` has exactly once,
    and what replaces it. tests: the ordinary tests of the file. killed_by: the test among them that
    must fail, or a whole node id of another file. equivalent: instead of that, the proof in a
    sentence that no test can fail.
    """

    wrong: str
    old: str
    new: str
    killed_by: str = ""
    equivalent: str = ""
    file: str = ""
    tests: str = ""

    def __post_init__(self) -> None:
        if bool(self.killed_by) == bool(self.equivalent):
            raise ValueError(f"{self.name}: either a test that kills it or a proof")

    @property
    def name(self) -> str:
        return f"{Path(self.file).stem}: {self.wrong}"

    @property
    def test(self) -> str:
        """Node id of the test that must fail; of all that must pass for an equivalent one."""
        if self.equivalent:
            return self.tests
        return self.killed_by if "/" in self.killed_by else f"{self.tests}::{self.killed_by}"

    def edited(self, source: str) -> str:
        """The file with the edit. Raises ValueError where the fragment is not there exactly once:
        the code has moved on, and the catalogue must follow."""
        if (count := source.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.file} has this {count} times: {self.old}")
        return source.replace(self.old, self.new)
