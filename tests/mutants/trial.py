"""One mutant on trial: a copy of the tree, the edit, the test that must fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from children import FORKS
from mutants import witness
from mutants.mutant import Mutant

REPOSITORY = Path(__file__).resolve().parents[2]
TREE = ("bench", "dsv4_kernels", "reference", "tests", "pyproject.toml", "README.md", "LICENSE")
SECONDS = 300  # for one call of pytest; the slowest takes a minute where nothing is wrong

# Who else might notice, asked only where the named test does not: whole chains.
OTHERS = ("tests/chains/test_chain.py", "tests/laws/test_guard_pages.py")

Fate = Literal["killed", "equivalent", "survived", "broken"]


@dataclass(frozen=True)
class Outcome:
    """verdict: "survived" also where a proof of equivalence is wrong, "broken" where the mutant
    does not even run. seen: the failing test and its message, or why there is none."""

    mutant: Mutant
    verdict: Fate
    seen: str
    seconds: float

    @property
    def holds(self) -> bool:
        return self.verdict in ("killed", "equivalent")


@dataclass(frozen=True)
class Failure:
    """The first failure of a run: its test, whether it is a verdict on results, its words."""

    test: str
    verdict: bool
    what: str


def trials(mutants: Sequence[Mutant], jobs: int, others: bool = True) -> Iterator[Outcome]:
    """Outcomes as they come, `jobs` at a time. All share one cache of compiled kernels: Triton's
    key holds the source of a kernel and of its helpers, so a mutant never meets another's.

    others: ask the other tests too where the one that is named sees nothing; it helps to repair
    the catalogue, and takes minutes.
    """
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(trial, mutant, Path(scratch), others) for mutant in mutants]
        try:
            for done in as_completed(running):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def trial(mutant: Mutant, scratch: Path, others: bool) -> Outcome:
    """Plant one mutant in a copy of the tree and run the test that must see it."""
    begin = time.monotonic()

    def outcome(verdict: Fate, seen: str) -> Outcome:
        return Outcome(mutant, verdict, seen, time.monotonic() - begin)

    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        tree = Path(directory)
        for name in TREE:
            copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
            copy(REPOSITORY / name, tree / name)
        edited = tree / mutant.file
        edited.write_text(mutant.edited(edited.read_text()))
        failure = first_failure(tree, scratch, [mutant.test])
        if failure is not None and not failure.verdict:
            return outcome("broken", failure.what)
        if mutant.equivalent:
            if failure is not None:
                return outcome("survived", f"not equivalent: {failure.test}: {failure.what}")
            return outcome("equivalent", mutant.equivalent)
        if failure is not None:
            return outcome("killed", failure.test)
        unseen = f"not seen by {mutant.test}"
        if not others:
            return outcome("survived", unseen)
        other = first_failure(tree, scratch, [mutant.tests, *OTHERS])
        seen = "no other test" if other is None else f"{other.test}: {other.what}"
        return outcome("survived", f"{unseen}, but by {seen}")


def first_failure(tree: Path, scratch: Path, tests: Sequence[str]) -> Failure | None:
    """Run `tests` in `tree` up to the first that fails; None if all pass."""
    report = tree / "witness.json"
    report.unlink(missing_ok=True)
    output = tree / "output.txt"
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", witness.__name__]
    options += ["-m", ""]  # a mutant may name a test that takes a minute
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what the server imported
    own = {
        "OMP_NUM_THREADS": "1",  # a trial a core, as a rule
        "PYTHONPATH": os.pathsep.join(map(str, _roots(tree))),
        "TRITON_CACHE_DIR": str(scratch / "triton"),
        witness.PATH: str(report),
    }
    process = FORKS.Process(
        target=_pytest, args=(tree, own, output, [*options, *dict.fromkeys(tests)])
    )
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
        return Failure(" ".join(tests), False, f"not done after {SECONDS} s")
    if process.exitcode == 0:
        return None
    facts = json.loads(report.read_text()) if report.exists() else {}
    test = facts.get("test", " ".join(tests))
    if process.exitcode < 0:
        return Failure(test, True, f"died of {signal.Signals(-process.exitcode).name}")
    if process.exitcode != 1 or "what" not in facts:
        return Failure(test, False, output.read_text(errors="replace")[-2000:])
    return Failure(test, facts["verdict"], facts["what"])


def _roots(tree: Path) -> tuple[Path, Path]:
    """Where a tree's modules are found."""
    return tree, tree / "tests"


def _pytest(tree: Path, own: Mapping[str, str], output: Path, arguments: Sequence[str]) -> None:
    """In a process of its own: pytest on `tree`, as if nothing had been imported from another."""
    os.setpgid(0, 0)
    os.environ.update(own)
    os.chdir(tree)
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(REPOSITORY):
            installed = "site-packages" in str(module.__file__)  # in an environment inside it
            if not installed and name != "__main__":
                del sys.modules[name]
    others = [path for path in sys.path if path and Path(path) not in _roots(REPOSITORY)]
    sys.path[:] = [*map(str, _roots(tree)), *others]
    sys.exit(pytest.main(list(arguments)))
