"""What a segment declares of itself, and how it is called.

A segment is one kernel: `check` looks at the metadata of its buffers, `launch` says what is asked
of the device. Both work on tensors of any device, meta tensors too; nothing is read, and nothing is
launched before all is checked.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dsv4_kernels import device
from dsv4_kernels.buffers import Buffers
from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.device.untraced import untraced
from dsv4_kernels.segments.cost import Cost, moved
from dsv4_kernels.segments.tiles import Tiles


@dataclass(frozen=True)
class Launch:
    """A kernel launch as data.

    arguments: in the kernel's order, a buffer's or number's name, a plain number, or None for a
    pointer that it has no use for. constants: its compile-time arguments, and what its Triton is
    told. beside: other such arguments, of kernels that another run of this capacity needs, which
    are compiled with the first launch, so that none waits in service. tiles: what all were made of.
    """

    kernel: Any
    grid: tuple[int]
    arguments: tuple[str | int | float | None, ...]
    constants: dict[str, Any]
    beside: tuple[dict[str, Any], ...] = ()
    tiles: Tiles | None = None

    def __call__(self, buffers: Mapping[str, Any]) -> None:
        """Launch it on `buffers`, on the current device and stream."""
        values = [*self.arguments]
        for place, name in self._named:
            values[place] = buffers[name]
        while self._uncompiled:
            constants = self.constants | self._uncompiled.pop()
            self.kernel.run(*values, grid=self.grid, warmup=True, **constants)
        self._start(*values)

    @functools.cached_property
    def _start(self) -> Callable[..., Any]:
        # What kernel[grid](...) calls; bound here, the constants are not merged at every launch.
        return functools.partial(self.kernel.run, grid=self.grid, warmup=False, **self.constants)

    @functools.cached_property
    def _uncompiled(self) -> list[dict[str, Any]]:
        return [*self.beside]

    @functools.cached_property
    def _named(self) -> list[tuple[int, str]]:
        """The places of the arguments that are looked up."""
        return [(i, a) for i, a in enumerate(self.arguments) if isinstance(a, str)]


@dataclass(frozen=True)
class Segment:
    """One box of the pipeline.

    reads: buffers it takes. writes: buffers it makes, or fills where they exist already. updates:
    buffers that it takes and changes. numbers: plain numbers that it takes. by_groups: whether it
    can be asked for some of the groups only. check: what shapes alone do not say; it is given the
    numbers, and binds the letters that the outputs' shapes need. launch: what to launch, from the
    letters; not called where an output is empty. cost: bytes and FLOP that cannot be avoided.
    rounded: outputs that its compiled code, executed, may round otherwise than the CPU path does,
    and by how much of their largest value; all others are equal to the byte. not_on: families of
    devices that it is refused on, each with the reason.
    """

    name: str
    tiles: type[Tiles]
    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()
    updates: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    by_groups: bool = False
    check: Callable[..., None] = field(kw_only=True)
    launch: Callable[[Contract, Target, Any], Launch] = field(kw_only=True)
    cost: Callable[..., Cost] = moved
    rounded: Mapping[str, float] = field(default_factory=dict)
    not_on: Mapping[str, str] = field(default_factory=dict)
    chosen: Tiles | None = None  # tiles to use instead of the device's own

    @property
    def core(self) -> str:
        """The Ascend cores that it keeps busy: AIC, AIV or MIX."""
        return self.tiles.core

    def inputs_of(self, buffers: Buffers) -> Buffers:
        """What it takes of `buffers`."""
        return {name: buffers[name] for name in self.reads + self.updates + self.numbers}

    def outputs_of(self, buffers: Buffers) -> Buffers:
        """What it has written to `buffers`."""
        return {name: buffers[name] for name in self.writes + self.updates}

    def with_tiles(self, tiles: Tiles | None) -> Segment:
        """The same segment with tiles of the caller's choice."""
        return dataclasses.replace(self, chosen=tiles)

    def checked(
        self, buffers: Mapping[str, Any], group_range: range | None = None
    ) -> tuple[Contract, Buffers]:
        """The contract, all letters bound, and every buffer: outputs are allocated where there are
        none. Raises ContractError."""
        contract = Contract(self.name)
        values = {name: contract.buffer(name, buffers[name]) for name in self.reads + self.updates}
        numbers = {name: buffers[name] for name in self.numbers}
        self.check(contract, **numbers)
        values |= {name: contract.output(name, buffers.get(name)) for name in self.writes}
        if self.by_groups:
            contract.group_range(group_range)
        return contract, values | {
            name: contract.sizes.get(name, numbers[name]) for name in numbers
        }

    def bind(
        self, buffers: Mapping[str, Any], group_range: range | None = None
    ) -> Callable[[Mapping[str, Any]], None]:
        """What runs it on buffers of these shapes, checked once and for all.

        The caller makes the device current (`device.on`), here and at every run.
        """
        contract, values = self.checked(buffers, group_range)
        tiles = self._checked_tiles(contract, self.chosen)
        outputs = self.outputs_of(values)
        if self._nothing_to_do(contract, outputs):
            return _no_launch
        with device.on(next(iter(outputs.values()))) as target:
            return self._launch(contract, target, tiles)

    @untraced
    def __call__(self, tiles: Tiles | None, **buffers: Any) -> Any:
        """Check, launch, and return the outputs: the body of a segment's public function."""
        contract, values = self.checked(buffers, buffers.get("group_range"))
        tiles = self._checked_tiles(contract, self.chosen if tiles is None else tiles)
        outputs = self.outputs_of(values)
        if not self._nothing_to_do(contract, outputs):
            with device.on(next(iter(outputs.values()))) as target:
                launch = self._launch(contract, target, tiles)
                # Of one call by itself there is no other run.
                dataclasses.replace(launch, beside=())(values)
        made = tuple(outputs.values())
        return made[0] if len(made) == 1 else made

    def _checked_tiles(self, contract: Contract, tiles: Any) -> Tiles | None:
        """The caller's tiles, if there are any."""
        if tiles is None:
            return None
        wanted = self.tiles.__name__
        contract.require(type(tiles) is self.tiles, "tiles", wanted, type(tiles).__name__)
        return tiles.checked(contract)

    def _launch(self, contract: Contract, target: Target, tiles: Tiles | None) -> Launch:
        refused = self.not_on.get(target.kind)
        contract.require(refused is None, self.reads[0], f"elsewhere ({refused})", target.name)
        tiles = tiles or self.tiles.on(target, contract)
        tiles.require_room(contract, target)
        return dataclasses.replace(self.launch(contract, target, tiles), tiles=tiles)

    def _nothing_to_do(self, contract: Contract, outputs: Mapping[str, torch.Tensor]) -> bool:
        no_group = self.by_groups and not contract.groups
        return no_group or any(tensor.numel() == 0 for tensor in outputs.values())


def _no_launch(buffers: Mapping[str, Any]) -> None:
    """An empty output needs none."""
