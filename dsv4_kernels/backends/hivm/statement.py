"""Statements of a kernel's scalar code, as Python and as what they do."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

# All values of the IR, and nothing else in the code.
_NAME = re.compile(r"\bv_\w+")


class Call(NamedTuple):
    """Of a library function."""

    name: str
    operands: tuple[str, ...]


class Load(NamedTuple):
    """Of one element of a view, `at` a tuple of indices."""

    view: str
    at: str


class Hidden(NamedTuple):
    """A flag, a barrier or a store: the scalar code itself never sees it again."""


class Made(NamedTuple):
    """A view, or another name for any value.

    of: the view that it is one of, or the memory that it is planned in. sizes: None where it has
    the elements of that one, in whatever shape. type: None where they are of the same.
    """

    of: str
    sizes: tuple[str, ...] | None = None
    type: str | None = None


class Chosen(NamedTuple):
    """One of two values."""

    condition: str
    values: tuple[str, str]


class Handed(NamedTuple):
    """A value given out of a block: to a loop's next trip, to what follows a loop or condition."""

    value: str


@dataclass(frozen=True)
class Statement:
    """text: Python; that of a loop or condition ends in a colon. body: of these. what: None for
    loops, conditions and scalar arithmetic."""

    text: str
    what: Call | Load | Hidden | Made | Chosen | Handed | None = None
    body: list[Statement] = field(default_factory=list)

    @property
    def is_loop(self) -> bool:
        return self.text.startswith("for ")

    @property
    def opens(self) -> bool:
        """A loop, a condition or its other branch."""
        return self.text.endswith(":")

    @functools.cached_property
    def sets(self) -> tuple[str, ...]:
        """Names that it gives a value to; of a loop, that of its trip's number."""
        if self.is_loop:
            return (_NAME.findall(self.text)[0],)
        return tuple(_NAME.findall(self.text.rpartition(" = ")[0]))

    @functools.cached_property
    def reads(self) -> tuple[str, ...]:
        """Names whose values it needs, without those that its body does."""
        names = _NAME.findall(self.text)
        return tuple(names[len(self.sets) :])


def python(statements: Iterable[Statement], indent: str = "  ") -> Iterator[str]:
    """Lines of code."""
    for statement in statements:
        yield indent + statement.text
        if statement.opens:
            yield from python(statement.body or [Statement("pass")], indent + "  ")
