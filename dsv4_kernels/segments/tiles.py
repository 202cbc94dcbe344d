"""What every segment's tiles have in common: core, memory budget, choice by device.

A segment's tile dataclass has Ascend's tiles as defaults; the CPU backend runs the same ones. `on`
picks those of the device's family, `options` what its Triton is told at launch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

from dsv4_kernels.device import Target

Core = Literal["AIC", "AIV", "MIX"]  # cube, vector, or a cube with its pair of vector cores
KIB = 1024

_Tiles = TypeVar("_Tiles", bound="Tiles")


@dataclass(frozen=True)
class Budget:
    """What a segment claims of an Ascend core, in bytes: `python -m dsv4_kernels ascend` holds the
    compiler's own memory plan against it.

    L1 and L0C are what the kernel's tiles take, to the byte. The unified buffer also holds the
    compiler's temporaries; its budget counts them in tiles and rounds up.
    """

    ub: int = 0
    l1: int = 0
    l0c: int = 0


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """num_warps, num_stages: of CUDA launches; Ascend has neither."""

    core: ClassVar[Core]
    num_warps: int = 4
    num_stages: int = 2

    @classmethod
    def on(cls: type[_Tiles], target: Target) -> _Tiles:
        """The tiles for a device of this family."""
        return cls.cuda() if target.kind == "cuda" else cls()

    @classmethod
    def cuda(cls: type[_Tiles]) -> _Tiles:
        """Tiles for NVIDIA, sm_90; Ascend's own where a segment names no others.

        Chosen by arithmetic for FLASH, T = 128, on an H100: 132 multiprocessors, each with 65 536
        registers, 227 KiB of shared memory a program and at most 32 programs; 3.35 TB/s of memory
        at an assumed latency of 700 ns are 17 KiB under way on each. `make hopper-gate` holds them
        to the chip's limits; nobody has timed them.
        """
        return cls()

    def options(self, target: Target) -> dict[str, int]:
        """Keywords of a launch that are not the kernel's own arguments."""
        if target.kind != "cuda":
            return {}
        # Products are rounded before they are added, as everywhere else: contracted to an FMA, the
        # quant's rounding trick would round another number.
        return {
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "enable_fp_fusion": False,
        }

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """Bytes per core, from the tiles and the kernel's compile-time sizes."""
        raise NotImplementedError
