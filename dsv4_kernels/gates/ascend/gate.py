"""Every kernel's compiled form held against what its segment claims."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates.ascend.against_cpu import Executed
from dsv4_kernels.gates.ascend.compiler import AscendKernel
from dsv4_kernels.gates.ascend.counts import LOADED, Counts, Loaded, count
from dsv4_kernels.gates.ascend.launches import PARTS, compile_chunk
from dsv4_kernels.gates.ascend.memory import MemoryPlan, read_plan
from dsv4_kernels.gates.chunk import Compiled
from dsv4_kernels.segments.proj_a import ProjATiles
from dsv4_kernels.segments.tiles import Budget

# A budget of the unified buffer that is further than this above the compiler's plan has lost touch
# with it.
UB_SLACK = 1.1


@dataclass(frozen=True)
class AscendRow:
    """The verdict on one kernel of a segment for one preset and part; label: as `Compiled` has
    it. launches: how many of it the chain makes, which `counts` are the sum of."""

    segment: str
    label: str
    preset: str
    part: str
    breaches: tuple[str, ...]
    plan: MemoryPlan | None = None
    budget: Budget | None = None
    counts: Counts | None = None
    launches: int = 0
    minimum_bytes: int = 0
    retries: tuple[str, ...] = ()
    compile_seconds: float = 0.0
    code: str = ""
    executed: Executed | None = None

    def with_execution(self, executed: Executed) -> AscendRow:
        """The same, with what executing it found."""
        breaches = [*self.breaches, *executed.breaches(self.segment)]
        if executed.code != self.code:
            breaches.append("executed: another code than this one")
        return dataclasses.replace(self, breaches=tuple(breaches), executed=executed)


def hold(compiled: Compiled[AscendKernel], preset: str, part: str) -> AscendRow:
    """Hold one compiled segment against its claims."""
    launch, tiles = compiled.launch, compiled.tiles
    if launch.refusal:
        refusal = launch.refusal.strip()
        if launch.overflow:
            memory, needed, available = launch.overflow
            refusal = f"{memory} overflow: {needed} bytes needed, {available} available"
        return AscendRow(compiled.segment, compiled.label, preset, part, (refusal,))
    plan = read_plan(launch.hivm)
    budget: Budget = tiles.budget(launch.constants)
    counts = count_launches(compiled)
    return AscendRow(
        segment=compiled.segment,
        label=compiled.label,
        preset=preset,
        part=part,
        breaches=tuple(_breaches(compiled, plan, budget, counts, PARTS[part])),
        plan=plan,
        budget=budget,
        counts=counts,
        launches=len(compiled.launches),
        minimum_bytes=compiled.minimum_bytes,
        retries=launch.retries,
        compile_seconds=launch.seconds,
        code=launch.code,
    )


def _breaches(
    compiled: Compiled[AscendKernel],
    plan: MemoryPlan,
    budget: Budget,
    counts: Counts,
    cube_cores: int,
) -> Iterator[str]:
    if len(codes := {launch.hivm for launch in compiled.launches}) > 1:
        yield f"compiled {len(codes)} times for {len(compiled.launches)} launches"
    if plan.core != compiled.tiles.core:
        yield f"compiled for {plan.core}, claimed {compiled.tiles.core}"
    for retry in compiled.launch.retries:
        yield f"compiler retried: {retry}"
    for memory, used in plan.used.items():
        claimed = getattr(budget, memory.lower())
        limit = plan.limits[memory]
        if max(used, claimed) > limit:
            yield f"{memory}: {max(used, claimed)} bytes needed, {limit} available"
        exact = memory != "UB"
        if used > claimed or (exact and used != claimed) or claimed > used * UB_SLACK:
            yield f"{memory}: {used} bytes planned, {claimed} budgeted"
    if compiled.tiles.core != "AIV":
        for buffer in plan.single_loads:
            yield f"load into {buffer} is not double-buffered"
    if plan.one_vector_core:
        yield "one vector core of the pair does all the storing (limit_sub_block_id0)"
    if counts.scalar_loops:
        yield f"{counts.scalar_loops} scalar loops over tensor elements"
    if counts.unaligned_casts:
        # Cast1D.cpp of AscendNPU-IR 52f96a13: "scalar cast bfloat16_t is not supported yet,
        # skipped"; the library that ascendnpu-ir 1.2.0 brings has no such case at all.
        yield f"{counts.unaligned_casts} casts of bf16 that is not on 32 bytes: they do nothing"
    if (plan.cube_cores, plan.vector_cores) != (cube_cores, 2 * cube_cores):
        yield f"the compiler knows {plan.cube_cores} cube cores, {cube_cores} assumed"


def count_launches(compiled: Compiled[AscendKernel], loaded: Loaded = LOADED) -> Counts:
    """What the launches move and compute together; loaded: as `count` takes it."""
    first, *others = (count_launch(launch, loaded) for launch in compiled.launches)
    return sum(others, first)


def count_launch(launch: AscendKernel, loaded: Loaded = LOADED) -> Counts:
    """What a launch moves and computes, over all its programs; loaded: as `count` takes it."""
    arguments = {
        name: value if isinstance(value, int | float) else None
        for name, value in launch.arguments.items()
    }
    if not all(isinstance(value, int) for value in loaded.values()):
        return count(launch.hivm, launch.grid, arguments, loaded)
    asked = (launch.code, launch.grid, tuple(arguments.items()), tuple(loaded.items()))
    if asked not in _counted:
        _counted[asked] = count(launch.hivm, launch.grid, arguments, loaded)
    return _counted[asked]


_counted: dict[tuple[Any, ...], Counts] = {}  # of what was asked: a walk takes up to a second


def a_k_tile_facts(part: str, preset: str) -> list[dict[str, Any]]:
    """What A_K_TILE 128 / 256 / 512 mean for proj_a, from its compiled code."""
    facts = []
    for a_k_tile in (128, 256, 512):
        tiles = {"proj_a": ProjATiles(a_k_tile=a_k_tile)}
        (compiled,) = compile_chunk(part, PRESETS[preset], tiles=tiles, segments=("proj_a",))
        plan, counts = read_plan(compiled.launch.hivm), count_launches(compiled)
        matmuls = sum(n for name, n in counts.calls.items() if name.startswith("mma"))
        programs = sum(launch.grid for launch in compiled.launches)
        facts.append(
            {
                "A_K_TILE": a_k_tile,
                "K iterations": math.ceil(compiled.launch.constants["J"] / a_k_tile),
                "bytes per weight row": 2 * a_k_tile,
                "share of 512 B lines used": min(1.0, 2 * a_k_tile / 512),
                "L1 bytes": plan.used["L1"],
                "loads doubled": not plan.single_loads,
                "retries": len(compiled.launch.retries),
                "matmul calls per program": matmuls / programs,
                "instructions per KiB loaded": (counts.dma + matmuls) / (counts.gm_to_l1 / 1024),
            }
        )
    return facts
