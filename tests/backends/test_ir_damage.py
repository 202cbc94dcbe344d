"""Would the model see it? Damage done to the final IR, each seen by the name of its finding."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl

from dsv4_kernels import device
from dsv4_kernels.backends.hivm.report import Report, Stopped
from dsv4_kernels.gates.ascend.against_cpu import same_bytes
from dsv4_kernels.gates.ascend.compiler import AscendKernel
from dsv4_kernels.gates.ascend.execute import ExecutingDriver, How, execute, executing
from on_model import FULL, PARTIAL, cases

PART = "Ascend910B3"


@functools.cache
def launch_of(segment: str, tiles: str) -> AscendKernel:
    """A segment's launch on two cube cores, with arguments of its own."""
    dims, tokens = {"partial": (PARTIAL, 3), "full": (FULL, 128)}[tiles]
    launches: list[AscendKernel] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExecutingDriver, "launched", lambda self, launch: launches.append(launch))
        with executing(PART, cube_cores=2):
            cases(dims, tokens=tokens, live=tokens - 1)[segment]()
    return launches[0]


def tensors(launch: AscendKernel) -> dict[str, torch.Tensor]:
    return {k: v for k, v in launch.arguments.items() if isinstance(v, torch.Tensor)}


def run(launch: AscendKernel, how: How = How()) -> tuple[Report, dict[str, torch.Tensor]]:
    """What is found, and what tensors hold then; the launch's own stay as they are."""
    mine = {name: tensor.clone() for name, tensor in tensors(launch).items()}
    try:
        report = execute(replace(launch, arguments={**launch.arguments, **mine}), PART, how)
    except Stopped as stopped:
        report = stopped.report
    return report, mine


# -- a wait that holds nothing up

# Waits and barriers whose absence is a race, of each kernel; the rest only drain pipes at the end,
# order what others order already, or guard what these workloads do not do. One fewer than here and
# the model has gone blind somewhere, or the kernel has changed: look, then count again.
REPORTED = {
    ("gather_kv", "partial"): 3,
    ("qk_softmax_pv", "partial"): 18,
    ("merge_finish", "partial"): 36,
    ("inverse_rope", "partial"): 11,
    ("proj_a", "partial"): 5,
    ("group_quant", "partial"): 17,
    ("proj_b", "partial"): 4,
    ("dequant_sum", "partial"): 20,
    ("row_quant", "partial"): 17,
    ("proj_b_dequant", "partial"): 22,
    ("proj_a", "full"): 4,
    ("proj_b", "full"): 4,
}


def waits(launch: AscendKernel) -> list[int]:
    """Their lines in the IR, but for those that wait for everything."""
    kinds = r"hir\.(wait_flag|sync_block_wait|pipe_barrier)\["
    lines = enumerate(launch.hivm.splitlines(), 1)
    return [n for n, line in lines if re.search(kinds, line) and "PIPE_ALL" not in line]


def test_enough_waits_are_tried():
    assert sum(REPORTED.values()) >= 40


@pytest.mark.parametrize(("segment", "tiles"), REPORTED)
def test_a_missing_wait_is_a_race(segment, tiles):
    launch = launch_of(segment, tiles)
    assert not run(launch)[0].findings
    kinds = {n: run(launch, How(deaf={n}))[0].kinds() for n in waits(launch)}
    assert not any("flag left" in found for found in kinds.values())  # it is taken all the same
    seen = [n for n, found in kinds.items() if "race" in found]
    assert len(seen) >= REPORTED[segment, tiles], f"{len(seen)} of {len(waits(launch))}"


@pytest.mark.parametrize("segment", ["qk_softmax_pv", "group_quant"])
def test_no_order_shows_a_missing_wait_that_the_clocks_do_not(segment):
    launch = launch_of(segment, "partial")
    _, right = run(launch)
    unseen = [n for n in waits(launch) if not run(launch, How(deaf={n}))[0].findings]
    assert unseen
    for line in unseen:
        _, got = run(launch, How(seed=line, checked=False, deaf={line}))
        assert all(same_bytes(got[name], right[name]) for name in right), line


def test_a_random_order_is_another_order():
    """Without any wait the results are right in the text's order, and wrong in others."""
    launch = launch_of("group_quant", "partial")
    _, right = run(launch)
    lines = frozenset(waits(launch))
    for seed in (None, 0, 1):
        _, got = run(launch, How(seed=seed, checked=False, deaf=lines))
        assert all(same_bytes(got[k], right[k]) for k in right) == (seed is None), seed


# -- other damage to the text, of the kernel that keeps cube and vector cores in step


def nth(pattern: str, new: str, n: int = 0) -> Callable[[str], str]:
    """Replaces the n-th match."""

    def damage(text: str) -> str:
        found = [*re.finditer(pattern, text)][n]
        return text[: found.start()] + found.expand(new) + text[found.end() :]

    return damage


def every(pattern: str, new: str) -> Callable[[str], str]:
    return lambda text: re.sub(pattern, new, text)


# Both buffers that iterations take in turns: of KV, then of q.
PAIR = r"(arith\.select %\d+), (%\d+), (%\d+)( : memref<\S+, #hivm\.address_space<cbuf>>)"


def q_over_kv(text: str) -> str:
    """q's second buffer in L1 at the address of KV's first."""
    kv, q = (m[2] for m in [*re.finditer(PAIR, text)][:2])
    address = re.search(rf"{kv} = hivm\.hir\.pointer_cast\((%\w+)\)", text)
    assert address
    return re.sub(rf"({q} = hivm\.hir\.pointer_cast)\(%\w+\)", rf"\1({address[1]})", text, count=1)


def scratch_on_result(text: str) -> str:
    """The first reduction's scratch at the address of its result."""
    call = re.search(r"@enablevc_reduce_max_ar_float\(%\w+, (%\w+), (%\w+),", text)
    assert call
    result, scratch = (
        re.search(rf"{name} = memref\.cast (%\w+)", text)[1]  # type: ignore[index]
        for name in call.groups()
    )
    address = re.search(rf"{result} = hivm\.hir\.pointer_cast\((%\w+)\)", text)
    assert address
    return re.sub(
        rf"({scratch} = hivm\.hir\.pointer_cast)\(%\w+\)( : memref<1024xf32)",
        rf"\1({address[1]})\2",
        text,
        count=1,
    )


# The parts of a program's workspace: P at its start, S behind it.
S_IN_WORKSPACE = r"affine_map<\(d0\) -> \(d0 \* (\d+) \+ (\d+)\)>"

DAMAGE: dict[str, tuple[Callable[[str], str], set[str]]] = {
    "q's second buffer in L1 on KV's first": (q_over_kv, {"race"}),
    "both buffers of KV the same": (nth(PAIR, r"\1, \3, \3\4", 0), {"race"}),
    "both buffers of q the same": (nth(PAIR, r"\1, \3, \3\4", 1), {"race"}),
    "S on P in the workspace": (
        every(S_IN_WORKSPACE, r"affine_map<(d0) -> (d0 * \1)>"),
        {"race"},
    ),
    "every program's S in one place": (
        every(S_IN_WORKSPACE, r"affine_map<(d0) -> (d0 * 0 + \2)>"),
        {"race"},
    ),
    "S on what the accumulator held": (
        nth(r"(call @mma_tile_bfloat16_t_to_float_tb\(%\w+, %\w+), %true", r"\1, %false"),
        {"unwritten"},
    ),
    "both vector cores take the lower half": (
        every(r"affine_map<\(\)\[s0\] -> \(s0 \* 16\)>", "affine_map<()[s0] -> (s0 * 0)>"),
        {"race", "unwritten"},
    ),
    "S announced before it is stored": (
        every(r"sync_block_set\[<CUBE>, <PIPE_FIX>", "sync_block_set[<CUBE>, <PIPE_MTE2>"),
        {"race"},
    ),
    "P announced before it is stored": (
        every(r"sync_block_set\[<VECTOR>, <PIPE_MTE3>", "sync_block_set[<VECTOR>, <PIPE_V>"),
        {"race"},
    ),
    "KV's buffer given back by another event": (
        nth(r"(set_flag\[<PIPE_MTE1>, <PIPE_MTE2>), %\w+\]", r"\1, <EVENT_ID2>]"),
        {"deadlock"},
    ),
    "a reduction's scratch on its result": (scratch_on_result, {"scratch alias"}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_seen_by_its_name(name):
    launch = launch_of("qk_softmax_pv", "partial")
    damage, kinds = DAMAGE[name]
    damaged = damage(launch.hivm)
    assert damaged != launch.hivm
    report, _ = run(replace(launch, hivm=damaged))
    assert kinds <= {*report.kinds()}, report


def test_what_other_pipes_order_is_no_finding():
    """o on S in L0C: the store of S is done before M begins with o."""
    launch = launch_of("qk_softmax_pv", "partial")
    o = r"(pointer_cast)\(%\w+\)( : memref<\S+, #hivm\.address_space<cc>>)"
    s = re.search(r"pointer_cast\((%\w+)\) : memref<\S+, #hivm\.address_space<cc>>", launch.hivm)
    assert s
    damaged = nth(o, rf"\1({s[1]})\2", 1)(launch.hivm)
    assert damaged != launch.hivm
    _, right = run(launch)
    report, got = run(replace(launch, hivm=damaged))
    assert not report.findings
    assert all(same_bytes(got[name], right[name]) for name in right)


def test_programs_that_share_are_named_so():
    launch = launch_of("qk_softmax_pv", "partial")
    damaged = DAMAGE["every program's S in one place"][0](launch.hivm)
    report, _ = run(replace(launch, hivm=damaged))
    assert any("of another program" in finding.what for finding in report.findings)


def test_a_flag_that_nobody_sets_is_a_deadlock():
    launch = launch_of("group_quant", "partial")
    line = next(x for x in launch.hivm.splitlines() if "hir.set_flag[" in x)
    with pytest.raises(Stopped, match=r"deadlock.*waits for"):
        execute(replace(launch, hivm=launch.hivm.replace(line, "", 1)), PART)


def test_a_flag_that_nobody_takes_is_left():
    launch = launch_of("group_quant", "partial")
    lines = launch.hivm.splitlines()
    last = max(n for n, line in enumerate(lines) if "hir.wait_flag[" in line)
    report, _ = run(replace(launch, hivm="\n".join(lines[:last] + lines[last + 1 :])))
    assert {*report.kinds()} == {"flag left"}


def test_a_tensor_that_is_too_short_is_out_of_bounds():
    launch = launch_of("group_quant", "partial")
    cut = launch.arguments["o_r_ptr"].reshape(-1)[:-8].clone()
    with pytest.raises(Stopped, match="out of bounds"):
        execute(replace(launch, arguments={**launch.arguments, "o_r_ptr": cut}), PART)


@triton.jit(do_not_specialize=["N"])
def _reload_kernel(x_ptr, y_ptr, N, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    for task in range(tl.program_id(0), N, tl.num_programs(0)):
        tl.store(x_ptr + task * BLOCK + i, i)
        tl.store(y_ptr + i, i + tl.load(x_ptr + task * BLOCK + task))


def test_a_scalar_load_of_what_the_launch_wrote_is_named():
    """It may come from the data cache: nothing here orders that."""
    x, y = torch.zeros(64, dtype=torch.int32), torch.zeros(32, dtype=torch.int32)
    with executing(PART, cube_cores=1) as reports, device.on(x):
        _reload_kernel[(1,)](x, y, 2, BLOCK=32)
    assert "cached load" in reports[0].kinds()


@triton.jit(do_not_specialize=["N"])
def _increment_kernel(x_ptr, N, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    for _ in range(N):
        tl.store(x_ptr + i, tl.load(x_ptr + i) + 1)


def test_a_tensor_that_is_read_and_then_written_needs_order():
    """One program is in order by the compiler's care; two of them are not."""
    x = torch.zeros(64)
    for programs, found in ((1, set()), (2, {"race"})):
        with executing(PART, cube_cores=2) as reports, device.on(x):
            _increment_kernel[(programs,)](x, 1, BLOCK=64)
        assert {*reports[0].kinds()} == found
        said = [finding.what for finding in reports[0].findings]
        reads = sum(what.startswith("read by") for what in said)
        assert (reads > 0) == (programs == 2), said


# -- a trap of the compiler: an accumulator whose loop does not run


@triton.jit(do_not_specialize=["N"])
def _dot_kernel(a_ptr, b_ptr, count_ptr, o_ptr, N, K: tl.constexpr, M: tl.constexpr):
    i, k = tl.arange(0, M), tl.arange(0, K)
    for task in range(tl.program_id(0), N, tl.num_programs(0)):
        acc = tl.zeros((M, M), tl.float32)
        for step in range(tl.load(count_ptr + task)):
            a = tl.load(a_ptr + (task * 2 + step) * M * K + i[:, None] * K + k[None, :])
            b = tl.load(b_ptr + i[:, None] * K + k[None, :])
            acc = tl.dot(a, tl.trans(b), acc)
        tl.store(o_ptr + task * M * M + i[:, None] * M + i[None, :], acc)


def dots(counts: list[int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 2, 32, 64, generator=generator).bfloat16()
    b = torch.randn(32, 64, generator=generator).bfloat16()
    o = torch.full((3, 32, 32), torch.nan)
    with device.on(a):
        _dot_kernel[(1,)](a, b, torch.tensor(counts, dtype=torch.int32), o, 3, K=64, M=32)
    return o


def on_model(counts: list[int], how: How = How()) -> tuple[torch.Tensor, Report]:
    with executing(PART, cube_cores=1, how=how) as reports:
        return dots(counts), reports[0]


def test_an_accumulator_whose_loop_runs_is_the_cpu_path_s():
    got, report = on_model([1, 2, 1])
    assert not report.findings
    assert torch.equal(got, dots([1, 2, 1]))


def test_an_accumulator_whose_loop_does_not_run_is_not_zero():
    """Why contracts ask for J >= 1 and R >= 1: on the CPU path it is."""
    assert (dots([2, 0, 1])[1] == 0).all()
    after, _ = on_model([2, 0, 1])
    assert torch.equal(after[1], after[0])  # what was there before
    first, report = on_model([0, 1, 2])
    assert first[0].isnan().all()
    assert {*report.kinds()} == {"unwritten"}
    lucky, report = on_model([0, 1, 2], How(poison=0))
    assert (lucky[0] == 0).all()
    assert {*report.kinds()} == {"unwritten"}
