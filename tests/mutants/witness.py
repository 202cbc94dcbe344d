"""A pytest plugin that writes down which test runs and how the first one failed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

PATH = "MUTANTS_WITNESS"  # environment variable: the file to write to

# The last line of a traceback in the output of a process that a test started.
_RAISED = re.compile(r"^[\w.]*\b(\w+(?:Error|Exception|Dependency))\b(?::|$)", re.MULTILINE)


def pytest_runtest_logstart(nodeid: str, location: Any) -> None:
    _write(test=nodeid)


def pytest_exception_interact(node: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Called for every failure, of a test or of its collection; the run ends with the first."""
    assert call.excinfo is not None
    error = call.excinfo.value
    # A refusal where a result was due is a verdict too. By name: the tree has a class of its own.
    refused = type(error).__name__ == "ContractError"
    verdict = refused or isinstance(error, AssertionError | pytest.fail.Exception)
    broke = [name for name in _RAISED.findall(str(error)) if name != "AssertionError"]
    what = f"{type(error).__name__}: {error}"
    _write(test=node.nodeid, verdict=verdict and not broke, what=what)


def _write(**facts: Any) -> None:
    Path(os.environ[PATH]).write_text(json.dumps(facts))
