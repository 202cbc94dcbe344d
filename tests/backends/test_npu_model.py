"""Every segment as final Ascend IR on the model of the cores, against the CPU path."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsv4_kernels import prefill_sparse_attn
from dsv4_kernels.chains.prefill import SCHEDULES, wave_nodes
from dsv4_kernels.gates.ascend.against_cpu import difference, same_bytes
from dsv4_kernels.gates.ascend.execute import How, executing
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments import SEGMENTS, inverse_rope
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
