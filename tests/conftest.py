"""Fixtures that every test shares: the device, a seed of its own, and poisoned memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
import torch

from dsv4_kernels import device as devices
from poison import Poison


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The best device present: what runs on an NPU or a GPU is what is tested there."""
    return devices.best()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The same on every run and in any folder, different for every test and parameter."""
    _, _, name = request.node.nodeid.rpartition("/")
    return zlib.crc32(f"tests/{name}".encode())


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def poison(device: torch.device) -> Iterator[Poison]:
    """Hands out outputs full of sentinels inside guard bands, and checks the bands at the end."""
    poison = Poison(device)
    yield poison
    poison.check_bands()
