"""What this machine's processor is called, by LLVM and by a C compiler."""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Processor:
    """triple, name: LLVM's. c_options: the same vectors for any gcc or clang."""

    triple: str
    name: str
    c_options: tuple[str, ...] = ()


# Micro-architecture levels of the x86-64 psABI, highest first, by the flags that tell them apart.
# gcc knows the levels by name since 11, the options of their vectors since 5.
_X86_LEVELS = (
    (
        "x86-64-v4",
        {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
        ("-mavx512f", "-mavx512dq", "-mavx2", "-mfma"),
    ),
    ("x86-64-v3", {"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}, ("-mavx2", "-mfma")),
    ("x86-64-v2", {"popcnt", "sse4_1", "sse4_2", "ssse3"}, ("-msse4.2",)),
)


@functools.cache
def processor() -> Processor:
    """This machine's."""
    machine = platform.machine()
    if machine != "x86_64":
        return Processor(f"{machine}-unknown-linux-gnu", "generic")
    cpuinfo = Path("/proc/cpuinfo").read_text()
    flags = set(cpuinfo.partition("\nflags")[2].partition("\n")[0].split())
    for level, needs, options in _X86_LEVELS:
        if needs <= flags:
            return Processor("x86_64-unknown-linux-gnu", level, options)
    return Processor("x86_64-unknown-linux-gnu", "x86-64")
