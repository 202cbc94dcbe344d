"""Fixtures that every test shares: the device, a seed of its own, and poisoned memory.

What takes long to import is imported where it is used: the process that hands tests to others reads
this file too, and they wait for it.
"""

from __future__ import annotations

import gc
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

    from poison import Poison
    from stand_in import StandIn

# The part whose final IR `--model` executes, and how many cube cores grids are made for: few, so
# that a program has several tasks.
MODEL_PART, MODEL_CORES = "Ascend910B3", 2
LAUNCHES = pytest.StashKey[int]()  # that ran there
COLLECTED = pytest.StashKey[set[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "launches run as final Ascend IR on the model of the cores, which must find nothing"
    parser.addoption("--model", action="store_true", help=words)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LAUNCHES] = 0
    gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[COLLECTED] = {item.nodeid for item in items}


def pytest_collection_finish() -> None:
    """What was imported stays: the collector of garbage need not look through it, now or later."""
    gc.enable()
    gc.freeze()


@pytest.fixture(autouse=True)
def _on_the_model(request: pytest.FixtureRequest) -> Iterator[None]:
    """With `--model`, every launch on CPU tensors."""
    if not request.config.getoption("model"):
        yield
        return
    from dsv4_kernels.gates.ascend.execute import executing

    with executing(MODEL_PART, cube_cores=MODEL_CORES) as reports:
        yield
    request.config.stash[LAUNCHES] += len(reports)
    found = [str(report) for report in reports if report.findings]
    assert not found, "\n".join(found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.config.getoption("model"):
        launches = terminalreporter.config.stash[LAUNCHES]
        terminalreporter.write_line(f"{launches} launches ran on the model of the cores")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The best device present: what runs on an NPU or a GPU is what is tested there."""
    from dsv4_kernels import device

    return device.best()


@pytest.fixture
def collected(request: pytest.FixtureRequest) -> set[str]:
    """Node ids of what this process was asked for, what `-m` left out too."""
    return request.config.stash[COLLECTED]


@pytest.fixture
def npu(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A stand-in for torch.npu, where plans look for it."""
    from stand_in import installed

    return installed(monkeypatch)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The same on every run and in any folder, different for every test and parameter."""
    _, _, name = request.node.nodeid.rpartition("/")
    return zlib.crc32(f"tests/{name}".encode())


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(seed)


@pytest.fixture
def poison(device: torch.device) -> Iterator[Poison]:
    """Hands out outputs full of sentinels inside guard bands, and checks the bands at the end."""
    from poison import Poison

    poison = Poison(device)
    yield poison
    poison.check_bands()
