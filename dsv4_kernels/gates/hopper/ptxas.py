"""What NVIDIA's assembler says of a kernel: registers, spills, and what it had to give up."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_PART = re.compile(r"^\.target (\w+)", re.MULTILINE)
_REGISTERS = re.compile(r"Used (\d+) registers")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
# Given as "info" all the same; serialised wgmma for instance, C7510 and its neighbours.
_GIVEN_UP = re.compile(r"^ptxas .*?((?:\(C\d+\) )?Potential Performance Loss: .*)$", re.MULTILINE)


@dataclass(frozen=True)
class Assembly:
    """registers: of a thread. spill_stores, spill_loads: bytes a thread. given_up: in its words."""

    registers: int
    spill_stores: int
    spill_loads: int
    given_up: tuple[str, ...] = ()


def read_log(log: str) -> Assembly:
    """The figures of `ptxas -v` on one kernel. ValueError where the text is not that."""
    registers, spills = _REGISTERS.findall(log), _SPILLS.findall(log)
    if len(registers) != 1 or len(spills) != 1:
        raise ValueError(f"not the log of one kernel by ptxas -v: {log!r}")
    stores, loads = spills[0]
    return Assembly(int(registers[0]), int(stores), int(loads), tuple(_GIVEN_UP.findall(log)))


def assemble(ptx: str, ptxas: Path) -> Assembly:
    """Assemble `ptx` for the part that it names, with the flags that Triton gives.

    RuntimeError where ptxas refuses, ValueError where the text names no part.
    """
    part = _PART.search(ptx)
    if part is None:
        raise ValueError("no .target in the PTX")
    command = [str(ptxas), "-v", "-lineinfo", "--fmad=false", f"--gpu-name={part[1]}"]
    command += ["-", "-o", "/dev/null"]
    done = subprocess.run(command, input=ptx, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ptxas: {done.stderr.strip()}")
    return read_log(done.stderr)
