"""Every kernel's compiled form held against Hopper's limits and what its segment claims."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dsv4_kernels import device
from dsv4_kernels.device import Target
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates.batches import Batch
from dsv4_kernels.gates.chunk import Compiled, record_chunk
from dsv4_kernels.gates.hopper import compiler
from dsv4_kernels.gates.hopper.compiler import WARP_SIZE, HopperKernel
from dsv4_kernels.gates.hopper.ptxas import Assembly, assemble
from dsv4_kernels.segments.tiles import KIB, Core

# Of a multiprocessor with compute capability 9.0 (CUDA C++ programming guide, technical
# specifications): what one program may have of shared memory, and what its programs share.
SHARED_LIMIT = 227 * KIB
_SHARED = 228 * KIB
_SHARED_RESERVED = KIB  # of every program, by the system
_REGISTERS = 65536
_REGISTERS_STEP = 8  # a thread's registers are given out in steps: 256 a warp
_THREADS = 2048
_PROGRAMS = 32

_WGMMA = re.compile(r"wgmma\.mma_async\.sync\.aligned\.([\w.]+)")


@dataclass(frozen=True)
class HopperRow:
    """The verdict on one kernel of a segment for one preset.

    label: as `Compiled` has it. launches: how many of it the chain makes. grid: of the first.
    wgmma: instructions in the PTX by shape and types. resident: programs that a multiprocessor
    holds at a time, by its registers, shared memory and threads.
    """

    segment: str
    label: str
    preset: str
    breaches: tuple[str, ...]
    launches: int = 0
    grid: int = 0
    num_warps: int = 0
    num_stages: int = 0
    shared: int = 0
    assembly: Assembly | None = None
    wgmma: Mapping[str, int] = field(default_factory=dict)
    resident: int = 0


def hold_chunk(preset: str, tiles: Mapping[str, Any] | None = None) -> list[HopperRow]:
    """Compile the segments of one chunk and hold each against limits and claims.

    tiles: tiles to use instead of a segment's own, by segment. Raises MissingDependency without
    upstream Triton.
    """
    target, driver = _asked()
    return _held(record_chunk(target, driver, PRESETS[preset], tiles=tiles), preset)


def hold_batch(batch: Batch, segments: Sequence[str], tiles: dict[str, Any]) -> list[HopperRow]:
    """The same for the kernels of a batch of `sparse_attn`: see `Batch.record`."""
    target, driver = _asked()
    return _held(batch.record(target, driver, tiles, segments), batch.name)


def _asked() -> tuple[Target, compiler.CompileOnlyDriver]:
    compiler.require_upstream()
    driver = compiler.driver()
    return device.cuda_target(driver.part), driver


def _held(kernels: Sequence[Compiled[HopperKernel]], preset: str) -> list[HopperRow]:
    ptxas = compiler.require_upstream() / "bin" / "ptxas"
    return [
        hold(compiled, preset, assemble(compiled.launch.ptx, ptxas))
        if compiled.launch.ptx
        else HopperRow(compiled.segment, compiled.label, preset, (compiled.launch.refusal.strip(),))
        for compiled in kernels
    ]


def hold(compiled: Compiled[HopperKernel], preset: str, assembly: Assembly) -> HopperRow:
    """Hold one compiled segment against limits and claims."""
    launch = compiled.launch
    wgmma = dict(Counter(_WGMMA.findall(launch.ptx)))
    return HopperRow(
        segment=compiled.segment,
        label=compiled.label,
        preset=preset,
        breaches=tuple(_breaches(compiled.tiles.core, launch.shared, wgmma, assembly)),
        launches=len(compiled.launches),
        grid=launch.grid,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
        shared=launch.shared,
        assembly=assembly,
        wgmma=wgmma,
        resident=_resident(launch, assembly),
    )


def _breaches(
    core: Core, shared: int, wgmma: Mapping[str, int], assembly: Assembly
) -> Iterator[str]:
    if shared > SHARED_LIMIT:
        yield f"shared memory: {shared} bytes needed, {SHARED_LIMIT} available"
    if assembly.spill_stores or assembly.spill_loads:
        yield (
            f"spills: {assembly.spill_stores} bytes stored and {assembly.spill_loads} loaded a "
            f"thread, with {assembly.registers} registers"
        )
    if core != "AIV" and not wgmma:
        yield "a kernel with a dot, compiled without wgmma"
    yield from assembly.given_up


def _resident(launch: HopperKernel, assembly: Assembly) -> int:
    threads = launch.num_warps * WARP_SIZE
    registers = -(-assembly.registers // _REGISTERS_STEP) * _REGISTERS_STEP
    return min(
        _REGISTERS // (registers * threads),
        _SHARED // (launch.shared + _SHARED_RESERVED),
        _THREADS // threads,
        _PROGRAMS,
    )
