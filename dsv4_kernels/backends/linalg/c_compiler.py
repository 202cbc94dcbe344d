"""The host's C compiler: needed to compile a kernel, not to run one that is in the cache.

It is ``CC``, which may hold options, or else the first of gcc, clang and cc that is there.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from triton.runtime.cache import get_cache_manager

from dsv4_kernels.backends.linalg import host
from dsv4_kernels.backends.linalg.matmul import CHUNK
from dsv4_kernels.backends.missing import MissingDependency

_HERE = Path(__file__).parent
RUNTIME = tuple(_HERE / name for name in ("runtime.c", "grid.c", "matmul.c"))
_INCLUDED = (_HERE / "matmul.h",)
_OBJECT = "runtime.o"


def command() -> list[str]:
    """The compiler and its own options; MissingDependency where there is none."""
    if chosen := shlex.split(os.environ.get("CC", "")):
        if shutil.which(chosen[0]) is None:
            raise MissingDependency(f"CC={os.environ['CC']} names no program that is there")
        return chosen
    found = next(filter(shutil.which, ("gcc", "clang", "cc")), None)
    if found is None:
        raise MissingDependency(
            "a kernel that is not in the cache yet is compiled for the CPU with the system's C "
            "compiler: install gcc, or name another in CC"
        )
    return [found]


def link(code: bytes) -> bytes:
    """A shared object of `code` (an object file) and of the runtime.

    CalledProcessError carries the linker's message.
    """
    runtime = _runtime()
    with tempfile.TemporaryDirectory(prefix="dsv4-") as name:
        folder = Path(name)
        (folder / "kernel.o").write_bytes(code)
        (folder / _OBJECT).write_bytes(runtime)
        parts = ["kernel.o", _OBJECT, "-lm", "-pthread"]
        _run(folder, ["-shared", "-o", "kernel.so", *parts])
        return (folder / "kernel.so").read_bytes()


def _runtime() -> bytes:
    """The C that all kernels share, as one object file; compiled once and cached like a kernel."""
    options = ["-O3", "-fPIC", "-pthread", *host.processor().c_options, f"-DCHUNK={CHUNK}"]
    digest = hashlib.sha256(" ".join([*command(), *options]).encode())
    for source in (*RUNTIME, *_INCLUDED):
        digest.update(source.read_bytes())
    cache = get_cache_manager(digest.hexdigest())
    if cached := (cache.get_group(_OBJECT) or {}).get(_OBJECT):
        return Path(cached).read_bytes()
    with tempfile.TemporaryDirectory(prefix="dsv4-") as name:
        folder = Path(name)
        _run(folder, [*options, "-nostdlib", "-r", "-o", _OBJECT, *map(str, RUNTIME)])
        compiled = (folder / _OBJECT).read_bytes()
    cache.put_group(_OBJECT, {_OBJECT: cache.put(compiled, _OBJECT)})
    return compiled


def _run(folder: Path, arguments: list[str]) -> None:
    subprocess.run([*command(), *arguments], cwd=folder, capture_output=True, check=True, text=True)
