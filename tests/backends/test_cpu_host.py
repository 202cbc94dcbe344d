"""Which code this machine's processor gets: the level of the x86-64 psABI that it has all of."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from dsv4_kernels.backends.linalg import host
from dsv4_kernels.backends.linalg.host import Processor

V2 = {"cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"}
V3 = {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
V4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
NEEDED = {  # what tells a level from the one below; the rest came before or with it
    "x86-64-v2": {"popcnt", "sse4_1", "sse4_2", "ssse3"},
    "x86-64-v3": {"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"},
    "x86-64-v4": V4,
}


def processor(monkeypatch: pytest.MonkeyPatch, flags: set[str], machine: str) -> Processor:
    text = f"processor\t: 0\nflags\t\t: {' '.join(flags)}\nbugs\t\t: avx512f\n"
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    return host.processor.__wrapped__()


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        (V2 | V3 | V4, "x86-64-v4"),
        *((V2 | V3 | V4 - {flag}, "x86-64-v3") for flag in sorted(NEEDED["x86-64-v4"])),
        *((V2 | V3 - {flag}, "x86-64-v2") for flag in sorted(NEEDED["x86-64-v3"])),
        *((V2 - {flag}, "x86-64") for flag in sorted(NEEDED["x86-64-v2"])),
    ],
)
def test_a_level_is_all_its_flags(flags, level, monkeypatch):
    """And no option asks for a vector that is not there."""
    found = processor(monkeypatch, flags, "x86_64")
    assert (found.triple, found.name) == ("x86_64-unknown-linux-gnu", level)
    vectors = [option.removeprefix("-m").replace(".", "_") for option in found.c_options]
    assert {*vectors} <= flags
    assert bool(vectors) == (level in NEEDED)


def test_another_architecture_is_generic(monkeypatch):
    found = processor(monkeypatch, set(), "aarch64")
    assert found == Processor("aarch64-unknown-linux-gnu", "generic")
