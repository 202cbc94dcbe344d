"""Every segment as final Ascend IR on the model of the cores, against the CPU path."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from dsv4_kernels.backends.hivm.report import Stopped
from dsv4_kernels.gates.ascend.against_cpu import difference, same_bytes
from dsv4_kernels.gates.ascend.execute import ExecutingDriver, How, execute, executing
from dsv4_kernels.segments import SEGMENTS, inverse_rope
from on_model import FULL, PARTIAL, cases

PART = "Ascend910B3"
SMALL = cases(PARTIAL, tokens=5, live=4)


def on_model(run, how=How()):
    with executing(PART, cube_cores=2, how=how) as reports:
        return run(), reports


@pytest.mark.parametrize("segment", SEGMENTS)
def test_a_segment_equals_the_cpu_path_and_nothing_is_found(segment):
    for dims, tokens in ((PARTIAL, 5), (FULL, 128 if SEGMENTS[segment].core == "AIC" else 8)):
        run = cases(dims, tokens=tokens, live=tokens - 1)[segment]
        got, (report,) = on_model(run)
        want = run()
        assert not report.findings, report
        for name, value in want.items():
            if not same_bytes(got[name], value):
                allowed = SEGMENTS[segment].rounded.get(name, 0)
                assert difference(got[name], value) <= allowed, name


def test_shorter_rows_than_the_contract_takes_would_race(monkeypatch):
    monkeypatch.setattr(inverse_rope, "MIN_ROPE_DIM", 2)
    case = cases(replace(PARTIAL, rope_dim=8), tokens=5, live=4)["inverse_rope"]
    _, (report,) = on_model(case)
    assert {*report.kinds()} == {"race"}


@pytest.mark.parametrize("segment", SEGMENTS)
def test_no_poison_and_no_order_changes_a_bit(segment):
    first, _ = on_model(SMALL[segment], How(checked=False))
    for seed, poison in ((0, 0x7F), (1, 0xFF), (2, 0x00)):
        other, _ = on_model(SMALL[segment], How(seed=seed, poison=poison, checked=False))
        assert all(same_bytes(first[name], other[name]) for name in first)


def captured(monkeypatch, segment):
    """A segment's launch, as it is executed."""
    launches = []
    launched = ExecutingDriver.launched
    monkeypatch.setattr(
        ExecutingDriver, "launched", lambda self, x: (launches.append(x), launched(self, x))
    )
    on_model(SMALL[segment])
    return launches[0]


@pytest.mark.parametrize(
    ("segment", "least"), [("qk_softmax_pv", 12), ("group_quant", 10), ("dequant_sum", 8)]
)
def test_missing_waits_are_races(segment, least, monkeypatch):
    launch = captured(monkeypatch, segment)
    waits = [
        number
        for number, line in enumerate(launch.hivm.splitlines(), 1)
        if re.search(r"hir\.(wait_flag|sync_block_wait|pipe_barrier)\[", line)
        and "PIPE_ALL" not in line
    ]
    reported = [n for n in waits if "race" in execute(launch, PART, How(deaf={n})).kinds()]
    assert len(reported) >= least, f"{len(reported)} of {len(waits)}"


@pytest.mark.parametrize(
    ("pattern", "new", "kind"),
    [
        (r"(call @mma_tile_bfloat16_t_to_float_tb\(%\w+, %\w+), %true", r"\1, %false", "unwritten"),
        (r"sync_block_set\[<CUBE>, <PIPE_FIX>", "sync_block_set[<CUBE>, <PIPE_MTE2>", "race"),
        (r"sync_block_set\[<VECTOR>, <PIPE_MTE3>", "sync_block_set[<VECTOR>, <PIPE_V>", "race"),
    ],
)
def test_damage_is_seen_by_its_name(pattern, new, kind, monkeypatch):
    launch = captured(monkeypatch, "qk_softmax_pv")
    damaged, count = re.subn(pattern, new, launch.hivm)
    assert count
    assert kind in execute(replace(launch, hivm=damaged), PART).kinds()


def test_a_flag_that_nobody_sets_is_a_deadlock(monkeypatch):
    launch = captured(monkeypatch, "group_quant")
    line = next(x for x in launch.hivm.splitlines() if "hir.set_flag[" in x)
    with pytest.raises(Stopped, match=r"deadlock.*waits for"):
        execute(replace(launch, hivm=launch.hivm.replace(line, "", 1)), PART)


def test_a_tensor_that_is_too_short_is_out_of_bounds(monkeypatch):
    launch = captured(monkeypatch, "group_quant")
    name = next(k for k, v in launch.arguments.items() if isinstance(v, torch.Tensor))
    cut = launch.arguments[name].reshape(-1)[:-8].clone()
    with pytest.raises(Stopped, match="out of bounds"):
        execute(replace(launch, arguments={**launch.arguments, name: cut}), PART)
