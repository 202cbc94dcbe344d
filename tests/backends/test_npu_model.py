"""Every segment as final Ascend IR on the model of the cores, against the CPU path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dsv4_kernels import group_quant, prefill_sparse_attn
from dsv4_kernels.backends.hivm.instruction import Work
from dsv4_kernels.backends.hivm.machine import library
from dsv4_kernels.backends.hivm.memory import Space, dense, from_bf16, to_bf16
from dsv4_kernels.backends.hivm.report import Report, Stopped
from dsv4_kernels.backends.hivm.scalar import functions
from dsv4_kernels.backends.hivm.vector import is_aligned
from dsv4_kernels.chains.prefill import SCHEDULES, wave_nodes
from dsv4_kernels.gates.ascend import execute
from dsv4_kernels.gates.ascend.against_cpu import difference, same_bytes
from dsv4_kernels.gates.ascend.execute import How, executing
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments import SEGMENTS, inverse_rope, merge_norm
from on_model import FULL, ON_ASCEND, PARTIAL, Case, cases

PART = "Ascend910B3"
SMALL = cases(PARTIAL, tokens=5, live=4)


def _full_tiles() -> dict[str, Case]:
    """128 rows of tokens fill a tile of the projections; the others have tiles of their own."""
    few, many = cases(FULL, tokens=8, live=7), cases(FULL, tokens=128, live=127)
    return {name: (many if name in PROJECTIONS else few)[name] for name in ON_ASCEND}


PROJECTIONS = ("proj_a", "proj_a_heads", "proj_b", "proj_b_dequant")
FULL_TILES = _full_tiles()


def on_model(run, how=How()):
    with executing(PART, cube_cores=2, how=how) as reports:
        return run(), reports


@pytest.mark.parametrize("segment", ON_ASCEND)
def test_a_segment_equals_the_cpu_path_and_nothing_is_found(segment):
    for run in (SMALL[segment], FULL_TILES[segment]):
        got, (report,) = on_model(run)
        want = run()
        assert not report.findings, report
        for name, value in want.items():
            assert same_bytes(got[name], value), name


@pytest.mark.parametrize(("columns", "sharers"), [(144, 1), (144, 4), (192, 4)])
@pytest.mark.parametrize("segment", ["resolve_slots", "gather_kv", "qk", "softmax", "pv"])
def test_short_rows_equal_the_cpu_path_and_nothing_is_found(segment, columns, sharers):
    """Tiles of both blocks, of one and of none; a last tile that is not full."""
    dims = replace(PARTIAL, index_topk=columns - PARTIAL.window - 5)
    for width in (64, 128):
        run = cases(
            replace(dims, head_dim=width), tokens=9, live=9, columns=columns, sharers=sharers
        )[segment]
        got, (report,) = on_model(run)
        want = run()
        assert not report.findings, report
        for name, value in want.items():
            assert same_bytes(got[name], value), name


@pytest.mark.parametrize("segment", PROJECTIONS)
def test_the_tiles_of_few_tokens_add_in_the_same_parts(segment):
    run = cases(FULL, tokens=8, live=7)[segment]
    got, (report,) = on_model(run)
    want = run()
    assert not report.findings, report
    assert all(same_bytes(got[name], value) for name, value in want.items())


def test_only_the_sum_of_pv_is_rounded_otherwise():
    """A head as wide as the models' takes its 128 columns in four parts."""
    run = cases(replace(PARTIAL, head_dim=512), tokens=3, live=2)["qk_softmax_pv"]
    got, (report,) = on_model(run)
    want = run()
    assert not report.findings
    assert [name for name in want if not same_bytes(got[name], want[name])] == ["o"]
    assert difference(got["o"], want["o"]) <= SEGMENTS["qk_softmax_pv"].rounded["o"]


def test_columns_that_no_product_was_written_to_reach_nobody():
    """The first tile of a core is narrower than the buffer that is copied to the workspace."""
    run = cases(replace(PARTIAL, hidden=20), tokens=5, live=4)["proj_b_dequant"]
    got, (report,) = on_model(run)
    assert not report.findings, report
    assert same_bytes(got["attn_out"], run()["attn_out"])


def test_shorter_rows_than_the_contract_takes_would_race(monkeypatch):
    monkeypatch.setattr(inverse_rope, "MIN_ROPE_DIM", 2)
    case = cases(replace(PARTIAL, rope_dim=8), tokens=5, live=4)["inverse_rope"]
    _, (report,) = on_model(case)
    assert {*report.kinds()} == {"race"}


def test_shorter_rows_than_the_contract_takes_would_be_unaligned(monkeypatch):
    monkeypatch.setattr(merge_norm, "MIN_ROPE_DIM", 2)
    case = cases(replace(PARTIAL, rope_dim=4), tokens=5, live=4)["merge_norm"]
    _, (report,) = on_model(case)
    assert {*report.kinds()} == {"unaligned"}


# -- parts of the model


def loaded(mode, value):
    """What a load of three 5s into 16 floats, all 9, says that it writes, and what they are."""
    gm, ub = (Space(name, np.zeros(64, np.uint8)) for name in ("gm:x", "ub"))
    dense(gm, 0, (3,), "f32").put(5)
    dense(ub, 0, (16,), "f32").put(9)
    make, name = library("load_gm_to_ubuf_1d_float")
    views = (dense(gm, 0, (3,), "f32"), dense(ub, 0, (3,), "f32"))
    (load,) = make(None, name, (*views, mode, value, 0))
    assert isinstance(load, Work)
    load.run()
    (target,) = load.writes
    return target.shape, dense(ub, 0, (16,), "f32").get().tolist()


@pytest.mark.parametrize(("mode", "value"), [(0, 0), (2, 7)])
def test_a_load_fills_whole_blocks_behind_a_row(mode, value):
    shape, got = loaded(mode, 7.0)
    assert shape == (8,)  # what it is held to have written
    assert got == [5] * 3 + [value] * 5 + [9] * 8


@pytest.mark.parametrize(("axes", "shape"), [("ar", (6, 1)), ("ra", (1, 8)), ("ara", (2, 1, 8))])
def test_a_reduction_is_along_the_axis_that_its_name_says(axes, shape):
    ub = Space("ub", np.zeros(512, np.uint8))
    source = dense(ub, 0, (2, 3, 8) if axes == "ara" else (6, 8), "f32")
    target = dense(ub, 256, shape, "f32")
    values = np.arange(48, dtype=np.float32).reshape(source.shape)
    source.put(values)
    make, name = library(f"reduce_sum_{axes}_float")
    (instruction,) = make(None, name, (source, target, 0.0))
    assert isinstance(instruction, Work)
    instruction.run()
    assert (target.get() == values.sum(axes.index("r"), keepdims=True)).all()


def test_every_row_of_an_operand_is_on_32_bytes():
    ub = Space("ub", np.zeros(4096, np.uint8))
    assert is_aligned(dense(ub, 64, (3, 8), "f32"))
    assert not is_aligned(dense(ub, 0, (3, 10), "f32"))
    assert not is_aligned(dense(ub, 16, (1, 8), "f32"))
    assert is_aligned(dense(ub, 0, (1, 10), "f32"))  # one row


def test_bf16_rounds_as_torch_does():
    bits = np.arange(0, 2**32, 0x3FFF, dtype=np.uint32) & ~np.uint32(0xFFF)
    values = bits.view(np.float32)
    finite = values[~np.isnan(values)]
    want = torch.from_numpy(finite).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert (to_bf16(finite) == want).all()
    assert np.isnan(from_bf16(to_bf16(values[np.isnan(values)]))).all()


def stored(body, *arguments):
    """What scalar code stores, in its order. `%x`: a memory; its arguments are i64."""
    names = [f"%arg{i}: i64" for i in range(len(arguments))]
    module = f"""module attributes {{hivm.module_core_type = #hivm.module_core_type<AIV>}} {{
  func.func @k({", ".join(names)}) attributes {{x = 1}} {{
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c4 = arith.constant 4 : index
    %x = hivm.hir.pointer_cast(%c0) : memref<9xi64, #hivm.address_space<ub>>
    {body}
    return
  }}
}}
"""
    values = []

    class Core:
        def at(self, space, offset, shape, type):
            return None

        def store(self, value, view, index, line):
            values.append(value)

    (function,) = functions(module)
    assert [*function.run(Core(), *arguments)] == []
    return values


def test_a_loop_hands_on_what_it_carried():
    body = """%0 = scf.for %i = %c0 to %c4 step %c1 iter_args(%sum = %arg0) -> (i64) {
      %1 = arith.addi %sum, %sum : i64
      scf.yield %1 : i64
    }
    memref.store %0, %x[%c0] : memref<9xi64>"""
    assert stored(body, 3) == [3 * 2**4]


def test_a_loop_hands_on_values_in_each_others_place():
    body = """\
    %0:2 = scf.for %i = %c1 to %c4 step %c1 iter_args(%a = %arg0, %b = %arg1) -> (i64, i64) {
      scf.yield %b, %a : i64, i64
    }
    memref.store %0#0, %x[%c0] : memref<9xi64>
    memref.store %0#1, %x[%c1] : memref<9xi64>"""
    assert stored(body, 3, 4) == [4, 3]


@pytest.mark.parametrize("value", [127, 128, -129, 2**15, -(2**15) - 1, 2**31 - 1, 2**31, 2**32])
def test_integers_wrap_at_their_width(value):
    widths = (8, 16, 32, 64)
    body = "\n".join(
        f"%{bits} = arith.addi %arg0, %arg1 : i{bits}\n"
        f"memref.store %{bits}, %x[%c0] : memref<9xi{bits}>"
        for bits in widths
    )
    types = (np.int8, np.int16, np.int32, np.int64)
    assert stored(body, value, 0) == [int(np.int64(value).astype(type)) for type in types]


# -- where launches go


def test_grids_are_for_the_cores_that_are_said():
    for cores, programs in ((1, 2), (3, 6), (None, 40)):
        with executing(PART, cube_cores=cores) as reports:
            cases(FULL, tokens=40, live=40)["merge_norm"]()
        assert [report.grid for report in reports] == [programs]
        assert reports[0].part == PART


def test_the_innermost_gets_the_launches_and_outside_the_cpu():
    run = SMALL["group_quant"]
    with executing(PART) as outer:
        run()
        with executing(PART, how=How(checked=False)) as inner:
            run()
            run()
        run()
    run()
    assert [len(outer), len(inner)] == [2, 2]


def test_the_report_of_a_launch_that_stops_is_in_the_list(monkeypatch):
    def stopped(launch, part, how):
        report = Report(launch.kernel, part, launch.grid)
        report.note("deadlock", "flags", "nobody moves")
        raise Stopped(report)

    monkeypatch.setattr(execute, "execute", stopped)
    with executing(PART) as reports, pytest.raises(Stopped, match="nobody moves"):
        SMALL["group_quant"]()
    assert [{*report.kinds()} for report in reports] == [{"deadlock"}]


def test_an_unknown_part_is_named():
    with (
        pytest.raises(ValueError, match="unknown part 'Ascend310': known are Ascend910B1"),
        executing("Ascend310"),
    ):
        pass


def test_what_has_no_model_is_an_error_before_anything_is_written(monkeypatch):
    launched = execute.ExecutingDriver.launched

    def renamed(self, launch):
        hivm = launch.hivm.replace("@store_ubuf_to_gm_2d_int8_t", "@drop")
        launched(self, replace(launch, hivm=hivm))

    monkeypatch.setattr(execute.ExecutingDriver, "launched", renamed)
    scale = torch.zeros(2, 1)
    with executing(PART), pytest.raises(ValueError, match="unknown library function `drop"):
        group_quant(torch.ones(1, 2, 16), scale=scale)
    assert (scale == 0).all()  # which is stored before the codes


# Poison of another pattern in the plain order, and three random orders.
ORDERS = ((None, 0x7F), (0, 0x7F), (1, 0xFF), (2, 0x00))


@pytest.mark.parametrize("tiles", ["partial", "full"])
@pytest.mark.parametrize("segment", ON_ASCEND)
def test_no_poison_and_no_order_changes_a_bit(segment, tiles):
    run = {"partial": SMALL, "full": FULL_TILES}[tiles][segment]
    first, _ = on_model(run, How(checked=False))
    for seed, poison in ORDERS:
        other, _ = on_model(run, How(seed=seed, poison=poison, checked=False))
        assert all(same_bytes(first[name], other[name]) for name in first)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dims", [PARTIAL, FULL], ids=["partial", "full"])
def test_the_chain_equals_the_cpu_path_to_the_bit(dims, schedule, seed):
    inputs = make_inputs(dims, tokens=3, capacity=4, start=600, seed=seed)

    def run():
        return prefill_sparse_attn(*inputs.args(), window=inputs.window, schedule=schedule)

    got, reports = on_model(run)
    assert len(reports) == len(wave_nodes(dims, 4, schedule=schedule))
    assert not any(report.findings for report in reports)
    assert same_bytes(got, run())
    assert got[:3].abs().amax(1).min() > 0
