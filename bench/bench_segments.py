"""Every segment by itself, at the tiles it has and at others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from triton.runtime.errors import OutOfResources

from bench import clock, workloads
from bench.scale import DEVICE, SCALE
from dsv4_kernels import device as devices
from dsv4_kernels.buffers import Buffers
from dsv4_kernels.segments import SEGMENTS
from dsv4_kernels.segments.segment import Segment
from dsv4_kernels.segments.tiles import Tiles

with devices.on(torch.empty(0, device=DEVICE)) as TARGET:
    pass  # only to know the device


@dataclass(frozen=True)
class Sweep:
    """One tile of one segment. same_bytes: whether it must change no byte of the outputs."""

    segment: str
    tile: str
    values: tuple[int, ...]
    same_bytes: bool = True

    @property
    def own(self) -> int:
        """What this device gets unasked; swept with the others."""
        return getattr(SEGMENTS[self.segment].tiles.on(TARGET), self.tile)


SWEEPS = (
    Sweep("proj_a", "a_k_tile", (128, 256, 512)),
    Sweep("proj_b", "b_k_tile", (256, 512, 1024)),
    Sweep("gather_kv", "block_k", (16, 32, 64, 128)),
    # A row sum's order is the compiler's choice, which may look at the height of the tile.
    Sweep("qk_softmax_pv", "block_h", (16, 32, 64), same_bytes=False),
    Sweep("merge_norm", "block_h", (2, 4, 8)),
    Sweep("group_quant", "block_r", (64, 128, 256)),
    Sweep("dequant_sum", "block_d", (128, 256, 512)),
    Sweep("proj_b_dequant", "block_d", (64, 128)),
)
if DEVICE.type == "cuda":  # how wide a task, and how deep its pipeline: Ascend has neither choice
    SWEEPS += (
        Sweep("proj_a", "block_r", (32, 64, 128)),
        Sweep("proj_a", "num_stages", (2, 3, 4)),
        Sweep("proj_b", "block_d", (32, 64, 128)),
        Sweep("proj_b", "num_stages", (2, 3, 4)),
    )


@pytest.mark.parametrize("segment", SEGMENTS)
@pytest.mark.parametrize("preset", SCALE.tokens)
def bench_segment(preset: str, segment: str, timed: Callable[..., None]) -> None:
    """At the tiles that this device gets."""
    chosen = SEGMENTS[segment]
    _judge_and_time(chosen, preset, chosen.tiles.on(TARGET), timed, table="segments")


@pytest.mark.parametrize(
    ("sweep", "value"),
    [(sweep, value) for sweep in SWEEPS for value in sorted({*sweep.values, sweep.own})],
    ids=lambda part: f"{part.segment}-{part.tile}" if isinstance(part, Sweep) else str(part),
)
def bench_tile(
    sweep: Sweep, value: int, first_digests: dict[str, str], timed: Callable[..., None]
) -> None:
    """One tile at a time; what may not change a byte is held to that."""
    segment = SEGMENTS[sweep.segment]
    tiles = dataclasses.replace(segment.tiles.on(TARGET), **{sweep.tile: value})
    outputs = _judge_and_time(
        segment, "FLASH", tiles, timed,
        table="tiles", tile=sweep.tile, value=value, own=sweep.own == value,
    )  # fmt: skip
    if sweep.same_bytes:
        digest = workloads.digest(outputs)
        assert digest == first_digests.setdefault(sweep.segment, digest)


@pytest.fixture(scope="module")
def first_digests() -> dict[str, str]:
    """By segment, of the outputs at the first tile that was swept."""
    return {}


def _judge_and_time(
    segment: Segment, preset: str, tiles: Tiles, timed: Callable[..., None], **facts: object
) -> list[torch.Tensor]:
    """Returns the outputs that were judged."""
    inputs = workloads.chunk(preset, SCALE.tokens[preset])
    before = workloads.segment_buffers(segment, preset, SCALE.tokens[preset])
    after = workloads.clone(before)
    tiles = _run_with_stages_that_fit(segment, after, tiles)
    workloads.judge_segment(segment, before, after)
    cost = workloads.cost_of_segment(segment, before, inputs)
    number = clock.copies(cost.bytes, DEVICE)
    sets: list[Buffers] = [after, *(workloads.clone(after) for _ in range(number - 1))]
    outputs = list(segment.outputs_of(after).values())
    timed(
        [partial(segment, tiles, **buffers) for buffers in sets], cost,
        segment=segment.name, preset=preset, tokens=inputs.num_tokens, tiles=vars(tiles),
        digest=workloads.digest(outputs), **facts,
    )  # fmt: skip
    return outputs


def _run_with_stages_that_fit(segment: Segment, buffers: Buffers, tiles: Tiles) -> Tiles:
    """The tiles it ran with: on a GPU a larger tile may leave memory for fewer stages only."""
    try:
        segment(tiles, **buffers)
    except OutOfResources as refusal:
        if tiles.num_stages == 1:
            pytest.skip(f"{tiles} does not fit: {refusal}")
        fewer = dataclasses.replace(tiles, num_stages=tiles.num_stages - 1)
        return _run_with_stages_that_fit(segment, buffers, fewer)
    return tiles
