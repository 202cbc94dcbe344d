"""``--model`` sends launches to the model of the cores, and fails a test for what that finds."""

import sys
from pathlib import Path

import pytest

from children import Fork

ROOT = Path(__file__).resolve().parents[1]

FILE = """
import torch
from dsv4_kernels import group_quant, inverse_rope
from dsv4_kernels.segments import inverse_rope as module


def test_quant():
    group_quant(torch.ones(1, 2, 16))


def test_short_rows(monkeypatch):
    monkeypatch.setattr(module, "MIN_ROPE_DIM", 2)
    table = torch.ones(3, 8).bfloat16()
    live = torch.ones(3, dtype=torch.int32)
    inverse_rope(torch.ones(3, 4, 8), live, table, table, o_packed=torch.ones(1, 3, 64).bfloat16())
"""


def tested(file, *options):
    """In a process of its own."""
    own = ["-p", "conftest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    own += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what the server imported
    sys.exit(pytest.main([*own, file, *options]))


def run(folder, *options):
    file = folder / "test_launches.py"
    file.write_text(FILE)
    call = f"tested{(str(file), *options)}"
    return Fork(__file__, call).end(seconds=300)


def test_a_finding_of_the_model_is_an_error_of_the_test(tmp_path):
    done = run(tmp_path, "--model")
    assert done.returncode == 1
    assert "2 launches ran on the model of the cores" in done.stdout
    assert "2 passed, 1 error" in done.stdout
    assert "x race in ub: " in done.stdout


def test_without_the_option_the_cpu_runs_them(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0
    assert "2 passed" in done.stdout
    assert "model of the cores" not in done.stdout
