"""How much of everything: full sizes on an accelerator, on a CPU what ends in three minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsv4_kernels import device as devices

START = 4000  # position of the first token: the ring is full and wraps, CSA has its 512 slots
FAR = 100_000  # HCA then has 780 slots, more than CSA ever


@dataclass(frozen=True)
class Scale:
    """What is benched.

    tokens: of a chunk, by preset. lengths: of other chunks, by preset. groups_per_launch: by
    preset. layers: with the position of their first token. live_shares: of all columns. attention:
    tokens where attention alone races. rounds: of pytest-benchmark's own clock.
    """

    tokens: Mapping[str, int]
    lengths: Mapping[str, tuple[int, ...]]
    groups_per_launch: Mapping[str, tuple[int, ...]]
    layers: tuple[tuple[str, int], ...]
    live_shares: tuple[float, ...]
    attention: tuple[int, ...]
    rounds: int


ACCELERATOR = Scale(
    tokens={"FLASH": 128, "PRO": 128},
    lengths={"FLASH": (1, 16, 128, 512, 1024, 4096), "PRO": (1, 128, 1024)},
    groups_per_launch={"FLASH": (1, 2, 4, 8), "PRO": (4, 16)},
    layers=(("SWA", START), ("CSA", START), ("HCA", START), ("HCA", FAR)),
    live_shares=(0.0, 0.1, 0.25, 0.5, 1.0),
    attention=(128, 4096),
    rounds=20,
)
CPU = Scale(
    tokens={"FLASH": 16},
    lengths={"FLASH": (1, 16), "PRO": (4,)},
    groups_per_launch={"FLASH": (1, 8)},
    layers=(("SWA", START), ("HCA", FAR)),  # CSA is the length of 16, with all its keys alive
    live_shares=(0.0, 0.25),
    attention=(16,),
    rounds=1,
)

DEVICE = devices.best()
SCALE = CPU if DEVICE.type == "cpu" else ACCELERATOR


def per_preset(values: Mapping[str, Sequence[int]]) -> list[tuple[str, int]]:
    """(preset, value) pairs, for a parametrised bench."""
    return [(preset, value) for preset, each in values.items() for value in each]
