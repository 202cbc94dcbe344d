"""``ascend --execute``: final IR on a model of the cores against the CPU path; its exit code."""

import dataclasses
import json
import re

import pytest
import torch

from dsv4_kernels.__main__ import main
from dsv4_kernels.backends.hivm.report import Report, Stopped
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


def test_the_worst_of_all_codes_is_what_was_found(monkeypatch):
    """Each code begins with the same output: the second would else find what the first made."""
    out = torch.zeros(2)
    given = iter(("b", "a", "c"))

    def found(launch, part):
        report = Report("", part, 1)
        report.instructions, report.seconds = {"a": 10, "b": 30, "c": 20}[launch.hivm], 0.25
        report.note("race", "ub", "both")
        if launch.hivm == "b":
            report.note("deadlock", "flag", "one")
            raise Stopped(report)
        out[1] += {"a": 1, "c": 2.5}[launch.hivm]
        return report

    monkeypatch.setattr(against_cpu, "execute", found)
    monkeypatch.setattr(
        compiler, "recompiled", lambda launch, part: dataclasses.replace(launch, hivm=next(given))
    )
    launch, want = compiler.AscendKernel(hivm="a"), torch.tensor([0.0, 2.0])
    executed = against_cpu._executed(launch, PART, {"o": out}, {"o": want}, 4)
    assert executed == against_cpu.Executed(
        differences={
            "o": 1.0
        },  # of b, which wrote nothing; half of that is a's, a quarter of it c's
        findings={"race in ub: both": 3, "deadlock in flag: one": 1},
        races=3,
        code=launch.code,
        instructions=30,
        variants=3,
        seconds=0.75,
    )


def test_launches_of_a_kernel_add_up():
    one = against_cpu.Executed({"o": 3.0, "m": 0.5}, {"race": 2}, 2, "a", 10, 1, 0.5)
    two = against_cpu.Executed({"o": 2.0, "l": 0.1}, {"race": 1, "stray": 4}, 1, "b", 5, 3, 0.25)
    differences, findings = {"o": 3.0, "m": 0.5, "l": 0.1}, {"race": 3, "stray": 4}
    assert one + two == against_cpu.Executed(differences, findings, 3, "a", 15, 3, 0.75)
    assert [*(one + two).breaches("qk_softmax_pv")] == [
        "executed: 3 x race",
        "executed: 4 x stray",
        "executed: o differs by 3.0e+00 of its largest value, 1e-06 allowed",
        "executed: m differs by 5.0e-01 of its largest value, none allowed",
        "executed: l differs by 1.0e-01 of its largest value, none allowed",
    ]


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
