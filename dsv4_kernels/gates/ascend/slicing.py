"""What counts depend on, cut out of a kernel's scalar code.

Flags, most offsets and the turns of double buffers change no count. A statement stays if it counts
something or if one that stays reads what it sets. A loop that does the same in every trip goes
through its body once, and counts it for all trips.

Where a view lies and of which type it is are known before the code runs; how many elements it has
is a number or a name of its own, so that the view itself, with its offset, need not be made.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from dsv4_kernels.backends.hivm.machine import MEMORIES
from dsv4_kernels.backends.hivm.scalar import Function, compiled
from dsv4_kernels.backends.hivm.statement import (
    Call,
    Chosen,
    Handed,
    Hidden,
    Load,
    Made,
    Statement,
    python,
)
from dsv4_kernels.gates.ascend import library

SCALAR_LOAD = "memref.load"  # its name in a tally


class Operand(NamedTuple):
    """An end of a transfer."""

    space: str
    type: str
    elements: int


class _View(NamedTuple):
    """What is known of one before the code runs; elements: how many, a number or a name."""

    space: str
    type: str
    elements: str


class _Views(ChainMap[str, _View]):
    """Those that a block sees, by name, its own first."""

    def __missing__(self, name: str) -> _View:
        raise ValueError(f"cannot tell where `{name}` lies")


@functools.lru_cache(maxsize=128)
def sliced(
    function: Function, spaces: tuple[str, ...], arrays: frozenset[str]
) -> Callable[..., None]:
    """A function that counts what `function` does.

    Args:
        function: to cut.
        spaces: what each of its arguments points at, "" for a number.
        arrays: the spaces of which it matters which element is loaded.

    It takes `core` (`program`, `sub`, `at`), `tally`, `loaded` (by space, a number or an array),
    `element(view, index, array)`, `is_aligned(view)` and the arguments of `function`. In `tally`,
    a `Counter`, it counts a call by its name and by what of its operands matters: an `Operand` for
    each end of a transfer; M, K and N; whether both ends of a cast of bf16 are aligned. Loads of
    single elements are counted as `SCALAR_LOAD` by their space.

    Raises ValueError for a view of which it is not known where it lies or how large it is.
    """
    arguments = zip(function.arguments, spaces, strict=True)
    views = _Views({name: _View(space, "i8", "0") for name, space in arguments if space})
    for memory in itertools.chain(*MEMORIES.values()):
        views[memory] = _View(memory, "i8", "0")
    statements = [*_counting(function.statements, views, arrays)]
    own = ("core", "tally", "loaded", "element", "is_aligned")
    lines = ["  times = 1", *python(_folded(_kept(statements, set())))]
    return compiled(function.name, (*own, *function.arguments), lines)


# -- statements that count


def _counting(
    statements: Iterable[Statement], views: _Views, arrays: Collection[str]
) -> Iterator[Statement]:
    """The statements with their calls and loads counted, next to each view how large it is."""
    for statement in statements:
        match statement.what:
            case Hidden():
                pass
            case Call(name, values):
                key = "".join(f"{entry}, " for entry in _key(name, values, views))
                yield Statement(f"tally[{key}] += times", statement.what)
            case Load(view, at):
                space = views[view].space
                yield Statement(f"tally[{SCALAR_LOAD!r}, {space!r}] += times", statement.what)
                value = f"loaded.get({space!r}, 0)"
                if space in arrays:
                    value = f"element({view}, {at}, {value})"
                # An element that an array lacks is an error, whoever needs it.
                what = statement.what if space in arrays else None
                yield Statement(f"{statement.sets[0]} = {value}", what)
            case Made(of, sizes, type_):
                yield statement
                if sizes is not None or of in views:
                    yield from _make(statement.sets, of, sizes, type_, views)
            case Chosen(condition, (one, other)):
                yield statement
                if one in views:
                    yield from _choose(statement.sets[0], condition, one, other, views)
            case Handed(value):
                yield statement
                if value in views:
                    _hand_out(statement.sets, views[value], views.parents)
            case None:
                body = _counting(statement.body, views.new_child(), arrays)
                yield dataclasses.replace(statement, body=[*body])


def _key(name: str, values: Sequence[str], views: _Views) -> Iterator[str]:
    """Of a call in the tally, as Python."""
    yield repr(name)
    if library.path(name):
        for view in values[:2]:
            yield "({!r}, {!r}, {})".format(*views[view])
    elif library.is_matmul(name):
        yield from values[3:6]  # M, K, N after both operands and the init flag
    elif library.is_cast_of_bf16(name):
        yield " and ".join(f"is_aligned({view})" for view in values[:2])


def _make(
    names: Sequence[str], of: str, sizes: Sequence[str] | None, type_: str | None, views: _Views
) -> Iterator[Statement]:
    """A view, as `Made` describes it."""
    source = views[of]
    elements = source.elements
    if sizes is not None:
        dynamic = [size for size in sizes if not size.isdigit()]
        elements = str(math.prod(int(size) for size in sizes if size.isdigit()))
        if dynamic:
            product, elements = " * ".join([*dynamic, elements]), f"{names[0]}_elements"
            yield Statement(f"{elements} = {product}")
    for name in names:
        views[name] = _View(source.space, type_ or source.type, elements)


def _choose(name: str, condition: str, one: str, other: str, views: _Views) -> Iterator[Statement]:
    """One of two views; buffers that take turns are equally large."""
    a, b = views[one], views[other]
    views[name] = a
    if a != b:
        _require_same(a[:2], b[:2], name)
        elements = f"{name}_elements"
        yield Statement(f"{elements} = {a.elements} if {condition} else {b.elements}")
        views[name] = a._replace(elements=elements)


def _hand_out(names: Sequence[str], view: _View, outside: _Views) -> None:
    """A view by the names that it has outside of a block."""
    for name in names:
        if name in outside:
            _require_same(outside[name], view, name)
        outside[name] = view


def _require_same(one: tuple[str, ...], other: tuple[str, ...], name: str) -> None:
    if one != other:
        raise ValueError(f"cannot tell what `{name}` is: {one} or {other}")


# -- those that are needed


def _kept(statements: Sequence[Statement], needed: set[str]) -> list[Statement]:
    """Of a block, what counts and what sets something that is `needed`, which is changed from
    what is read after the block to what is before it."""
    kept: list[Statement] = []
    for statement in reversed(statements):
        if statement.opens:
            body = _kept_body(statement, needed)
            stays = body or (kept and kept[-1].text == "else:")
            statement = dataclasses.replace(statement, body=body)
        else:
            counts = isinstance(statement.what, Call | Load)
            stays = counts or not needed.isdisjoint(statement.sets)
        if stays:
            needed.update(statement.reads)
            kept.append(statement)
    # A block's names are its own, and those in another block are others.
    own = (statement for statement in statements if not isinstance(statement.what, Handed))
    needed.difference_update(name for statement in own for name in statement.sets)
    return kept[::-1]


def _kept_body(statement: Statement, needed: set[str]) -> list[Statement]:
    """What a trip of a loop hands to the next one may be needed by that one only."""
    handed = set(_handed(statement.body))
    while True:
        before = handed & needed
        body = _kept(statement.body, needed)
        if not statement.is_loop or handed & needed == before:
            return body


def _handed(statements: Iterable[Statement]) -> Iterator[str]:
    """The names of what a block hands out."""
    return (name for of in statements if isinstance(of.what, Handed) for name in of.sets)


# -- loops


def _folded(statements: Iterable[Statement]) -> Iterator[Statement]:
    """Each loop whose trips are all the same as one of them, counted for all."""
    for statement in statements:
        body = [*_folded(statement.body)]
        if statement.is_loop and _trips_are_the_same(statement):
            trips = f"trips_{statement.sets[0]}"
            yield Statement(f"{trips} = len({statement.text.partition(' in ')[2][:-1]})")
            once = [Statement(f"times *= {trips}"), *body, Statement(f"times //= {trips}")]
            yield Statement(f"if {trips}:", body=once)
        else:
            yield dataclasses.replace(statement, body=body)


def _trips_are_the_same(loop: Statement) -> bool:
    """No trip reads its number, or what an earlier one set."""
    sets = {*loop.sets, *_sets(loop.body)}
    return sets.isdisjoint(_reads_from_before(loop.body, set()))


def _sets(statements: Iterable[Statement]) -> Iterator[str]:
    for statement in statements:
        yield from statement.sets
        yield from _sets(statement.body)


def _reads_from_before(statements: Iterable[Statement], own: set[str]) -> Iterator[str]:
    """Names that are read while the statements have not set them; own: what they have set."""
    for statement in statements:
        yield from (name for name in statement.reads if name not in own)
        if statement.opens:
            yield from _reads_from_before(statement.body, {*own, *statement.sets})
            # Both branches of a condition hand out its results; a loop's have a value before it.
            own.update(_handed(statement.body))
        else:
            own.update(statement.sets)
