"""The whole chain: schedules, groups a launch, lengths, layers, live keys, replayed graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench import workloads
from bench.scale import DEVICE, SCALE, per_preset
from dsv4_kernels.chains.prefill import GROUPS_PER_LAUNCH, SCHEDULES
from dsv4_kernels.inputs.prefill import PrefillInputs

Timed = Callable[..., None]


@pytest.mark.parametrize(("preset", "groups_per_launch"), per_preset(SCALE.groups_per_launch))
@pytest.mark.parametrize("schedule", SCHEDULES)
def bench_schedule(preset: str, schedule: str, groups_per_launch: int, timed: Timed) -> None:
    """Decoupled against row_barrier, by the groups of one launch."""
    inputs = workloads.chunk(preset, SCALE.tokens[preset])
    judge_and_time(
        inputs, timed, varied="schedule", preset=preset,
        schedule=schedule, groups_per_launch=groups_per_launch,
    )  # fmt: skip


@pytest.mark.parametrize(("preset", "tokens"), per_preset(SCALE.lengths))
def bench_length(preset: str, tokens: int, timed: Timed) -> None:
    """Chunks from one token to many waves of 128."""
    judge_and_time(workloads.chunk(preset, tokens), timed, varied="tokens", preset=preset)


@pytest.mark.parametrize(("layer", "start"), SCALE.layers)
def bench_layer(layer: str, start: int, timed: Timed) -> None:
    """The three kinds of layer; HCA also where it has more slots than CSA."""
    inputs = workloads.chunk("FLASH", SCALE.tokens["FLASH"], layer, start)
    judge_and_time(inputs, timed, varied="layer", preset="FLASH", layer=f"{layer} at {start}")


@pytest.mark.parametrize("share", SCALE.live_shares)
def bench_live_share(share: float, timed: Timed) -> None:
    """The same columns, fewer of them live."""
    inputs = workloads.with_live_share(workloads.chunk("FLASH", SCALE.tokens["FLASH"]), share)
    judge_and_time(inputs, timed, varied="live keys", preset="FLASH")


@pytest.mark.skipif(DEVICE.type == "cpu", reason="a CPU has no graphs to replay")
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("preset", SCALE.tokens)
def bench_graph(preset: str, schedule: str, timed: Timed) -> None:
    """Replays of a captured graph, which cost the host one launch."""
    inputs = workloads.chunk(preset, SCALE.tokens[preset])
    judge_and_time(inputs, timed, varied="graph", preset=preset, schedule=schedule, captured=True)


def judge_and_time(
    inputs: PrefillInputs,
    timed: Timed,
    *,
    schedule: str = "decoupled",
    groups_per_launch: int = GROUPS_PER_LAUNCH,
    captured: bool = False,
    layer: str = "CSA",
    **facts: Any,
) -> None:
    """The chain as a plan runs it, each launch by the host, or as the replay of a graph."""
    options = dict(schedule=schedule, groups_per_launch=groups_per_launch)
    calls, attn_out = workloads.chain_calls(inputs, captured=captured, **options)
    workloads.judge_chain(inputs, attn_out, schedule)
    timed(
        calls, workloads.cost_of_chain(inputs), graph=False,
        table="chain", tokens=inputs.num_tokens, layer=layer, captured=captured,
        live_share=workloads.live_keys(inputs) / inputs.cmp_sparse_indices.numel(),
        **options, **facts,
    )  # fmt: skip
