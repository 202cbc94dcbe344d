"""What an NVIDIA H200 is to reach, all in one run, and whether a run did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]  # the extra_info of one bench

OURS = "dsv4_kernels"
FLASH_128 = dict(preset="FLASH", tokens=128)


@dataclass(frozen=True)
class Goal:
    """`measured` is held against `wanted`; None where the run holds nothing to measure it by."""

    name: str
    wanted: float
    at_least: bool
    unit: str
    measured: Callable[[Sequence[Result]], float | None]


@dataclass(frozen=True)
class Reached:
    """ratio: how many times the target was reached; 1 or more is reached."""

    target: Goal
    measured: float | None
    ratio: float | None
    words: str


def find(results: Sequence[Result], **facts: Any) -> list[Result]:
    """The results with all of these facts."""
    return [r for r in results if all(r.get(name) == fact for name, fact in facts.items())]


def judge(results: Sequence[Result]) -> list[Reached]:
    """A verdict on every target; none is passed on CPU execution."""
    on_cpu = any(result["device_type"] == "cpu" for result in results)
    return [_verdict(target, results, on_cpu) for target in TARGETS]


def _verdict(target: Goal, results: Sequence[Result], on_cpu: bool) -> Reached:
    if on_cpu:
        return Reached(target, None, None, "not judged: CPU execution")
    measured = target.measured(results)
    if measured is None:
        return Reached(target, None, None, "not measured")
    ratio = measured / target.wanted if target.at_least else target.wanted / measured
    return Reached(target, measured, ratio, "reached" if ratio >= 1 else "not reached")


def _chain_us(results: Sequence[Result]) -> float | None:
    ours = find(results, table="races", race="chain", runner=OURS, **FLASH_128)
    return ours[0]["us"] if ours else None


def _best_rival_chain(results: Sequence[Result]) -> float | None:
    chains = find(results, table="races", race="chain", **FLASH_128)
    rivals, ours = [r["us"] for r in chains if r["runner"] != OURS], _chain_us(results)
    return min(rivals) / ours if rivals and ours else None


def _share_of_copy(segment: str) -> Callable[[Sequence[Result]], float | None]:
    def measured(results: Sequence[Result]) -> float | None:
        rows = find(results, table="segments", segment=segment, **FLASH_128)
        return rows[0]["share_of_copy"] if rows else None

    return measured


def _flash_mla(results: Sequence[Result]) -> float | None:
    races = find(results, table="races", race="attention", preset="FLASH", tokens=4096)
    us = {race["runner"]: race["us"] for race in races}
    return us["FlashMLA"] / us[OURS] if {"FlashMLA", OURS} <= us.keys() else None


TARGETS = (
    Goal("chain, FLASH, T=128, graph replay", 60.0, False, "us", _chain_us),
    Goal("the same against the best chain of rivals", 1.5, True, "x", _best_rival_chain),
    Goal("proj_a, T=128, of the copy bandwidth", 0.85, True, "", _share_of_copy("proj_a")),
    Goal("proj_b, T=128, of the copy bandwidth", 0.85, True, "", _share_of_copy("proj_b")),
    Goal("attention, T=4096, H=64, K=640, against FlashMLA", 1.0, True, "x", _flash_mla),
)
