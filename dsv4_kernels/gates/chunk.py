"""The launches of one chunk, as the chain makes them, compiled and recorded instead of run.

The chain runs on meta tensors: sizes without memory. So a compiler's gate sees exactly what a
device would be asked to run - kernels, constants, arguments, grids - and there is no second list
of them to keep.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from triton.backends.driver import Benchmarker, DriverBase

from dsv4_kernels import device
from dsv4_kernels.buffers import ARGUMENTS, BUFFERS, Buffers, shapes
from dsv4_kernels.chains.prefill import SCHEDULES, prefill_sparse_attn
from dsv4_kernels.device import Target
from dsv4_kernels.dims import Dims
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.segments import SEGMENTS

# Pages of the compressed pool and its table in the recorded chunk: 64 pages of 128 rows at ratio 4
# are 32 Ki tokens of context. Nothing but the counts of resolve_slots could see it.
CONTEXT_PAGES = 64

_Launch = TypeVar("_Launch")


class RecordingDriver(DriverBase, Generic[_Launch]):
    """Compiles what is launched for one part, and keeps a record of it instead of running it.

    A subclass names the target, and says in `launcher_cls` what it records of a launch.

    refusals: what its compiler raises for a kernel that it cannot compile.
    """

    refusals: tuple[type[Exception], ...]

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part
        self.launches: list[_Launch] = []
        self.utils = self

    @classmethod
    def is_active(cls) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Never chosen by Triton on its own."""
        return False

    def get_current_device(self) -> str:
        return f"compile for {self.part}"  # keys Triton's table of compiled kernels

    def get_current_stream(self, device: str) -> None:
        return None

    def get_benchmarker(self) -> Benchmarker:
        raise NotImplementedError("nothing runs here")

    def refused(self, why: str) -> _Launch:
        """The record of a kernel that the compiler refuses."""
        raise NotImplementedError

    @contextlib.contextmanager
    def recording_refusals(self) -> Iterator[None]:
        """Inside, a kernel that the compiler refuses is recorded like any other launch."""
        try:
            yield
        except self.refusals as error:
            self.launches.append(self.refused(str(error)))


@dataclass(frozen=True)
class Compiled(Generic[_Launch]):
    """A segment, the tiles it was launched with, and what the compiler made of the launch."""

    segment: str
    tiles: Any
    launch: _Launch


def record_chunk(
    target: Target,
    driver: RecordingDriver[_Launch],
    dims: Dims,
    *,
    tokens: int = 128,
    columns: int | None = None,
    sharers: int = 1,
    tiles: Mapping[str, Any] | None = None,
) -> list[Compiled[_Launch]]:
    """Compile every segment of both schedules for `target`, as one chunk asks for them.

    A refusal is in the launch, not raised.

    columns: K; a CSA layer's if None. sharers: neighbouring tokens that share their KV. tiles:
    tiles to use instead of a segment's own, by segment.
    """
    driver.launches.clear()
    chosen = {name: segment.tiles.on(target) for name, segment in SEGMENTS.items()}
    chosen |= dict(tiles or {})
    recorded: list[str] = []

    def executor(nodes: Sequence[Node], waves: Sequence[Buffers]) -> None:
        for node in nodes:
            if node.name not in recorded:  # the schedules share most of their segments
                recorded.append(node.name)
                with device.on(waves[0]["q"]):  # a refusal ends this launch, not the chain
                    node.run(waves)

    with device.route("meta", target, driver):
        for schedule in SCHEDULES:
            prefill_sparse_attn(
                **meta_inputs(dims, tokens, columns or dims.index_columns),
                window=dims.window,
                wave_tokens=tokens,
                schedule=schedule,
                sharers=sharers,
                groups_per_launch=dims.groups,  # all in one launch: the code is the same
                executor=executor,
                tiles=chosen,
            )
    return [
        Compiled(name, chosen[name], launch)
        for name, launch in zip(recorded, driver.launches, strict=True)
    ]


def meta_inputs(dims: Dims, tokens: int, columns: int) -> dict[str, Any]:
    """The arguments of prefill_sparse_attn for a chunk, on the meta device."""
    ring_pages = -(-dims.window // dims.page_rows)
    sizes = dims.letters() | dict(
        N=tokens, T=tokens, K=columns, ori_pages=ring_pages, ori_entries=ring_pages,
        cmp_pages=CONTEXT_PAGES, cmp_entries=CONTEXT_PAGES,
    )  # fmt: skip
    tensors = [name for name in ARGUMENTS if BUFFERS[name].dtype is not int]
    made = {
        name: torch.empty(extent, dtype=BUFFERS[name].dtype, device="meta")  # type: ignore[arg-type]
        for name, extent in shapes(tensors, sizes).items()
    }
    return made | {"num_tokens": tokens}
