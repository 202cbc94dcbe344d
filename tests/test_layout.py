"""The tree as a law: who may import whom, and what a segment consists of."""

from __future__ import annotations

import ast
import functools
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dsv4_kernels
from dsv4_kernels.buffers import ARGUMENTS, BUFFERS
from dsv4_kernels.segments import EVERY_SEGMENT, SEGMENTS
from dsv4_kernels.segments.dequant_sum import of_groups
from mutants.catalogue import MUTANTS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dsv4_kernels"

# From what imports to what is imported: a room uses those of the lines below its own, and what
# stands beside it on a line only where OWN says so.
LAYERS = (
    ("__main__", "__init__"),
    ("commands",),
    ("gates",),
    ("chains",),
    ("inputs", "launcher", "segments"),
    ("tp", "weights"),
    ("contract", "device"),
    ("backends", "buffers", "dims"),
)
# The public names, the command line and the CPU's driver are imported when they are asked for.
LATE = {("device", "backends"), ("__init__", "segments")}
WITHOUT_TRITON = ("launcher", "tp", "buffers", "dims", "contract", "inputs", "weights")
NO_SEGMENT = {"segment", "kernel", "tiles", "tasks", "slots", "cost"}  # what segments share
NO_SEGMENT |= {"requests", "shared_requests", "tile_map"}  # a batch's: prefill's gates know none


def rooms() -> list[str]:
    """Files and folders of the package that hold code."""
    found = (path for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir())
    return sorted(path.stem for path in found if path.stem != "__pycache__")


def files_of(room: str) -> list[Path]:
    folder = PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def imported(path: Path, *, everywhere: bool) -> set[str]:
    """Modules that a file imports; also within functions and for types only, if `everywhere`."""
    nodes = ast.walk(tree_of(path)) if everywhere else tree_of(path).body
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def arrows() -> set[tuple[str, str]]:
    """(room that imports, room that is imported)."""
    found = set()
    for room in rooms():
        for path in files_of(room):
            for name in imported(path, everywhere=True):
                parts = name.split(".")
                if parts[0] == "dsv4_kernels" and len(parts) > 1 and parts[1] in rooms():
                    found.add((room, parts[1]))
    return {(a, b) for a, b in found if a != b}


def level(room: str) -> int:
    return next(at for at, names in enumerate(LAYERS) if room in names)


def test_every_room_has_its_place():
    assert sorted(name for names in LAYERS for name in names) == rooms()
    assert len(rooms()) <= 15


def test_imports_go_one_way():
    upward = {(a, b) for a, b in arrows() - LATE if level(b) <= level(a)}
    # `launcher` and `segments` do not know each other: a chain introduces them.
    assert upward == set()
    assert len(arrows()) <= 50


@pytest.mark.parametrize("room", ["launcher", "segments"])
def test_a_chain_introduces_the_launcher_and_the_segments(room):
    other = {"launcher": "segments", "segments": "launcher"}[room]
    assert (room, other) not in arrows()


@pytest.mark.parametrize("room", WITHOUT_TRITON)
def test_no_triton_in(room):
    for path in files_of(room):
        assert not {n for n in imported(path, everywhere=True) if n.split(".")[0] == "triton"}, path


def test_the_launcher_imports_without_triton():
    """In a process that cannot find it."""
    script = """
import sys

class Blind:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blind())
from dsv4_kernels.launcher import clocks, executors, graph, lanes, order, overlap, plan
nodes = (graph.Node("a", "x", writes=("kv",)), graph.Node("b", "y", reads=("kv",)))
print([tuple(edge) for edge in graph.edges(order.in_order_of_issue(nodes))])
print([name for name in sys.modules if name.startswith("dsv4_kernels.segments")])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[(0, 1, 'kv', 'RAW')]", "[]"]


def test_only_the_study_imports_the_reference():
    study = PACKAGE / "commands" / "study"
    for room in rooms():
        for path in files_of(room):
            uses = any(n.split(".")[0] == "reference" for n in imported(path, everywhere=True))
            assert not uses or study in path.parents, path


def test_the_reference_imports_nothing_of_the_package():
    for path in (ROOT / "reference").rglob("*.py"):
        names = imported(path, everywhere=True)
        assert not {n for n in names if n.split(".")[0] in ("dsv4_kernels", "triton")}, path


# -- a segment: the same stem in four folders, a bound, mutants


def test_every_segment_has_a_file():
    stems = {path.stem for path in files_of("segments")} - NO_SEGMENT - {"__init__"}
    assert stems == {*SEGMENTS}


def test_the_package_s_table_is_what_segments_declare():
    """Name, cores and what is written."""
    cores = {"AIV": "vector", "AIC": "cube", "MIX": "cube+vec"}
    rows = re.findall(
        r"^\| (\w+) +\| ([\w+]+) +\| .* \| (.*?) +\|$", dsv4_kernels.__doc__ or "", re.M
    )
    told = {name: (core, writes.removesuffix(" (rope)")) for name, core, writes in rows[1:]}
    assert told == {
        name: (cores[segment.core], ", ".join(segment.writes + segment.updates))
        for name, segment in SEGMENTS.items()
    }


def test_segments_stand_in_the_order_of_the_pipeline():
    made: set[str] = set(ARGUMENTS)
    for segment in SEGMENTS.values():
        assert made >= {*segment.reads, *segment.updates}, segment.name
        made |= {*segment.writes}


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_segment_stands_in_four_folders(name):
    assert (PACKAGE / "segments" / f"{name}.py").exists()
    assert (ROOT / "reference" / f"{name}.py").exists()
    assert (ROOT / "tests" / "segments" / f"test_{name}.py").exists()
    own = importlib.import_module(f"reference.{name}")
    assert callable(getattr(own, name))
    assert callable(own.bound)
    files = {mutant.file for mutant in MUTANTS}
    assert f"dsv4_kernels/segments/{name}.py" in files


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_segment_is_public_under_its_own_name(name):
    import dsv4_kernels

    assert name in dsv4_kernels.__all__
    assert getattr(dsv4_kernels, name).__module__ == f"dsv4_kernels.segments.{name}"


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_segment_s_buffers_are_in_the_table(name):
    segment = SEGMENTS[name]
    assert segment.name == name
    for buffer in (*segment.reads, *segment.writes, *segment.updates):
        assert buffer in BUFFERS


@pytest.mark.parametrize("name", SEGMENTS)
def test_no_segment_is_known_by_name_outside_of_its_files(name):
    """But for where it is listed, where a chain puts it, and its public name."""
    allowed = {
        PACKAGE / "__init__.py",
        PACKAGE / "segments" / "__init__.py",
        *(PACKAGE / "chains").rglob("*.py"),
        *(PACKAGE / "segments").rglob("*.py"),
        PACKAGE / "commands" / "ascend.py",  # the examples of --help
        PACKAGE / "commands" / "hopper.py",
        PACKAGE / "gates" / "ascend" / "gate.py",  # the facts about A_K_TILE
    }
    for path in PACKAGE.rglob("*.py"):
        if path in allowed:
            continue
        assert name not in constants(path), path


@functools.cache
def constants(path: Path) -> list[object]:
    return [node.value for node in ast.walk(tree_of(path)) if isinstance(node, ast.Constant)]


# -- buffers


def test_every_buffer_is_someone_s():
    some_groups = of_groups(SEGMENTS["dequant_sum"], range(1), 2)
    segments = (*EVERY_SEGMENT.values(), some_groups)
    taken = {b for s in segments for b in (*s.reads, *s.writes, *s.updates, *s.numbers)}
    assert {*BUFFERS} <= taken | {*ARGUMENTS}
