"""The boxes of the pipeline, one file each: kernel, what it declares of itself, public function.

A file here with a `SEGMENT` is one. Beside them, segment.py is what they declare, kernel.py how
they are compiled, slots.py the one definition of a live slot, tiles.py what all tiles have in
common, tasks.py how tasks are numbered, cost.py what cannot be avoided.
"""

import importlib
import pkgutil
from collections.abc import Iterator

from dsv4_kernels.buffers import BUFFERS
from dsv4_kernels.segments.requests import RESOLVE_REQUESTS, TOKEN_MAP
from dsv4_kernels.segments.segment import Segment
from dsv4_kernels.segments.shared_requests import SHARED_REQUESTS
from dsv4_kernels.segments.tile_map import TILE_MAP


def _found() -> Iterator[Segment]:
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        if hasattr(module, "SEGMENT"):
            yield module.SEGMENT


def _place(segment: Segment) -> tuple[int, bool]:
    """Where it stands in the pipeline: buffers are listed in the order in which they come to be,
    and what updates one comes after what made it."""
    made = (*segment.writes, *segment.updates)
    return max([*BUFFERS].index(name) for name in (*segment.reads, *made)), bool(segment.updates)


SEGMENTS: dict[str, Segment] = {segment.name: segment for segment in sorted(_found(), key=_place)}


def segments_on(family: str) -> list[str]:
    """The segments that a family of devices runs."""
    return [name for name, segment in SEGMENTS.items() if family not in segment.not_on]


# With those that only a server's batch has.
_OF_A_BATCH = (TOKEN_MAP, RESOLVE_REQUESTS, TILE_MAP, SHARED_REQUESTS)
EVERY_SEGMENT = SEGMENTS | {segment.name: segment for segment in _OF_A_BATCH}
