"""Processes of a test's own: for what could hang or crash, and for a cold start.

Each imports the test's own file as a module, by itself, and evaluates a call there; it has a
process group of its own and the environment of the test with changes, without TRITON_INTERPRET.
"""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Protocol

TESTS = Path(__file__).resolve().parent

# A server forks these: they find imported what makes most of a start, and nothing of this tree. It
# is the only one of its process: multiprocessing has one list of imports for all.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["hypothesis", "numpy", "pytest", "rich", "torch", "triton"])

Ended = subprocess.CompletedProcess[str]


class Child(Protocol):
    """A process that was started."""

    def end(self, seconds: float) -> Ended:
        """Wait for its end. AssertionError where that takes more than so many `seconds`."""
        ...


class Interpreter:
    """A new interpreter."""

    def __init__(self, file: str, call: str, **environment: str) -> None:
        here = Path(file).resolve()
        own = {"PYTHONPATH": os.pathsep.join(_folders(file))}
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import {here.stem}; {here.stem}.{call}"],
            env=_environment() | own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self, seconds: float) -> Ended:
        process = self._process
        try:
            out, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the children that it may have forked
            out, errors = process.communicate()
            raise AssertionError(f"hangs after: {out}") from None
        return Ended(process.args, process.returncode, out, errors)


class Fork:
    """Forked from a process that has imported torch and Triton, at a tenth of the cost of a new
    interpreter. It does not end as one: what is registered for its exit is not called."""

    def __init__(self, file: str, call: str, **environment: str) -> None:
        self._said = tempfile.TemporaryDirectory()
        self._out, self._errors = (Path(self._said.name, name) for name in ("out", "errors"))
        own = (file, call, _environment() | environment, str(self._out), str(self._errors))
        self._process = FORKS.Process(target=_forked, args=own)
        self._process.start()

    def end(self, seconds: float) -> Ended:
        process = self._process
        process.join(seconds)
        if hangs := process.exitcode is None:
            assert process.pid is not None
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        with self._said:
            out, errors = self._out.read_text(), self._errors.read_text()
        assert not hangs, f"hangs after: {out}"
        assert process.exitcode is not None
        return Ended(process.name, process.exitcode, out, errors)


def words(child: Child, seconds: float = 120) -> list[str]:
    """What it printed. AssertionError where it fails, or hangs for so many `seconds`."""
    ended = child.end(seconds)
    assert ended.returncode == 0, ended.stdout[-500:] + ended.stderr
    return ended.stdout.split()


def _folders(file: str) -> list[str]:
    return [str(TESTS.parent), str(TESTS), str(Path(file).resolve().parent)]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


def _forked(file: str, call: str, environment: dict[str, str], out: str, errors: str) -> None:
    os.setsid()
    for path, stream in ((out, 1), (errors, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    faulthandler.enable()
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = _folders(file)
    eval(call, vars(importlib.import_module(Path(file).stem)))
