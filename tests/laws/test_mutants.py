"""The mutants' catalogue holds against today's code, and a few of them are tried.

`make mutants` tries all.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from dsv4_kernels import device as devices
from dsv4_kernels.segments import SEGMENTS
from mutants.catalogue import MUTANTS
from mutants.mutant import Mutant
from mutants.trial import REPOSITORY, trials

TESTS = REPOSITORY / "tests"
BY_NAME = {mutant.name: mutant for mutant in MUTANTS}

TRIED = (
    "group_quant: ties go up",
    "merge_norm: the sink is scaled like a score",
    "dequant_sum: groups are added in descending order",
    "executors: one event wait of a step is dropped",
)

# Mutants about the suite itself: what it must not take for a kill, and what it must.
FLOOR = dict(
    old="AMAX_FLOOR = 1e-4",
    file="dsv4_kernels/segments/group_quant.py",
    tests="tests/segments/test_group_quant.py",
)
SUITE = {
    "survived": Mutant(
        "nothing", new="AMAX_FLOOR = 0.0001", killed_by="test_ties_go_to_even", **FLOOR
    ),
    "broken": Mutant(
        "no Python", new="AMAX_FLOOR = = 1", killed_by="test_ties_go_to_even", **FLOOR
    ),
}


def test_there_are_enough_and_every_name_is_its_own():
    assert len(MUTANTS) >= 40
    assert len(BY_NAME) == len(MUTANTS)


@pytest.mark.parametrize("segment", SEGMENTS)
def test_every_segment_has_mutants(segment):
    assert sum(mutant.file.endswith(f"/{segment}.py") for mutant in MUTANTS) >= 5


def test_the_code_has_what_every_mutant_edits():
    for mutant in MUTANTS:
        source = (REPOSITORY / mutant.file).read_text()
        edited = mutant.edited(source)
        assert edited != source, mutant.name
        if mutant.file.endswith(".py"):
            compile(edited, mutant.name, "exec")


@pytest.mark.skipif(devices.best().type != "cpu", reason="another device has other cases")
def test_the_case_that_a_mutant_names_is_there(collected):
    """Where this process was not asked for all tests, another one collects them."""
    every_file = {str(path.relative_to(REPOSITORY)) for path in TESTS.rglob("test_*.py")}
    cases = collected
    if {case.partition("::")[0] for case in cases} != every_file:
        command = [sys.executable, "-m", "pytest", "-o", "addopts=", "--collect-only", "-q"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        cases = {line.strip() for line in done.stdout.splitlines() if "::" in line}
    tests = {case.partition("[")[0] for case in cases}
    files = {test.partition("::")[0] for test in tests}
    missing = [m.name for m in MUTANTS if m.test not in cases | tests | files]
    assert not missing


@pytest.mark.parametrize("times", [0, 2])
def test_code_that_moved_on_is_said(times):
    mutant = BY_NAME[TRIED[0]]
    with pytest.raises(ValueError, match=f"has this {times} times"):
        mutant.edited(times * mutant.old)


def test_a_mutant_has_a_test_or_a_proof():
    for neither_or_both in (dict(), dict(killed_by="test", equivalent="because")):
        with pytest.raises(ValueError, match="either a test that kills it or a proof"):
            Mutant("wrong", "old", "new", **neither_or_both)


def test_a_few_are_seen_by_their_tests():
    tried = [BY_NAME[name] for name in TRIED]
    outcomes = {o.mutant: o for o in trials([*tried, *SUITE.values()], jobs=2, others=False)}
    for mutant in tried:
        assert outcomes[mutant].verdict == "killed", outcomes[mutant]
        assert outcomes[mutant].seen.startswith(mutant.test)
    for verdict, mutant in SUITE.items():
        assert outcomes[mutant].verdict == verdict, outcomes[mutant]
