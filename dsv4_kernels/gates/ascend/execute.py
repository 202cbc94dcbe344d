"""Launches on CPU tensors, executed as the Ascend compiler's final IR.

with executing("Ascend910B3") as reports:
    codes, scale = group_quant(o_r)
assert not reports[0].findings
"""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from triton.backends import Backend, backends

from dsv4_kernels import device
from dsv4_kernels.backends.hivm.machine import Machine, library
from dsv4_kernels.backends.hivm.memory import Space, View, dense
from dsv4_kernels.backends.hivm.report import Report, Stopped
from dsv4_kernels.backends.hivm.scalar import functions
from dsv4_kernels.buffers import span
from dsv4_kernels.device import Target
from dsv4_kernels.gates.ascend.compiler import AscendCompileBackend, AscendKernel, CompileOnlyDriver
from dsv4_kernels.gates.ascend.launches import PARTS
from dsv4_kernels.gates.ascend.memory import read_plan

# The memories of a core by HIVM's names, and what the module's target calls their sizes, in bits.
_SIZES = {"ub": "UB", "cbuf": "L1", "cc": "L0C", "ca": "L0A", "cb": "L0B"}


@dataclass(frozen=True)
class How:
    """How to execute; see `Machine`."""

    seed: int | None = None
    poison: int = 0xFF
    checked: bool = True
    deaf: Collection[int] = field(default=())


@contextlib.contextmanager
def executing(
    part: str, *, cube_cores: int | None = None, how: How = How()
) -> Iterator[list[Report]]:
    """Inside, launches on CPU tensors run as `part`'s final IR; a report for each, in order.

    cube_cores: how many the grids are made for, with two vector cores each; the part's own unless
    said. Few of them give each program several tasks, as a large batch would.

    A launch raises Stopped where it cannot go on; its report is in the list all the same. Launches
    inside another `executing` go to the inner one.
    """
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}: known are {', '.join(PARTS)}")
    cores = PARTS[part] if cube_cores is None else cube_cores
    driver = _driver(part)
    before = driver.how, driver.reports
    driver.how, driver.reports = how, []
    try:
        with device.route("cpu", Target("npu", part, cores, 2 * cores), driver):
            yield driver.reports
    finally:
        driver.how, driver.reports = before


class ExecutingDriver(CompileOnlyDriver):
    """Compiles what is launched for one part and executes it on the tensors."""

    def __init__(self, part: str) -> None:
        super().__init__(part)
        self.how = How()
        self.reports: list[Report] = []

    def get_current_device(self) -> str:
        return f"execute for {self.part}"

    @contextlib.contextmanager
    def recording_refusals(self) -> Iterator[None]:
        """A kernel that the compiler refuses raises: nothing of it can run."""
        yield

    def launched(self, launch: AscendKernel) -> None:
        try:
            self.reports.append(execute(launch, self.part, self.how))
        except Stopped as stopped:
            self.reports.append(stopped.report)
            raise


@functools.cache
def _driver(part: str) -> ExecutingDriver:
    """One per part and process: Triton keeps launchers, and they their driver."""
    backends[AscendCompileBackend.name] = Backend(AscendCompileBackend, ExecutingDriver)  # pyright: ignore[reportArgumentType]
    return ExecutingDriver(part)


def execute(launch: AscendKernel, part: str, how: How = How()) -> Report:
    """Run a compiled launch on its own arguments, CPU tensors among them.

    Raises ValueError for an operation, a library function or an argument without a model, before
    anything is written, and Stopped where the launch cannot go on.
    """
    kernel = functions(launch.hivm)
    for function in kernel:
        for name in function.calls:
            library(name)
    report = Report(launch.kernel, part, launch.grid, launch.retries)
    machine = Machine(
        kernel,
        report,
        _memory_sizes(launch.hivm),
        seed=how.seed,
        poison=how.poison,
        checked=how.checked,
        deaf=how.deaf,
    )
    workspace = machine.garbage(read_plan(launch.hivm).workspace * launch.grid)
    arguments = [
        None,  # the address of the block flags
        _bytes("gm:lock", np.zeros(0, np.uint8)),
        _bytes("gm:workspace", workspace),
        *_arguments(launch),
        *(launch.grid, 1, 1),
    ]
    begin = time.perf_counter()
    try:
        machine.run(arguments)
    finally:
        report.seconds = time.perf_counter() - begin
    return report


def _memory_sizes(hivm: str) -> dict[str, int]:
    bits = dict(re.findall(r'"(\w+)_SIZE", (\d+)', hivm))
    return {space: int(bits[name]) // 8 for space, name in _SIZES.items()}


def _arguments(launch: AscendKernel) -> Iterator[Any]:
    """The kernel's own: a memory for each tensor, one for tensors that are the same memory."""
    spaces: dict[tuple[int, int], View] = {}
    for name, value in launch.arguments.items():
        if not isinstance(value, torch.Tensor):
            yield value
            continue
        # What lies between rows is the tensor's memory too, and nothing behind the last.
        raw = value.as_strided((span(value),), (1,)).view(torch.uint8).numpy()
        key = (value.data_ptr(), len(raw))
        yield spaces.setdefault(key, _bytes(f"gm:{name.removesuffix('_ptr')}", raw))


def _bytes(name: str, data: np.ndarray[Any, Any]) -> View:
    return dense(Space(name, data), 0, (len(data),), "i8")
