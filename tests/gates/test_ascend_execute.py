"""``ascend --execute``: final IR on a model of the cores against the CPU path; its exit code."""

import dataclasses
import json
import re

import pytest
import torch

from dsv4_kernels.__main__ import main
from dsv4_kernels.backends.hivm.report import Report
from dsv4_kernels.gates.ascend import against_cpu, compiler
from dsv4_kernels.gates.ascend.against_cpu import difference, execute_chunk
from dsv4_kernels.gates.ascend.execute import How, execute
from dsv4_kernels.segments import SEGMENTS, segments_on
from on_model import FULL

PART = "Ascend910B3"
CALL = ["ascend", "--execute", "--json", "--preset", "FLASH", "--part", PART, "--segment"]


def called(capsys, *arguments):
    """(exit code, rows) of the command."""
    code = main([*CALL, *arguments])
    return code, json.loads(capsys.readouterr().out)["segments"]


@pytest.mark.parametrize("part", [PART, "Ascend910_9392"])
def test_every_segment_is_executed_once_and_keeps_its_bound(part):
    executed = [*execute_chunk(part, FULL, segments=segments_on("npu"))]
    assert sorted(segment for segment, _ in executed) == sorted(segments_on("npu"))
    for segment, found in executed:
        assert [*found.breaches(segment)] == []
        assert not found.findings
        assert {*found.differences} <= {*SEGMENTS[segment].rounded}
        assert found.instructions > 50


def test_the_command_executes_the_very_code_that_it_holds(capsys):
    code, rows = called(capsys, "merge_finish", "row_quant")
    assert code == 0
    assert [row["segment"] for row in rows] == ["merge_finish", "row_quant"]
    for row in rows:
        assert row["executed"]["code"] == row["code"]
        assert row["executed"]["races"] == 0
        assert row["executed"]["findings"] == {}
        assert row["executed"]["differences"] == {}
        assert row["executed"]["instructions"] > 1000


def test_another_code_than_was_held_is_a_breach(capsys, monkeypatch):
    monkeypatch.setattr(compiler.AscendKernel, "code", property(lambda self: str(self.grid)))
    code, (row,) = called(capsys, "group_quant")  # its grids are of 128 tokens, and of a few
    assert code == 1
    assert row["breaches"] == ["executed: another code than this one"]


def deaf(launch, part):
    """Executed with waits that hold nothing up."""
    lines = enumerate(launch.hivm.splitlines(), 1)
    return execute(launch, part, How(deaf={n for n, line in lines if "hir.wait_flag[" in line}))


def test_a_finding_is_a_breach(capsys, monkeypatch):
    monkeypatch.setattr(against_cpu, "execute", deaf)
    code, (row,) = called(capsys, "inverse_rope")
    assert code == 1
    assert row["executed"]["races"] > 0
    assert all(re.match(r"executed: \d+ x race in ub: ", b) for b in row["breaches"])


def test_a_launch_that_stops_is_a_breach(capsys, monkeypatch):
    def unset(launch, part):
        line = next(x for x in launch.hivm.splitlines() if "hir.set_flag[" in x)
        return execute(dataclasses.replace(launch, hivm=launch.hivm.replace(line, "", 1)), part)

    monkeypatch.setattr(against_cpu, "execute", unset)
    code, (row,) = called(capsys, "inverse_rope")
    assert code == 1
    assert any("deadlock" in breach for breach in row["breaches"])


def test_a_byte_that_differs_is_a_breach(capsys, monkeypatch):
    def one_more(launch, part):
        report = execute(launch, part)
        launch.arguments["codes_ptr"][0, 0, 0] += 1
        return report

    monkeypatch.setattr(against_cpu, "execute", one_more)
    code, (row,) = called(capsys, "group_quant")
    assert code == 1
    assert [*row["executed"]["differences"]] == ["codes"]
    (breach,) = row["breaches"]
    assert re.fullmatch(
        r"executed: codes differs by \S+ of its largest value, none allowed", breach
    )


def test_a_launch_that_writes_nothing_is_a_breach(capsys, monkeypatch):
    """Outputs are poison before, whatever the CPU path made of its own."""
    monkeypatch.setattr(against_cpu, "execute", lambda launch, part: Report("", part, 1))
    code, (row,) = called(capsys, "group_quant")
    assert code == 1
    assert row["executed"]["differences"]["scale"] == float("inf")


def test_rounding_is_allowed_up_to_its_bound():
    def breaches(**differences):
        found = against_cpu.Executed(differences, {}, 0, "", 1, 1, 0.0)
        return len([*found.breaches("qk_softmax_pv")])

    assert breaches(o=2**-20) == 0
    assert breaches(o=2**-19) == breaches(m=1e-12) == breaches(o=2**-20, l=1e-12) == 1
    assert breaches(o=torch.nan) == 1


def test_every_code_that_compiling_gives_is_executed(capsys, monkeypatch):
    """The second compilation misses a wait's flag, the third is as the first."""
    given = []

    def again(launch, part):
        given.append(launch)
        if len(given) > 1:
            return launch
        damaged = launch.hivm.replace("<PIPE_MTE2>, <PIPE_V>", "<PIPE_MTE3>, <PIPE_V>")
        return dataclasses.replace(launch, hivm=damaged)

    monkeypatch.setattr(compiler, "recompiled", again)
    code, (row,) = called(capsys, "group_quant", "--compilations", "3")
    assert code == 1
    assert len(given) == 2 * 2  # FLASH has two launches of it
    assert row["executed"]["variants"] == 2
    assert any("race" in breach for breach in row["breaches"])


def test_compiling_again_gives_code_of_the_same_kernel(monkeypatch):
    seen = []

    def kept(launch, part):
        seen.append(launch)
        return execute(launch, part)

    monkeypatch.setattr(against_cpu, "execute", kept)
    ((_, found),) = execute_chunk(PART, FULL, segments=["group_quant"], compilations=2)
    assert not found.differences
    again = compiler.recompiled(seen[0], PART)
    assert again.hivm == seen[0].hivm
    assert again.seconds > 0


def test_difference_is_relative_to_the_largest_value():
    want = torch.tensor([4.0, torch.nan, 1.0])
    assert difference(want, want) == 0
    assert difference(torch.tensor([4.0, torch.nan, 1.5]), want) == 0.125
    assert difference(torch.tensor([4.0, 1.0, 1.0]), want) == torch.inf
    assert difference(torch.tensor([torch.nan, torch.nan, 1.0]), want) == torch.inf
    assert difference(torch.tensor([3, -1]).int(), torch.tensor([3, 0]).int()) == 1 / 3


def test_several_compilations_without_an_execution_are_refused(capsys):
    assert main(["ascend", "--compilations", "2"]) == 2
    assert "`--compilations` needs `--execute`" in capsys.readouterr().err
