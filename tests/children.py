"""Python processes of a test's own: for what could hang or crash, and for a cold start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def start(file: str, call: str, **environment: str) -> subprocess.Popen[str]:
    """A new interpreter that imports the test's own `file` as a module and evaluates `call` there,
    in a process group of its own. TRITON_INTERPRET is not passed on."""
    here = Path(file).resolve()
    own = {"PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS, here.parent)))}
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.Popen(
        [sys.executable, "-c", f"import {here.stem}; {here.stem}.{call}"],
        env=inherited | own | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = 120) -> list[str]:
    """The words it printed. AssertionError where it fails, or hangs for so many `seconds`."""
    try:
        out, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the children that it may have forked
        out, errors = process.communicate()
        raise AssertionError(f"hangs after: {out}") from None
    assert process.returncode == 0, errors
    return out.split()
