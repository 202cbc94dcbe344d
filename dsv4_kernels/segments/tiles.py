"""What every segment's tiles have in common: core, memory budget, choice by device, their check.

A segment's tile dataclass has Ascend's tiles as defaults; the CPU backend runs the same ones. `on`
picks those of the device's family and of a launch's sizes, `options` what its Triton is told.
`extent` declares a number with what it must be, and `checked` holds all of them to it: no segment
looks again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from dsv4_kernels.contract import Contract, as_int
from dsv4_kernels.device import Target

Core = Literal["AIC", "AIV", "MIX"]  # cube, vector, or a cube with its pair of vector cores
KIB = 1024
FRACTAL = 16  # a cube core multiplies 16 rows at a time, 32 bytes of each
MOST_ELEMENTS = 2**20  # of one tensor in a kernel: TRITON_MAX_TENSOR_NUMEL, of either Triton

_Tiles = TypeVar("_Tiles", bound="Tiles")


@dataclass(frozen=True)
class Extent:
    """What a number of some tiles must be: a power of two in low..high, as `tl.arange` wants.

    divides: what it must divide, where a kernel has no mask for the rest. multiple_of: a number, or
    one of the tiles by name, whose multiple it must be instead of a power of two. beside: what
    spans the other axis of the kernel's tensors: numbers, numbers of the tiles, or letters.
    """

    low: int
    high: int
    divides: int
    multiple_of: int | str
    beside: tuple[int | str, ...]

    def words(self, numbers: Mapping[str, int]) -> str:
        """The rule in words, with its numbers."""
        if isinstance(self.multiple_of, str):
            return f"a multiple of {self.multiple_of} = {numbers[self.multiple_of]}"
        if self.multiple_of:
            return f"an integer in {self.low}..{self.high}"
        divisor = f" that divides {self.divides}" if self.divides else ""
        return f"a power of two in {self.low}..{self.high}{divisor}"

    def holds(self, number: int, numbers: Mapping[str, int]) -> bool:
        """Whether the number is that."""
        if not self.low <= number <= self.high:
            return False
        if step := self.multiple_of:
            return number % (numbers[step] if isinstance(step, str) else step) == 0
        return number & (number - 1) == 0 and (not self.divides or self.divides % number == 0)


def extent(
    default: int | None,
    *,
    low: int = 1,
    high: int = MOST_ELEMENTS,
    divides: int = 0,
    multiple_of: int | str = 0,
    beside: tuple[int | str, ...] = (),
) -> Any:
    """A number of a tile dataclass, with what it must be (`Extent`)."""
    rule = Extent(low, high, divides, multiple_of, beside)
    return dataclasses.field(default=default, metadata={"extent": rule})


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
    num_warps: int = extent(4, high=32)  # of 32 threads; a CUDA program has 1024 at most
    num_stages: int = extent(2, high=64, multiple_of=1)  # more than any shared memory holds

    @classmethod
    def on(cls: type[_Tiles], target: Target, contract: Contract | None = None) -> _Tiles:
        """The tiles for a device of this family: for a whole wave of FLASH or PRO, or for what a
        launch has to do. Which they are changes no byte of a token."""
        own = cls.cuda() if target.kind == "cuda" else cls()
        return own if contract is None else own.fitted(contract, target)

    def fitted(self: _Tiles, contract: Contract, target: Target) -> _Tiles:
        """These, or others where a launch has few tokens or heads."""
        return self

    @classmethod
    def cuda(cls: type[_Tiles]) -> _Tiles:
        """Tiles for NVIDIA, sm_90; Ascend's own where a segment names no others.

        Chosen by arithmetic for FLASH, T = 128, on an H100: 132 multiprocessors, each with 65 536
        registers, 227 KiB of shared memory a program and at most 32 programs; 3.35 TB/s of memory
        at an assumed latency of 700 ns are 17 KiB under way on each. `make hopper-gate` holds them
        to the chip's limits; nobody has timed them.
        """
        return cls()

    def checked(self: _Tiles, contract: Contract) -> _Tiles:
        """These tiles, their numbers Python's own: no tile then passes the end of a buffer, and
        none is larger than Triton makes a tensor. Raises ContractError."""
        numbers: dict[str, int] = {}
        for name, rule in self._extents().items():
            value = getattr(self, name)
            if value is None and getattr(type(self), name) is None:
                continue  # the kernel's choice
            number = as_int(value)
            contract.require(
                number is not None and rule.holds(number, numbers),
                "tiles",
                f"of a {name} that is {rule.words(numbers)}",
                f"{name} = {value!r}",
            )
            assert number is not None
            numbers[name] = number
        for name, rule in self._extents().items():
            for other in rule.beside:
                width = other if isinstance(other, int) else {**contract.sizes, **numbers}[other]
                contract.require(
                    numbers[name] * width <= MOST_ELEMENTS,
                    "tiles",
                    f"of {name} * {other} <= {MOST_ELEMENTS}",
                    f"{numbers[name]} * {width}",
                )
        return dataclasses.replace(self, **numbers)

    def require_room(self, contract: Contract, target: Target) -> None:
        """The budget is within the memories of the target's cores, where they are known. Raises
        ContractError."""
        if target.memory is None:
            return
        budget = self.budget(contract.sizes)
        for name, available in target.memory._asdict().items():
            needed = getattr(budget, name)
            contract.require(
                needed <= available,
                "tiles",
                f"of at most {available} bytes of {name.upper()} on {target.name}",
                f"{needed} bytes",
            )

    @classmethod
    def _extents(cls) -> dict[str, Extent]:
        """The rule of every number."""
        return {f.name: f.metadata["extent"] for f in dataclasses.fields(cls)}

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
