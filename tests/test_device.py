"""device.py, and what an installation without one of its dependencies says."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import dsv4_kernels
from dsv4_kernels import MissingDependency
from dsv4_kernels import device as devices
from dsv4_kernels.__main__ import COMMANDS
from dsv4_kernels.device import Target, cpu, npu
from dsv4_kernels.device.target import CoreMemory

REPOSITORY = Path(__file__).resolve().parents[1]

needs_cpu_backend = pytest.mark.skipif(
    devices.best().type != "cpu", reason="the CPU backend is for machines without an accelerator"
)

# Makes every finder of modules blind for some names, as if they had never been installed.
HIDE = """
import sys

class Blind:
    def __init__(self, finder, hidden):
        self.finder, self.hidden = finder, hidden

    def find_spec(self, name, path=None, target=None):
        if any(name == module or name.startswith(module + ".") for module in self.hidden):
            return None
        find_spec = getattr(self.finder, "find_spec", None)
        return find_spec(name, path, target) if find_spec else None

sys.meta_path[:] = [Blind(finder, {hidden!r}) for finder in sys.meta_path]
"""

LAUNCH = """
import torch
from dsv4_kernels import group_quant
codes, scale = group_quant(torch.full((1, 1, 4), 2.0))
assert codes.tolist() == [[[127] * 4]]
print("launched")
"""

FAILING_LAUNCH = """
import torch, dsv4_kernels
from dsv4_kernels import MissingDependency, device
try:
    with device.on(torch.zeros(1)):
        print("got through")
except MissingDependency as error:
    print(type(error).__name__, error)
"""


def python(script: str, hidden: tuple[str, ...] = (), **environment: str) -> str:
    """What a new interpreter prints that cannot find the hidden modules."""
    path = os.pathsep.join([environment.pop("path_first", ""), str(REPOSITORY)]).strip(os.pathsep)
    process = subprocess.run(
        [sys.executable, "-c", HIDE.replace("{hidden!r}", repr(hidden)) + script],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


# -- what is missing


def test_importing_the_package_imports_torch_only() -> None:
    script = """
import dsv4_kernels
print([name for name in ("triton", "torch_npu", "ascendnpuir", "rich") if name in sys.modules])
"""
    assert python(script) == "[]"


def test_without_triton_the_package_imports_and_says_what_is_missing() -> None:
    script = """
import warnings
warnings.simplefilter("ignore")  # torch tells that there is no numpy
import torch
import dsv4_kernels.dims, dsv4_kernels.inputs.prefill, dsv4_kernels.inputs.rope
print(dsv4_kernels.device.best())
try:
    from dsv4_kernels import proj_a
except ImportError as error:
    print(type(error).__name__, error)
try:
    with dsv4_kernels.device.on(torch.zeros(1)):
        print("got through")
except ImportError as error:
    print(type(error).__name__, error)
"""
    hidden = ("triton", "torch_npu", "ascendnpuir", "rich", "numpy", "pybind11")
    best, segment, launch = python(script, hidden, CUDA_VISIBLE_DEVICES="").splitlines()
    assert best == "cpu"
    assert segment == launch
    assert segment == (
        "MissingDependency no Triton is installed: pip install -e '.[cpu]' in a checkout of "
        "dsv4-kernels, or with [npu] on Ascend, [cuda] on NVIDIA"
    )


def test_without_triton_a_command_is_one_sentence() -> None:
    script = """
import contextlib, io, warnings
warnings.simplefilter("ignore")  # torch tells that there is no numpy
from dsv4_kernels.__main__ import COMMANDS, main
for command in COMMANDS:
    for options in ([], ["--help"]):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = main([command, *options])
        print(code, said.getvalue(), end="")
"""
    said = python(script, ("triton", "ascendnpuir")).splitlines()
    assert len(said) == 2 * len(COMMANDS), said
    assert all(line.startswith("2 dsv4_kernels: no Triton is installed: ") for line in said), said


@needs_cpu_backend
def test_an_interpreter_in_the_compilers_place_is_refused() -> None:
    script = """
import contextlib, io, torch
from dsv4_kernels import MissingDependency
from dsv4_kernels.__main__ import main
try:
    from dsv4_kernels import group_quant
except MissingDependency as error:
    print(error)
with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
    print(main(["demo", "--tokens", "1"]), file=said)
print(said.getvalue())
"""
    launch, command, code = python(script, TRITON_INTERPRET="1").splitlines()
    assert launch.startswith("TRITON_INTERPRET=1 takes Triton's compiler away")
    assert (command, code) == (f"dsv4_kernels: {launch}", "2")


@pytest.mark.parametrize("name", [n for n in dsv4_kernels.__all__ if n.islower()])
def test_without_triton_a_segment_says_how_to_get_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_triton() -> Any:
        raise MissingDependency("no Triton")

    monkeypatch.setattr(devices, "require_triton", without_triton)
    with pytest.raises(MissingDependency, match=r"^no Triton$"):
        getattr(dsv4_kernels, name)


@needs_cpu_backend
def test_without_triton_ascend(tmp_path: Path) -> None:
    """A stand-in for upstream Triton: a driver of its own, and no Ascend backend."""
    modules = {
        "triton/__init__.py": "from triton import runtime\n",
        "triton/backends/__init__.py": "",
        "triton/runtime.py": """
class driver:
    active = default = None

    @classmethod
    def set_active(cls, driver):
        cls.active = driver
""",
    }
    for name, source in modules.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    message = python(FAILING_LAUNCH, path_first=str(tmp_path))
    assert message.startswith("MissingDependency CPU tensors need triton-ascend (")
    assert "pip install -e '.[cpu]' in a checkout of dsv4-kernels" in message
    assert "without upstream triton" in message


@needs_cpu_backend
def test_without_the_part_that_lowers_linalg() -> None:
    message = python(FAILING_LAUNCH, ("ascendnpuir",))
    assert message.startswith("MissingDependency CPU tensors need ascendnpu-ir (")
    assert "pip install -e '.[cpu]' in a checkout of dsv4-kernels" in message


@needs_cpu_backend
def test_a_launch_needs_neither_torch_npu_nor_rich() -> None:
    assert python(LAUNCH, ("torch_npu", "rich")) == "launched"


# -- the package's names


def test_every_name_is_there() -> None:
    for name in dsv4_kernels.__all__:
        assert getattr(dsv4_kernels, name).__name__ == name


@pytest.mark.parametrize("name", ["proj_c", "chain2", "__wrapped__", ""])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"'dsv4_kernels' has no attribute '{name}'"):
        getattr(dsv4_kernels, name)


# -- device.on


class Marker:
    """Stands for a driver that was active before."""


@pytest.fixture
def marker() -> Iterator[Marker]:
    driver = devices.require_triton().runtime.driver
    before = driver.active
    driver.set_active(marker := Marker())
    yield marker
    driver.set_active(before)


def active_driver() -> Any:
    return devices.require_triton().runtime.driver.active


def test_on_gives_the_driver_back(marker: Marker, device: torch.device) -> None:
    tensor = torch.empty(1, device=device)
    with devices.on(tensor) as target:
        assert target.kind == device.type
        inside = active_driver()
        assert inside is not marker
        with devices.on(tensor) as nested:
            assert nested == target
        assert active_driver() is inside
    assert active_driver() is marker


def test_on_gives_the_driver_back_after_an_exception(marker: Marker, device: torch.device) -> None:
    with pytest.raises(ZeroDivisionError), devices.on(torch.empty(1, device=device)):
        raise ZeroDivisionError
    assert active_driver() is marker


def test_on_gives_the_driver_back_where_it_cannot_launch(
    marker: Marker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(triton: Any) -> Any:
        raise MissingDependency

    monkeypatch.setattr(cpu, "driver", missing)
    with pytest.raises(MissingDependency), devices.on(torch.empty(1)):
        pytest.fail("launched")
    assert active_driver() is marker


def test_on_a_device_without_kernels(marker: Marker) -> None:
    message = "no kernel runs on meta: tensors must be on npu, cuda or cpu"
    with (
        pytest.raises(MissingDependency, match=message),
        devices.on(torch.empty(1, device="meta")),
    ):
        pytest.fail("launched")
    assert active_driver() is marker


def test_on_in_two_threads_at_once(marker: Marker, device: torch.device) -> None:
    """One thread leaving must not take the driver from another that is inside."""
    tensor = torch.empty(1, device=device)
    entered, both_inside, left = (threading.Event() for _ in range(3))
    seen: list[Any] = []

    def first() -> None:
        with devices.on(tensor):
            entered.set()
            both_inside.wait(0.2)  # in vain, where one waits for the other to leave
        left.set()

    def second() -> None:
        entered.wait()
        with devices.on(tensor):
            both_inside.set()
            left.wait()
            seen.append(active_driver())

    threads = [threading.Thread(target=body) for body in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(seen) == 1
    assert seen[0] is not marker
    assert active_driver() is marker


# -- targets


@pytest.mark.parametrize(
    ("lane", "tasks", "programs"),
    [
        ("cube", 0, 1),
        ("cube", 1, 1),
        ("cube", 19, 19),
        ("cube", 20, 20),
        ("cube", 21, 20),
        ("vector", 21, 21),
        ("vector", 40, 40),
        ("vector", 2**40, 40),
    ],
)
def test_a_grid_has_no_more_programs_than_cores(lane: Any, tasks: int, programs: int) -> None:
    target = Target("npu", "Ascend910B3", cube_programs=20, vector_programs=40)
    assert target.grid(lane, tasks) == (programs,)


def test_a_gpu_gets_a_program_per_task() -> None:
    for lane in ("cube", "vector"):
        assert devices.cuda_target("H100").grid(lane, 20_480) == (20_480,)


def test_best_is_the_cpu_without_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu, "_present", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cpu = devices.best()
    assert cpu == torch.device("cpu")
    assert "say nothing about an NPU" in devices.describe(cpu)
    devices.synchronize(cpu)


@pytest.mark.parametrize("error", ["ImportError", "OSError"])
def test_torch_npu_without_its_libraries_is_no_npu(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch_npu.py").write_text(f"raise {error}('libascendcl.so: cannot open')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
    try:
        present = npu._present.__wrapped__()
    except (ImportError, OSError) as raised:
        pytest.fail(f"{raised} reached the caller")
    assert present is False


class StandInNpu:
    """What `device/npu.py` asks torch_npu, and Triton's driver, for."""

    def __init__(self, name: str = "", cores: int = 0) -> None:
        self.name, self.cores, self.asked = name, cores, []
        self.utils = self

    def is_available(self) -> bool:
        return bool(self.name)

    def current_device(self) -> int:
        return 1

    def get_device_name(self, device: torch.device) -> str:
        return self.name

    def get_device_properties(self, index: int) -> dict[str, int]:
        self.asked.append(index)
        return {"num_aicore": self.cores, "num_vectorcore": 2 * self.cores}


@pytest.fixture
def an_npu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., StandInNpu]]:
    """Puts a torch_npu in place that loads."""

    def put(*facts: Any) -> StandInNpu:
        stand_in = StandInNpu(*facts)
        (tmp_path / "torch_npu.py").write_text("")
        monkeypatch.syspath_prepend(str(tmp_path))
        # Without the real thing torch has no device of this name.
        mine = SimpleNamespace(npu=stand_in, device=lambda kind, index: f"{kind}:{index}")
        monkeypatch.setattr(npu, "torch", mine)
        return stand_in

    monkeypatch.setattr(npu, "_present", npu._present.__wrapped__)  # without their caches
    monkeypatch.setattr(npu, "target", npu.target.__wrapped__)
    yield put
    sys.modules.pop("torch_npu", None)


def test_torch_npu_without_a_device_is_no_npu(
    an_npu: Callable[..., StandInNpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    an_npu("")
    assert npu.best() is None
    an_npu("Ascend910B3")
    assert npu.best() == "npu:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert devices.best() == "npu:1"  # ahead of a GPU beside it


@pytest.mark.parametrize(
    ("name", "room"),
    [
        ("Ascend910B3", CoreMemory(ub=196608, l1=524288, l0c=131072)),
        ("Ascend910_9392", CoreMemory(ub=196608, l1=524288, l0c=131072)),
        ("Ascend950PR_9599", None),
    ],
)
def test_an_npu_is_asked_for_its_cores(
    name: str, room: Any, an_npu: Callable[..., StandInNpu], marker: Marker
) -> None:
    stand_in = an_npu(name, 24)
    devices.require_triton().runtime.driver.set_active(stand_in)
    device: Any = SimpleNamespace(type="npu", index=3)
    assert npu.target(device) == Target("npu", name, 24, 48, room)
    assert stand_in.asked == [3]
    assert devices.describe(device).startswith(f"{name} (")


@pytest.mark.parametrize(
    ("value", "synchronous"),
    [(None, False), ("true", False), ("True", False), ("1", False), ("0", True), ("off", True)],
)
def test_launches_without_a_queue_are_warned_of(
    value: str | None, synchronous: bool, an_npu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = an_npu("Ascend910B3")
    if value is None:
        monkeypatch.delenv("TRITON_ENABLE_TASKQUEUE", raising=False)
    else:
        monkeypatch.setenv("TRITON_ENABLE_TASKQUEUE", value)
    device: Any = SimpleNamespace(type="npu")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert devices.stream_api(device) is stand_in
    said = [
        str(warning.message).partition(" makes every launch synchronous")[0] for warning in caught
    ]
    assert said == ([f"TRITON_ENABLE_TASKQUEUE={value}"] if synchronous else [])


@needs_cpu_backend
def test_a_cpu_has_as_many_cores_as_torch_has_threads() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with devices.on(torch.empty(1)) as target:
                assert (target.cube_programs, target.vector_programs) == (threads, threads)
    finally:
        torch.set_num_threads(before)
