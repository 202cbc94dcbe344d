"""Compiled kernels on disk: damage, folders that cannot be written, compilers, stale code."""

# A @triton.jit body is compiled, not run as Python: its names have other types than they seem to.
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOptionalOperand=false, reportCallIssue=false

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import stat
import time
from pathlib import Path
from typing import Any

import on_cpu
import pytest
import torch
import triton
import triton.language as tl
from on_cpu import launch

from children import Fork, words
from dsv4_kernels import MissingDependency
from dsv4_kernels.backends import front_half, linalg
from dsv4_kernels.backends.linalg import backend, c_compiler, host

pytestmark = on_cpu.only


@triton.jit
def _double_kernel(x_ptr, SHIFT: tl.constexpr):
    i = tl.arange(0, 8)
    tl.store(x_ptr + i, 2 * tl.load(x_ptr + i) + SHIFT)


def double(shift: int = 0) -> bool:
    """Launch the kernel as a new process would, which looks into the cache; whether it is right."""
    _double_kernel.cache.clear()
    x = torch.arange(8)
    launch(_double_kernel, (1,), x, SHIFT=shift)
    return torch.equal(x, 2 * torch.arange(8) + shift)


def refusal(shift: int = 0) -> str:
    """What a launch says that must be refused in one sentence."""
    try:
        double(shift)
    except MissingDependency as error:
        return str(error)
    except Exception as error:
        return f"another exception: {type(error).__name__}"
    return "launched"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the runtime, which takes a second to compile, and nothing else."""
    folder = tmp_path_factory.mktemp("runtime")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(folder))
        linalg.cache.use()  # as the driver does before its first launch
        c_compiler._runtime()
    return folder


@pytest.fixture
def cache(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that no kernel was compiled into yet."""
    folder = tmp_path / "cache"
    shutil.copytree(runtime, folder)
    for record in folder.rglob("__grp__*"):  # they have whole paths
        record.write_text(record.read_text().replace(str(runtime), str(folder)))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(folder))
    return folder


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file, by path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    stats = {str(path.relative_to(folder)): path.stat() for path in files}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


# -- damage


def still_doubles(**options: Any) -> bool:
    """`double`, where code that does not load is a verdict on the cache."""
    try:
        return double(**options)
    except (AttributeError, OSError) as error:
        pytest.fail(f"what is damaged was loaded: {error}")


def lose(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    replace(path, path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    replace(path, b"")


def scramble(path: Path) -> None:
    replace(path, bytes(path.stat().st_size))


def replace(path: Path, data: bytes) -> None:
    """A new file in its place: this process still runs the code of the old one."""
    path.unlink()
    path.write_bytes(data)


KERNEL_FILES = [
    "_double_kernel.so", "_double_kernel.json", "__grp___double_kernel.json",
    "_double_kernel.llvm_dialect", "_double_kernel.ttadapter", "_double_kernel.ttir",
]  # fmt: skip


@pytest.mark.parametrize("damage", [lose, truncate, empty, scramble], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", KERNEL_FILES)
def test_a_damaged_kernel_is_compiled_again(name: str, damage: Any, cache: Path) -> None:
    assert double()
    (file,) = cache.rglob(name)
    good = file.read_bytes()
    damage(file)
    assert still_doubles()
    assert file.read_bytes() == good
    compiled = contents(cache)
    assert double()
    assert contents(cache) == compiled, "compiled once more"


@pytest.mark.parametrize("damage", [lose, truncate, empty, scramble], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["runtime.o", "__grp__runtime.o"])
def test_a_damaged_runtime_is_compiled_again(name: str, damage: Any, cache: Path) -> None:
    assert double()
    (file,) = cache.rglob(name)
    good = file.read_bytes()
    damage(file)
    assert still_doubles(shift=1)
    assert file.read_bytes() == good


def test_a_cache_that_tritons_own_class_wrote_is_read(cache: Path) -> None:
    """A record without digests."""
    assert double()
    (file,) = cache.rglob("__grp___double_kernel.json")
    file.write_text(json.dumps({"child_paths": json.loads(file.read_text())["child_paths"]}))
    compiled = contents(cache)
    assert double()
    assert contents(cache) == compiled, "compiled again"


# -- folders that cannot be written


def sentence(folder: str, reason: str) -> str:
    return (
        f"compiled kernels are kept in {folder}, where this process cannot write ({reason}): "
        "set TRITON_CACHE_DIR to a folder where it can"
    )


def test_a_cache_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "cache")
    monkeypatch.setenv("TRITON_CACHE_DIR", folder)
    assert refusal() == sentence(folder, "Not a directory")


def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", " ")
    monkeypatch.delenv("TRITON_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert refusal() == sentence("~/.triton/cache", "Not a directory")
    monkeypatch.setenv("TRITON_HOME", str(tmp_path / "file"))
    assert refusal() == sentence(f"{tmp_path}/file/.triton/cache", "Not a directory")
    monkeypatch.setattr(Path, "home", nowhere)
    assert "cannot write (Could not determine home directory.): set" in refusal()


def test_a_disk_that_is_full(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert refusal() == sentence(str(cache), "No space left on device")


# -- C compilers


def compiler_that_notes(folder: Path) -> tuple[Path, Path]:
    """A compiler and the file where it writes down what it was called with."""
    script, notes = folder / "my-cc", folder / "notes"
    script.write_text(f'#!/bin/sh\necho "$@" >> "{notes}"\nexec gcc "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script, notes


@pytest.mark.usefixtures("cache")
def test_cc_is_used_with_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell reads it: its folder has a space in its name."""
    (tmp_path / "my tools").mkdir()
    script, notes = compiler_that_notes(tmp_path / "my tools")
    monkeypatch.setenv("CC", f"{shlex.quote(str(script))} -DMINE=1")
    assert double()
    calls = notes.read_text().splitlines() if notes.exists() else []
    assert len(calls) == 2  # the runtime, and the kernel's link
    assert all(call.startswith("-DMINE=1 ") for call in calls)
    monkeypatch.setenv("CC", f"{shlex.quote(str(script))} -DMINE=2")
    assert double(shift=1)
    assert len(notes.read_text().splitlines()) == 4  # another compiler's runtime is another


@pytest.mark.usefixtures("cache")
def test_the_runtime_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, notes = compiler_that_notes(tmp_path)
    monkeypatch.setenv("CC", str(script))
    assert double()
    assert double(shift=1)
    assert double(shift=2)
    assert len(notes.read_text().splitlines()) == 1 + 3


def test_the_first_compiler_that_is_there_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("cc", "clang", "gcc"):
        (tmp_path / name).touch(mode=0o755)
        assert c_compiler.command() == [name]


@pytest.mark.usefixtures("cache")
def test_without_a_compiler_a_compiled_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert double()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert double()
    assert refusal(shift=1).endswith("C compiler: install gcc, or name another in CC")
    monkeypatch.setenv("CC", "no-such-cc -O9")
    assert refusal(shift=1) == "CC=no-such-cc -O9 names no program that is there"


def test_a_process_without_a_compiler_launches_what_is_compiled(cache: Path) -> None:
    assert double()
    environment = {"TRITON_CACHE_DIR": str(cache), "PATH": "/nonexistent", "CC": ""}
    assert words(Fork(__file__, "print_double()", **environment)) == ["True"]


def print_double() -> None:
    print(double())


# -- stale code


SOURCES = sorted(
    path
    for path in (
        Path(front_half.__file__),
        *Path(backend.__file__).parent.glob("*.py"),
        *Path(backend.__file__).parent.glob("*.[ch]"),
    )
)


def change(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a program that reads it, `file` has one byte more."""
    read = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read(path) + (b" " if path == file else b"")
    )


@pytest.mark.parametrize("file", SOURCES, ids=lambda path: path.name)
def test_what_was_compiled_by_other_code_is_stale(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert double()
    change(file, monkeypatch)
    assert double()
    assert len(list(cache.rglob("_double_kernel.so"))) == 2


@pytest.mark.parametrize("tool", ["bishengir-opt", "bishengir-compile"])
def test_what_was_compiled_by_another_compiler_is_stale(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another size, or of another time."""
    real, mine = front_half.bishengir, tmp_path / tool
    monkeypatch.setattr(front_half, "bishengir", lambda name: mine if name == tool else real(name))

    def key(text: str, time: int) -> str:
        mine.write_text(text)
        os.utime(mine, ns=(time, time))
        return backend.CpuBackend(backend.CPU_TARGET).hash()

    assert key("old", 1) == key("old", 1)
    assert key("old", 1) != key("older", 1)
    assert key("old", 1) != key("new", 2)


@pytest.mark.parametrize(
    "file", [path for path in SOURCES if path.suffix in (".c", ".h")], ids=lambda path: path.name
)
def test_a_runtime_of_other_code_is_stale(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert double()
    change(file, monkeypatch)
    assert double()
    assert len(list(cache.rglob("runtime.o"))) == 2


def test_a_runtime_for_another_processor_is_another(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert double()
    here = host.processor()
    monkeypatch.setattr(host, "processor", lambda: dataclasses.replace(here, c_options=("-DMINE",)))
    assert double(shift=1)
    assert len(list(cache.rglob("runtime.o"))) == 2


def test_another_processor_is_another_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.backends.compiler import GPUTarget

    other = GPUTarget(backend.CpuBackend.name, "generic", 0)
    assert backend.CpuBackend(other).hash() != backend.CpuBackend(backend.CPU_TARGET).hash()


def test_the_runtimes_sources_are_all_there_are() -> None:
    sources = {path for path in SOURCES if path.suffix == ".c"}
    assert set(c_compiler.RUNTIME) == sources


# -- processes side by side


def run_kernels(ready: str = "", all_ready: int = 0) -> None:
    """Body of a process: run three kernels, print what came out.

    With `ready`, a folder, it waits there until `all_ready` processes are about to compile.
    """
    if ready:
        Path(ready, str(os.getpid())).touch()
        deadline = time.monotonic() + 60
        while len(list(Path(ready).iterdir())) < all_ready:
            assert time.monotonic() < deadline, "the other process did not come"
            time.sleep(0.001)
    digest = hashlib.sha256()
    for shift in range(3):
        x = torch.arange(8)
        launch(_double_kernel, (1,), x, SHIFT=shift)
        digest.update(x.numpy().tobytes())
    print(digest.hexdigest(), "TRITON_INTERPRET" in os.environ)


def test_processes_that_start_cold_side_by_side_and_one_after_them(tmp_path: Path) -> None:
    cache, ready = tmp_path / "cache", tmp_path / "ready"
    ready.mkdir()
    call, environment = f"run_kernels({str(ready)!r}, 2)", {"TRITON_CACHE_DIR": str(cache)}
    cold = [Fork(__file__, call, **environment) for _ in range(2)]
    first, second = (words(process) for process in cold)
    assert first == second
    compiled = contents(cache)
    assert len([name for name in compiled if name.endswith(".so")]) == 3

    assert words(Fork(__file__, "run_kernels()", **environment)) == first
    assert contents(cache) == compiled, "the third process compiled"

    digest, interpreted = first
    assert len(digest) == 64
    assert interpreted == "False"
