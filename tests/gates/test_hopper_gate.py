"""The gate for Hopper: what it reads and what it calls a breach; with upstream Triton, the gate."""

import dataclasses
import importlib.util
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from dsv4_kernels.__main__ import main
from dsv4_kernels.device import Target, cuda_target
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates.batches import Batch
from dsv4_kernels.gates.chunk import Compiled
from dsv4_kernels.gates.hopper import compiler, gate, ptxas
from dsv4_kernels.gates.hopper.compiler import CompileOnlyDriver, HopperKernel
from dsv4_kernels.gates.hopper.gate import SHARED_LIMIT, HopperRow, hold, hold_batch
from dsv4_kernels.gates.hopper.ptxas import Assembly, assemble, read_log
from dsv4_kernels.gates.options import chosen_tiles
from dsv4_kernels.segments import SEGMENTS
from dsv4_kernels.segments.merge_norm import MergeNormTiles
from dsv4_kernels.segments.proj_a import ProjATiles
from dsv4_kernels.segments.segment import Segment

UPSTREAM = importlib.util.find_spec("triton.backends.nvidia") is not None
with_upstream = pytest.mark.skipif(not UPSTREAM, reason="upstream Triton's: make hopper-gate")
without_upstream = pytest.mark.skipif(UPSTREAM, reason="for triton-ascend's environment")

LOG = """\
ptxas info    : 0 bytes gmem
ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized \
due to insufficient register resources for the wgmma pipeline in the function '_k'
ptxas info    : Compiling entry function '_k' for 'sm_90a'
ptxas info    : Function properties for _k
    3408 bytes stack frame, 6324 bytes spill stores, 6328 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 3408 bytes cumulative stack size
ptxas info    : Compile time = 31.692 ms
"""
WGMMA = "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%f1}, %rd1, %rd2, %p1, 1, 1, 0, 0;"
FITS = Assembly(registers=96, spill_stores=0, spill_loads=0)


def compiled(segment="proj_a", tiles=None, **launch):
    made = dict(kernel="_k", grid=128, num_warps=8, num_stages=4, shared=196608, ptx=WGMMA)
    return Compiled(segment, tiles or ProjATiles.cuda(), (HopperKernel(**made | launch),))


def breaches(assembly=FITS, **what):
    return hold(compiled(**what), "FLASH", assembly).breaches


def only(found):
    assert len(found) == 1, found
    return found[0]


# -- what is read


def test_the_log_of_ptxas_is_read():
    read = read_log(LOG)
    assert (read.registers, read.spill_stores, read.spill_loads) == (255, 6324, 6328)
    (given_up,) = read.given_up
    assert given_up.startswith("(C7511) Potential Performance Loss: wgmma.mma_async")
    assert given_up.endswith("in the function '_k'")
    clean = LOG.replace("6324", "0").replace("6328", "0").replace("(C7511) Potential", "")
    assert read_log(clean) == Assembly(255, 0, 0)


@pytest.mark.parametrize("log", ["", "ptxas fatal   : Unresolved extern function", LOG + LOG])
def test_what_is_not_the_log_of_one_kernel_is_an_error(log):
    with pytest.raises(ValueError, match="not the log of one kernel"):
        read_log(log)


def test_what_is_assembled_is_for_the_part_that_it_names(monkeypatch):
    """With the flags that Triton gives; what the assembler refuses is no log."""
    text = ".version 8.7\n.target sm_90a\n"
    asked = []

    def run(command, input, **rest):
        asked.append((command, input))
        return subprocess.CompletedProcess(command, int(len(asked) > 1), "", LOG)

    monkeypatch.setattr(ptxas.subprocess, "run", run)
    assert assemble(text, Path("there") / "ptxas") == read_log(LOG)
    words = "there/ptxas -v -lineinfo --fmad=false --gpu-name=sm_90a - -o /dev/null"
    assert asked == [(words.split(), text)]
    with pytest.raises(RuntimeError, match="ptxas: ptxas info"):
        assemble(text, Path("ptxas"))
    with pytest.raises(ValueError, match=r"no \.target"):
        assemble("nonsense", Path("ptxas"))


def test_a_launch_is_recorded_as_it_was_asked_for(monkeypatch, tmp_path):
    """With the PTX of Triton's cache, for compute capability 9.0."""
    driver = CompileOnlyDriver("sm_90")
    (tmp_path / "source.ptx").write_text(WGMMA)
    files = {"source.ptx": str(tmp_path / "source.ptx")}
    monkeypatch.setattr(compiler, "get_cache_manager", lambda of: {"its": SimpleNamespace(
        get_file=files.get)}[of])  # fmt: skip
    metadata = SimpleNamespace(hash="its", name="_k", num_warps=8, num_stages=3, shared=512)
    launch = driver.launcher_cls(SimpleNamespace(name="source"), metadata)
    launch(2, 3, 4, "stream", "more")
    assert driver.launches == [HopperKernel("_k", 24, 8, 3, 512, WGMMA)]
    files.clear()
    with pytest.raises(FileNotFoundError, match="no PTX of `_k`"):
        launch(1, 1, 1)
    target = driver.get_current_target()
    assert (target.backend, target.arch, target.warp_size) == ("cuda", 90, 32)


def test_wgmma_is_counted_by_shape():
    other = "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {%r1}"
    row = hold(compiled(ptx=f"{WGMMA}\n{other}\n{WGMMA}\n"), "FLASH", FITS)
    assert row.wgmma == {"m64n64k16.f32.bf16.bf16": 2, "m64n128k32.s32.s8.s8": 1}


# -- what is a breach


def test_what_fits_is_none():
    assert breaches() == ()
    assert breaches(shared=SHARED_LIMIT) == ()


def test_too_much_shared_memory_is_one_with_both_numbers():
    assert SHARED_LIMIT == 232448
    assert breaches(shared=245760) == ("shared memory: 245760 bytes needed, 232448 available",)


@pytest.mark.parametrize(("stores", "loads"), [(16, 12), (16, 0), (0, 12)])
def test_a_spill_is_one(stores, loads):
    breach = only(breaches(Assembly(registers=255, spill_stores=stores, spill_loads=loads)))
    assert f"{stores} bytes stored and {loads} loaded" in breach


def test_what_the_assembler_gave_up_is_one():
    breach = only(
        breaches(Assembly(96, 0, 0, given_up=("(C7510) Potential Performance Loss: ...",)))
    )
    assert "C7510" in breach


def test_a_dot_without_wgmma_is_one_and_a_vector_kernel_needs_none():
    assert breaches(ptx="mma.sync.aligned.m16n8k16") == (
        "a kernel with a dot, compiled without wgmma",
    )
    assert breaches(segment="merge_norm", tiles=MergeNormTiles.cuda(), ptx="add.f32") == ()


@pytest.mark.parametrize(
    ("num_warps", "registers", "shared", "resident"),
    [
        (8, 96, 192 * 1024, 1),  # shared memory: 228 KiB, less one for each
        (4, 246, 96 * 1024, 2),  # registers: 248 x 128 are 31 744 of 65 536
        (8, 135, 96 * 1024, 1),  # registers: 136 x 256 are 34 816
        (4, 81, 1024, 5),  # registers: given out by 8, 88 x 128 are 11 264
        (4, 26, 16, 16),  # threads: 2048
        (8, 16, 0, 8),  # threads again, where registers are for 16
        (1, 8, 7 * 1024, 28),  # shared memory: 8 KiB with the system's
        (1, 42, 0, 32),  # programs
        (8, 96, 240 * 1024, 0),
    ],
)
def test_resident_programs(num_warps, registers, shared, resident):
    launch = compiled(num_warps=num_warps, shared=shared)
    assert hold(launch, "FLASH", Assembly(registers, 0, 0)).resident == resident


def test_a_row_has_what_the_launch_was_asked_for():
    """Of the first launch; how many there are is a number of its own."""
    launches = (*compiled().launches, HopperKernel(grid=9, num_warps=1, ptx=WGMMA))
    kernel = dataclasses.replace(compiled(), launches=launches, label="proj_a[0:4]")
    assert hold(kernel, "FLASH", FITS) == HopperRow(
        "proj_a", "proj_a[0:4]", "FLASH", (), launches=2, grid=128, num_warps=8, num_stages=4,
        shared=196608, assembly=FITS, wgmma={"m64n64k16.f32.bf16.bf16": 1}, resident=1,
    )  # fmt: skip


def test_a_chunk_is_the_presets_with_the_tiles_that_are_asked_for(monkeypatch):
    asked = []
    target, tiles = cuda_target("sm_90"), {"proj_a": ProjATiles.cuda()}
    monkeypatch.setattr(compiler, "require_upstream", lambda: Path("there"))
    monkeypatch.setattr(compiler, "driver", lambda: SimpleNamespace(part="sm_90"))
    monkeypatch.setattr(gate, "assemble", lambda *what: FITS)

    def record_chunk(*what, **options):
        asked.append((*what, options))
        return [compiled()]

    monkeypatch.setattr(gate, "record_chunk", record_chunk)
    assert gate.hold_chunk("PRO", tiles) == [hold(compiled(), "PRO", FITS)]
    assert asked == [(target, compiler.driver(), PRESETS["PRO"], {"tiles": tiles})]


def test_a_kernel_without_ptx_is_a_breach_in_the_compilers_words(monkeypatch):
    monkeypatch.setattr(compiler, "require_upstream", lambda: Path("there"))
    asked = []
    monkeypatch.setattr(gate, "assemble", lambda *what: asked.append(what) or FITS)
    whole, refused = gate._held([compiled(), compiled(ptx="", refusal=" no \n")], "PRO")
    assert asked == [(WGMMA, Path("there") / "bin" / "ptxas")]
    assert whole == hold(compiled(), "PRO", FITS)
    assert refused == HopperRow("proj_a", "", "PRO", ("no",))


# -- tiles and the command


def test_tiles_are_those_of_the_device_and_warps_are_a_gpus():
    chosen = chosen_tiles(["proj_a.num_warps=8"], cuda_target("sm_90"))
    own = ProjATiles.cuda()
    assert chosen == {"proj_a": dataclasses.replace(own, num_warps=8)}
    assert (own.block_r, own.num_warps) == (64, 4)
    assert own != ProjATiles()
    with pytest.raises(ValueError, match="unknown tile of proj_a 'num_warps'"):
        chosen_tiles(["proj_a.num_warps=4"], Target("npu", "Ascend910B3", 20, 40))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--segment", "proj_c"], "unknown segment 'proj_c': known are resolve_slots"),
        (["--tile", "proj_a.block_x=3"], "unknown tile of proj_a 'block_x': known are"),
        (["--tile", "proj_a.num_stages=many"], "must end in a whole number"),
        pytest.param([], "needs upstream triton, which this environ", marks=without_upstream),
    ],
)
def test_what_cannot_be_done_is_one_sentence(arguments, sentence, capsys):
    assert main(["hopper", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


# -- with upstream Triton


def rows_of(capsys, *arguments):
    code = main(["hopper", "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)["segments"]


@with_upstream
@pytest.mark.parametrize("preset", ["FLASH", "PRO"])
def test_every_segment_keeps_its_claims(preset, capsys):
    code, rows = rows_of(capsys, "--preset", preset)
    assert code == 0
    assert {row["segment"] for row in rows} == {*SEGMENTS}
    assert {row["label"] for row in rows} > {"proj_a", "dequant_sum[0:4]", "proj_b_dequant fp32"}
    bf16 = ("qk_softmax_pv", "attend_rows", "qk", "pv", "proj_a", "proj_a_heads")
    types = {name: {"f32.bf16.bf16"} for name in bf16}
    types |= {name: {"s32.s8.s8"} for name in ("proj_b", "proj_b_dequant")}
    for row in rows:
        found = {shape.split(".", 1)[1] for shape in row["wgmma"]}
        assert found == types.get(row["segment"], set())
        assert row["resident"] >= 1


@with_upstream
@pytest.mark.parametrize(
    "batch",
    [Batch(8, 8), Batch(16, 64), Batch(64, 64, "SWA"), Batch(128, 64, "HCA")],
    ids=lambda batch: batch.name,
)
def test_the_kernels_of_a_batch_keep_their_claims(batch):
    """Of sparse_attn, its two resolvers among them."""
    rows = hold_batch(batch, [*SEGMENTS], {})
    assert {row.segment for row in rows} >= {"token_map", "resolve_requests", "qk_softmax_pv"}
    assert {row.preset for row in rows} == {batch.name}
    for row in rows:
        assert row.breaches == (), row.label


@with_upstream
def test_an_oversized_tile_is_a_breach_with_both_numbers(capsys):
    one = ["--preset", "FLASH", "--segment", "proj_a", "--tile"]
    code, (row,) = rows_of(capsys, *one, "proj_a.num_stages=8")
    needed = 8 * (64 + 64) * 128 * 2
    assert code == 1
    assert row["breaches"] == [f"shared memory: {needed} bytes needed, 232448 available"]


@with_upstream
def test_too_few_warps_spill_and_serialise(capsys):
    one = ["--preset", "FLASH", "--segment", "qk_softmax_pv", "--tile"]
    code, (row,) = rows_of(capsys, *one, "qk_softmax_pv.num_warps=4")
    assert code == 1
    spills, serialised = row["breaches"]
    assert spills.startswith("spills: ")
    assert "wgmma.mma_async instructions are serialized" in serialised


@with_upstream
def test_a_kernel_that_the_compiler_refuses_is_a_breach(capsys, monkeypatch):
    """One that the checks of tiles would have refused before."""
    monkeypatch.setattr(Segment, "_checked_tiles", lambda segment, contract, tiles: tiles)
    one = ["--preset", "FLASH", "--segment", "proj_a", "proj_b", "--tile"]
    code, rows = rows_of(capsys, *one, "proj_a.block_r=33")
    assert code == 1
    assert ["power of 2" in "".join(row["breaches"]) for row in rows] == [True, False]


@with_upstream
def test_the_assembler_refuses_what_is_no_kernel():
    from dsv4_kernels.gates.hopper.compiler import require_upstream

    ptxas = require_upstream() / "bin" / "ptxas"
    with pytest.raises(RuntimeError, match="ptxas: "):
        assemble(".version 8.7\n.target sm_90a\nnonsense", ptxas)
    with pytest.raises(ValueError, match=r"no \.target"):
        assemble("nonsense", ptxas)
