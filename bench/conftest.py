"""Fixtures that every bench shares: the roof, what a result says of itself, and the timing."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from bench import clock
from bench.roof import Roof, measure_roof
from bench.scale import DEVICE, SCALE
from dsv4_kernels import device as devices
from dsv4_kernels.segments.cost import Cost

PACKAGES = ("torch", "triton", "triton-ascend", "ascendnpu-ir", "torch_npu")


def pytest_addoption(parser: pytest.Parser) -> None:
    """A CPU has to be asked for."""
    parser.addoption("--cpu", action="store_true", help="run the benches on a CPU all the same")


def pytest_configure(config: pytest.Config) -> None:
    """Nothing runs unasked where its times would mean nothing."""
    if DEVICE.type == "cpu" and not config.getoption("--cpu"):
        raise pytest.UsageError(
            "no accelerator is here, and times of CPU execution say nothing about one: --cpu to "
            "run the benches all the same"
        )


def pytest_report_header() -> str:
    """What the numbers will be."""
    return f"benches on {devices.describe(DEVICE)}"


@pytest.fixture(scope="session")
def roof() -> Roof:
    """Measured once, in the run whose numbers are held against it."""
    return measure_roof(DEVICE)


@pytest.fixture(scope="session")
def environment(roof: Roof) -> dict[str, Any]:
    """What every result says of where it comes from."""
    installed = {d.metadata["Name"] for d in metadata.distributions()}
    return {
        "device": devices.describe(DEVICE),
        "device_type": DEVICE.type,
        "roof": vars(roof),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES if name in installed},
            "dsv4-kernels": _commit(),
        },
    }


@pytest.fixture
def timed(benchmark: Any, roof: Roof, environment: dict[str, Any]) -> Callable[..., None]:
    """Times work that has been judged, and keeps what is to be known of it with the result."""

    def timed(calls: Sequence[clock.Call], cost: Cost, *, graph: bool = True, **facts: Any) -> None:
        """
        Args:
            calls: as `clock.measure` takes them, and graph.
            cost: of one call.
            facts: what to report: `table`, one of the report's, and its columns.
        """

        def launch_and_wait() -> None:
            calls[0]()
            devices.synchronize(DEVICE)

        benchmark.pedantic(launch_and_wait, rounds=SCALE.rounds)
        wall_us = 1e6 * benchmark.stats.stats.median
        if DEVICE.type == "cpu":  # a call returns when its work is done
            times = clock.Times(host_us=wall_us, device_us=None)
        else:
            times = clock.measure(calls, DEVICE, graph=graph)
        floor = roof.floor_us(cost)
        benchmark.extra_info.update(
            facts,
            **vars(cost),
            **vars(times),
            wall_us=wall_us,
            us=times.us,
            share_of_roof=None if floor is None else floor / times.us,
            share_of_copy=1e6 * cost.bytes / times.us / roof.copy_bytes_s,
            copies=len(calls),
            cold=len(calls) * cost.bytes >= clock.COLD_BYTES,
            **environment,
        )

    return timed


def _commit() -> str:
    """The commit that is measured; "unknown" outside of a checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
