"""Each demand of the Ascend gate by itself: what it calls a breach, and where it is found.

A plan that holds every claim is changed in one place at a time.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from triton.backends.ascend import compiler as ascend

from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates.ascend import compiler, gate
from dsv4_kernels.gates.ascend.compiler import AscendKernel
from dsv4_kernels.gates.ascend.counts import Counts
from dsv4_kernels.gates.ascend.launches import compile_chunk
from dsv4_kernels.gates.ascend.memory import MemoryPlan, read_plan
from dsv4_kernels.gates.chunk import Compiled
from dsv4_kernels.segments.merge_norm import MergeNormTiles
from dsv4_kernels.segments.proj_a import ProjATiles
from dsv4_kernels.segments.tiles import Budget

PLAN = MemoryPlan(
    core="AIC",
    used={"UB": 0, "L1": 2**18, "L0C": 2**16},
    limits={"UB": 196608, "L1": 2**19, "L0C": 2**17},
    doubled=("L1 a", "L1 w"),
    single_loads=(),
    workspace=0,
    one_vector_core=False,
    cube_cores=20,
    vector_cores=40,
)
BUDGET = Budget(ub=0, l1=2**18, l0c=2**16)


def breaches(
    segment: str = "proj_a",
    tiles: Any = ProjATiles(),
    budget: Budget = BUDGET,
    scalar_loops: int = 0,
    unaligned_casts: int = 0,
    cube_cores: int = 20,
    retries: tuple[str, ...] = (),
    **plan: Any,
) -> list[str]:
    compiled = Compiled(segment, tiles, (AscendKernel(retries=retries),))
    changed = dataclasses.replace(PLAN, **plan)
    counts = Counts(scalar_loops=scalar_loops, unaligned_casts=unaligned_casts)
    return list(gate._breaches(compiled, changed, budget, counts, cube_cores))


def only(found: Sequence[str]) -> str:
    assert len(found) == 1, found
    return found[0]


def vector(used: int, claimed: int, **changes: Any) -> list[str]:
    return breaches(
        "merge_norm", MergeNormTiles(), Budget(ub=claimed), core="AIV",
        used={"UB": used, "L1": 0, "L0C": 0}, **changes,
    )  # fmt: skip


# -- what is a breach


def test_what_holds_every_claim_is_none():
    assert breaches() == []
    assert vector(100_000, 105_000) == []


def test_the_wrong_core_is_one():
    assert breaches(core="MIX") == ["compiled for MIX, claimed AIC"]


def test_a_second_code_for_a_launch_is_one():
    launches = (AscendKernel(hivm="a"), AscendKernel(hivm="b"))
    compiled = Compiled("proj_a", ProjATiles(), launches)
    found = gate._breaches(compiled, PLAN, BUDGET, Counts(), 20)
    assert [*found] == ["compiled 2 times for 2 launches"]


def test_a_retry_of_the_compiler_is_one():
    assert breaches(retries=("no multi-buffer",)) == ["compiler retried: no multi-buffer"]


def test_a_single_buffered_load_is_one_for_a_cube_only():
    want = ["load into L1 256x128xbf16 is not double-buffered"]
    assert breaches(single_loads=("L1 256x128xbf16",)) == want
    assert vector(0, 0, single_loads=("L1 256x128xbf16",)) == []


def test_one_vector_core_of_a_pair_is_one():
    breach = only(breaches(one_vector_core=True))
    assert breach.startswith("one vector core of the pair does all the storing")


def test_a_scalar_loop_is_one():
    assert breaches(scalar_loops=1) == ["1 scalar loops over tensor elements"]


def test_an_unaligned_cast_of_bf16_is_one():
    breach = only(breaches(unaligned_casts=3))
    assert breach == "3 casts of bf16 that is not on 32 bytes: they do nothing"


@pytest.mark.parametrize(
    ("memory", "used", "claimed"),
    [("L1", 2**18 + 1, 2**18), ("L1", 2**18, 2**18 + 1), ("L0C", 2**16 + 1, 2**16),
     ("L0C", 2**16, 2**16 + 1)],
)  # fmt: skip
def test_a_budget_of_the_cube_is_exact(memory, used, claimed):
    budget = dataclasses.replace(BUDGET, **{memory.lower(): claimed})
    found = breaches(budget=budget, used={**PLAN.used, memory: used})
    assert found == [f"{memory}: {used} bytes planned, {claimed} budgeted"]


@pytest.mark.parametrize(
    ("used", "claimed", "holds"),
    [(100_000, 99_999, False), (100_000, 100_000, True), (100_000, 110_000, True),
     (100_000, 110_001, False)],
)  # fmt: skip
def test_a_budget_of_the_unified_buffer_is_above_by_a_tenth_at_most(used, claimed, holds):
    assert vector(used, claimed) == (
        [] if holds else [f"UB: {used} bytes planned, {claimed} budgeted"]
    )


@pytest.mark.parametrize("memory", ["UB", "L1", "L0C"])
def test_more_than_the_part_has_is_one_planned_or_budgeted(memory):
    limit = PLAN.limits[memory]
    budget = dataclasses.replace(BUDGET, **{memory.lower(): limit + 1})
    full = f"{memory}: {limit + 1} bytes needed, {limit} available"
    assert full in breaches(budget=budget)
    assert full in breaches(used={**PLAN.used, memory: limit + 1})
    at_limit = dataclasses.replace(BUDGET, **{memory.lower(): limit})
    assert breaches(budget=at_limit, used={**PLAN.used, memory: limit}) == []


def test_other_cores_than_assumed_are_one():
    assert breaches(cube_cores=24) == ["the compiler knows 20 cube cores, 24 assumed"]
    assert breaches(vector_cores=20) == ["the compiler knows 20 cube cores, 20 assumed"]


# -- where it is found


@pytest.fixture(scope="module")
def proj_a() -> Compiled[AscendKernel]:
    (compiled,) = compile_chunk("Ascend910B3", PRESETS["FLASH"], segments=("proj_a",))
    return compiled


def held(compiled: Compiled[AscendKernel], part: str = "Ascend910B3", **launch: Any):
    changed = dataclasses.replace(compiled.launch, **launch)
    return gate.hold(dataclasses.replace(compiled, launches=(changed,)), "FLASH", part)


def test_the_rows_of_a_compiled_kernel_are_its_own(proj_a):
    row = held(proj_a)
    assert row.breaches == ()
    assert row.retries == ()
    assert (row.launches, row.code) == (1, proj_a.launch.code)
    assert row.compile_seconds == proj_a.launch.seconds > 0
    assert row.minimum_bytes == 2 * 8 * 4096 * (128 + 1024) + 4 * 128 * 8 * 1024


def test_what_the_compiler_said_is_held_against_the_kernel(proj_a):
    assert held(proj_a, retries=("gave up",)).breaches == ("compiler retried: gave up",)
    assert held(proj_a, retries=("gave up",)).retries == ("gave up",)


def test_the_part_says_how_many_cores_there_are(proj_a):
    breach = only(held(proj_a, part="Ascend910B1").breaches)
    assert breach == "the compiler knows 20 cube cores, 24 assumed"


@pytest.mark.parametrize(
    ("old", "new", "breach"),
    [
        ("module_core_type<AIC>", "module_core_type<MIX>", "compiled for MIX, claimed AIC"),
        ("module_core_type<AIC>", "module_core_type<AIC>, limit_sub_block_id0", "one vector core"),
        ('"CUBE_CORE_COUNT", 20', '"CUBE_CORE_COUNT", 24', "the compiler knows 24 cube cores"),
        ('"VECTOR_CORE_COUNT", 40', '"VECTOR_CORE_COUNT", 20', "the compiler knows 20 cube"),
        ('"L1_SIZE", 4194304', '"L1_SIZE", 1048576', "L1: 262144 bytes needed, 131072 avail"),
        ('"L0C_SIZE", 1048576', '"L0C_SIZE", 262144', "L0C: 65536 bytes needed, 32768 avail"),
    ],
)  # fmt: skip
def test_the_text_of_the_compiler_is_read(old, new, breach, proj_a):
    assert old in proj_a.launch.hivm
    found = only(held(proj_a, hivm=proj_a.launch.hivm.replace(old, new)).breaches)
    assert found.startswith(breach)


def test_a_load_that_does_not_take_turns_is_seen(proj_a):
    """Each load goes into the first of its pair of buffers, by way of views."""
    pairs = re.findall(r"(%\d+) = arith\.select %\d+, (%\d+), %\d+ : memref", proj_a.launch.hivm)
    assert len(pairs) == 2  # both operands
    for name, first in pairs:
        text = re.sub(rf"memref\.subview {name}\b", f"memref.subview {first}", proj_a.launch.hivm)
        breach = only(held(proj_a, hivm=text).breaches)
        assert re.fullmatch(r"load into L1 16x8x16x16xbf16 is not double-buffered", breach)


def test_the_end_of_a_buffer_is_its_place_and_its_size(proj_a):
    """One byte further and the plan is one byte larger."""
    plan = read_plan(proj_a.launch.hivm)
    assert plan.used == {"UB": 0, "L1": 262144, "L0C": 65536}


MIX = """\
module attributes {"CUBE_CORE_COUNT", 24 : i32, "VECTOR_CORE_COUNT", 48 : i32, "UB_SIZE", 8192 : \
i32, "L1_SIZE", 16384 : i32, "L0A_SIZE", 64 : i32, "L0C_SIZE", 32768 : i32, \
hivm.module_core_type = #hivm.module_core_type<MIX>} {
  func.func @k_infer_workspace_shape_function() -> index {
    %c98304 = arith.constant 98304 : index
  }
  func.func @k_mix_aic(%arg0: i64) {
    %c0 = arith.constant 0 : i64
    %c512 = arith.constant 512 : i64
    %0 = hivm.hir.pointer_cast(%c512) : memref<4x16x2xbf16, #hivm.address_space<cbuf>>
    %1 = hivm.hir.pointer_cast(%c0) : memref<4x16x2xbf16, #hivm.address_space<cbuf>>
    %2 = hivm.hir.pointer_cast(%c512) : memref<16x0xf32, #hivm.address_space<cc>>
    %3 = hivm.hir.pointer_cast(%c0) : memref<16xf32, #hivm.address_space<cc>>
    %4 = hivm.hir.pointer_cast(%c512) : memref<64xf32, #hivm.address_space<gm>>
    %5 = arith.select %x, %0, %1 : memref<4x16x2xbf16, #hivm.address_space<cbuf>>
    %6 = arith.select %x, %0, %4 : memref<4x16x2xbf16, #hivm.address_space<cbuf>>
    %7 = arith.select %x, %4, %0 : memref<4x16x2xbf16, #hivm.address_space<cbuf>>
    %cast = memref.cast %5 : memref<4x16x2xbf16> to memref<?x?x?xbf16>
    func.call @nd2nz_bfloat16_t(%arg3, %cast) : () -> ()
    func.call @nd2nz_bfloat16_t(%arg3, %1) : () -> ()
  }
  func.func @k_mix_aiv(%arg0: i64) {
    %c96 = arith.constant 96 : i64
    %0 = hivm.hir.pointer_cast(%c96) : memref<33xi1, #hivm.address_space<ub>>
    %1 = hivm.hir.pointer_cast(%c96) : memref<8xf32, #hivm.address_space<ub>>
    func.call @load_gm_to_ubuf_1d_float(%arg3, %1) : () -> ()
  }
}
"""


def test_a_plan_is_that_of_both_functions_of_a_pair():
    """Of an empty buffer nothing counts, of global memory neither; eight bits are a byte, and nine
    two."""
    assert read_plan(MIX) == MemoryPlan(
        core="MIX",
        used={"UB": 96 + 32, "L1": 512 + 256, "L0C": 64},
        limits={"UB": 1024, "L1": 2048, "L0C": 4096},
        doubled=("L1 4x16x2xbf16",),
        single_loads=("L1 4x16x2xbf16",),
        workspace=98304,
        one_vector_core=False,
        cube_cores=24,
        vector_cores=48,
    )
    bits = MIX.replace("<8xf32", "<25xi1").replace("<33xi1", "<24xi1")
    assert read_plan(bits).used["UB"] == 96 + 4
    assert read_plan(MIX.replace("workspace", "task")).workspace == 0


def test_a_text_without_a_core_is_refused():
    with pytest.raises(ValueError, match=r"no hivm\.module_core_type"):
        read_plan("module {}")


# -- what the compiler says beside its text


def compiled_with(monkeypatch: pytest.MonkeyPatch, stderr: str, writes: bool = True) -> Any:
    """A launch compiled once more, by a compiler that says this; and its command."""
    asked: list[list[str]] = []

    def run(command: list[str], cwd: Any, **rest: Any) -> Any:
        asked.append(command)
        assert (cwd / command[1]).read_text() == "x"
        assert f"--save-temps={cwd}" in command
        if writes:
            (cwd / "module.hivm.opt.mlir").write_text("final")
        return subprocess.CompletedProcess(command, 1, "", stderr)

    monkeypatch.setattr(compiler.subprocess, "run", run)
    options = SimpleNamespace(**dict.fromkeys(compiler._FLAGS))
    options.multibuffer, options.tile_mix_cube_loop = True, 2
    stages = {"ttadapter": 'x, mix_mode = "aic"', "ttir": "y"}
    launch = AscendKernel(stages=stages, options=options, retries=("before",))
    return compiler.recompiled(launch, "Ascend910B3"), asked[0]


def test_a_retry_is_read_off_the_compilers_words(monkeypatch):
    said = "[NOTE] UB overflow, retrying compilation without multi buffer\nother\n"
    again, command = compiled_with(monkeypatch, said)
    assert again.hivm == "final"
    assert again.retries == ("UB overflow, retrying compilation without multi buffer",)
    flags = [flag for flag in command if flag.startswith("--") and "save-temps" not in flag]
    assert flags == [
        "--target=Ascend910B3",
        "--enable-auto-multi-buffer=true",
        "--tile-mix-cube-loop=2",
        *(f"--{flag}=true" for flag in compiler._ALWAYS),
    ]
    assert compiled_with(monkeypatch, "[NOTE] nothing of that kind")[0].retries == ()


def test_the_flags_are_those_that_triton_ascend_gives():
    """Each option's by its name, and what it always gives: read off its source."""
    source = inspect.getsource(ascend.linalg_to_bin_enable_npu_compile_A2_A3)
    given = re.findall(r'(\w+) = metadata\["(\w+)"\].*?"--([\w-]+)=\{\1\}', source, re.DOTALL)
    assert {option: flag for _, option, flag in given} == compiler._FLAGS
    assert {*compiler._ALWAYS} == {*re.findall(r'"--([\w-]+-compile)=true"', source)}


@pytest.mark.parametrize(
    ("said", "refusal"),
    [("hivmc not found\n[NOTE] again\nx: error: large\n", "[NOTE] again\nx: error: large"),
     ("killed", "killed")],
)  # fmt: skip
def test_without_a_text_the_errors_are_the_refusal(said, refusal, monkeypatch):
    with pytest.raises(RuntimeError, match=f"^{re.escape(refusal)}$"):
        compiled_with(monkeypatch, said, writes=False)


def test_an_overflow_is_in_bytes():
    kernel = AscendKernel(refusal="error: ub overflow, requires 1600 bits while 800 bits available")
    assert kernel.overflow == ("UB", 200, 100)
    assert AscendKernel(refusal="error: else").overflow is None
    row = gate.hold(Compiled("proj_a", ProjATiles(), (kernel,)), "FLASH", "Ascend910B3")
    assert row.breaches == ("UB overflow: 200 bytes needed, 100 available",)
    plain = gate.hold(
        Compiled("proj_a", ProjATiles(), (AscendKernel(refusal=" no "),)), "FLASH", "Ascend910B3"
    )
    assert plain.breaches == ("no",)
