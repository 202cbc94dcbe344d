"""What the commands of the compilers' gates have in common."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from dsv4_kernels.device import Target
from dsv4_kernels.segments import SEGMENTS
from dsv4_kernels.segments.tiles import Tiles

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


def chosen_tiles(settings: Sequence[str], target: Target) -> dict[str, Tiles]:
    """Tiles from settings like ``group_quant.block_r=512``; the rest of a segment's own ones on
    `target`. ValueError for what does not exist."""
    own = {name: segment.tiles.on(target) for name, segment in SEGMENTS.items()}
    common = {field.name for field in dataclasses.fields(Tiles)}
    chosen: dict[str, Tiles] = {}
    for setting in settings:
        path, _, value = setting.partition("=")
        segment, _, tile = path.partition(".")
        require_known("segment", [segment], own)
        current = chosen.get(segment, own[segment])
        ignored = common - current.options(target).keys()
        fields = [f.name for f in dataclasses.fields(current) if f.name not in ignored]
        require_known(f"tile of {segment}", [tile], fields)
        if not value.isdecimal() or int(value) == 0:
            raise ValueError(f"`--tile {setting}` must end in a whole number above 0")
        chosen[segment] = dataclasses.replace(current, **{tile: int(value)})
    return chosen


def require_known(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """ValueError naming what is known, for the first name that is not."""
    for name in names:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}: known are {', '.join(known)}")


def in_parallel(work: Callable[[_Job], _Result], jobs: Sequence[_Job]) -> Iterator[_Result]:
    """The result of each job, in order; several jobs in processes of their own, one per core."""
    if len(jobs) == 1:
        yield work(jobs[0])
        return
    workers = min(len(jobs), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, jobs)
