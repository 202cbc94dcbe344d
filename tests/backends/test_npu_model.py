"""Every segment as final Ascend IR on the model of the cores, against the CPU path."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dsv4_kernels import group_quant, prefill_sparse_attn
from dsv4_kernels.backends.hivm.report import Report, Stopped
from dsv4_kernels.chains.prefill import SCHEDULES, wave_nodes
from dsv4_kernels.gates.ascend import execute
from dsv4_kernels.gates.ascend.against_cpu import difference, same_bytes
from dsv4_kernels.gates.ascend.execute import How, executing
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments import SEGMENTS, inverse_rope, merge_norm
from on_model import FULL, PARTIAL, Case, cases

PART = "Ascend910B3"
SMALL = cases(PARTIAL, tokens=5, live=4)


def _full_tiles() -> dict[str, Case]:
    """128 rows of tokens fill a tile of the projections; the others have tiles of their own."""
    few, many = cases(FULL, tokens=8, live=7), cases(FULL, tokens=128, live=127)
    projections = ("proj_a", "proj_b", "proj_b_dequant")
    return {name: (many if name in projections else few)[name] for name in SEGMENTS}


FULL_TILES = _full_tiles()


def on_model(run, how=How()):
    with executing(PART, cube_cores=2, how=how) as reports:
        return run(), reports


@pytest.mark.parametrize("segment", SEGMENTS)
def test_a_segment_equals_the_cpu_path_and_nothing_is_found(segment):
    for run in (SMALL[segment], FULL_TILES[segment]):
        got, (report,) = on_model(run)
        want = run()
        assert not report.findings, report
        for name, value in want.items():
            assert same_bytes(got[name], value), name


def test_only_the_sum_of_pv_is_rounded_otherwise():
    """A head as wide as the models' takes its 128 columns in four parts."""
    run = cases(replace(PARTIAL, head_dim=512), tokens=3, live=2)["qk_softmax_pv"]
    got, (report,) = on_model(run)
    want = run()
    assert not report.findings
    assert [name for name in want if not same_bytes(got[name], want[name])] == ["o"]
    assert difference(got["o"], want["o"]) <= SEGMENTS["qk_softmax_pv"].rounded["o"]


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
        launched(self, replace(launch, hivm=launch.hivm.replace("@vabs_", "@vtan_")))

    monkeypatch.setattr(execute.ExecutingDriver, "launched", renamed)
    codes = torch.full((1, 2, 16), 7, dtype=torch.int8)
    with executing(PART), pytest.raises(ValueError, match="unknown library function `vtan_"):
        group_quant(torch.ones(1, 2, 16), codes=codes)
    assert (codes == 7).all()


# Poison of another pattern in the plain order, and three random orders.
ORDERS = ((None, 0x7F), (0, 0x7F), (1, 0xFF), (2, 0x00))


@pytest.mark.parametrize("tiles", ["partial", "full"])
@pytest.mark.parametrize("segment", SEGMENTS)
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
