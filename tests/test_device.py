"""device.py, and what an installation without one of its dependencies says."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
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
from dsv4_kernels.device import Target, cpu, cuda, npu, untraced
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


@pytest.mark.parametrize("value", ["0", "", "2"])
def test_triton_takes_no_other_word_for_its_interpreter(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", value)
    assert devices.require_triton.__wrapped__() is devices.require_triton()


@pytest.mark.parametrize("name", ["triton", "triton._C.libtriton"])
def test_a_broken_triton_is_not_a_missing_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(*_: Any) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.delitem(sys.modules, "triton")
    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=find_spec)])
    with pytest.raises(ImportError) as caught:
        devices.require_triton.__wrapped__()
    missing = name == "triton"
    assert type(caught.value) is (MissingDependency if missing else ModuleNotFoundError)
    assert f"No module named {name!r}" == str(caught.value.__cause__ if missing else caught.value)


def test_an_extra_is_got_from_a_checkout() -> None:
    said = "pip install -e '.[npu,bench]' in a checkout of dsv4-kernels"
    assert devices.with_extra("npu", "bench") == said
    assert issubclass(MissingDependency, ImportError)


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


def test_all_that_a_cpu_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = SimpleNamespace(find_spec=lambda name: None)
    monkeypatch.setattr(cpu, "importlib", SimpleNamespace(util=nothing))
    with pytest.raises(MissingDependency) as caught:
        cpu.driver.__wrapped__(None)
    assert str(caught.value) == (
        "CPU tensors need triton-ascend and ascendnpu-ir (the kernels run there as the code of the "
        "Ascend compiler's front half): pip install -e '.[cpu]' in a checkout of dsv4-kernels, "
        "into an environment without upstream triton"
    )


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


class Driver:
    """Stands for one that launches nothing, and a gate's, which records what is refused inside."""

    def __init__(self) -> None:
        self.recording = 0

    @contextlib.contextmanager
    def recording_refusals(self) -> Iterator[None]:
        self.recording += 1
        yield


META = torch.device("meta")
PART = Target("npu", "a part", 1, 2)


def test_a_launch_on_one_device_inside_of_one_on_another(
    marker: Marker, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices._DRIVER._changed, "wait", lambda: pytest.fail("waits for itself"))
    with devices.route("meta", PART, Driver()), devices.on(torch.empty(1, device=device)):
        message = "^a launch on one device inside of a launch on another$"
        with pytest.raises(RuntimeError, match=message), devices.launching(META):
            pytest.fail("launched")
        assert devices._lock(META).acquire(blocking=False)  # nobody's
        devices._lock(META).release()
    assert active_driver() is marker


@needs_cpu_backend
def test_one_driver_at_a_time(marker: Marker) -> None:
    """Who wants another one waits for it, and gets it together with all who want the same."""
    inside, left, other = threading.Event(), threading.Event(), Driver()
    both = threading.Barrier(2, timeout=20)
    seen: list[Any] = []

    def first() -> None:
        with devices.on(torch.empty(1)):
            inside.set()
            time.sleep(0.1)  # the others come meanwhile
            seen.append(active_driver())
            left.set()

    def second(index: int) -> None:
        inside.wait()
        with devices.route("meta", PART, other), devices.launching(torch.device("meta", index)):
            seen.append((left.is_set(), active_driver()))
            both.wait()

    bodies = [(first, ()), (second, (0,)), (second, (1,))]
    threads = [threading.Thread(target=body, args=args, daemon=True) for body, args in bodies]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 20
    for thread in threads:
        thread.join(timeout=max(0.0, end - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads)
    own, *others = seen
    assert not isinstance(own, Driver | Marker)
    assert others == [(True, other)] * 2
    assert active_driver() is marker


def is_free(device: torch.device) -> bool:
    """Whether another thread may launch there."""
    taken: list[bool] = []

    def take() -> None:
        with devices.exclusively(device) as held:
            taken.append(held)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(timeout=20)
    return taken == [True]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_ends_the_wait_for_a_driver_leaves_the_device_free(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def enter(driver: Any) -> None:
        raise error

    monkeypatch.setattr(devices._DRIVER, "enter", enter)
    with pytest.raises(error), devices.route("meta", PART, Driver()), devices.launching(META):
        pytest.fail("launched")
    assert is_free(META)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_device_that_cannot_be_made_current_is_left_free_and_its_driver_is_given_back(
    error: type[BaseException], marker: Marker, device: torch.device, monkeypatch: Any
) -> None:
    class Current:
        def __init__(self, device: torch.device) -> None:
            pass

        def __enter__(self) -> None:
            raise error

    monkeypatch.setattr(devices, "current", Current)
    with pytest.raises(error), devices.launching(device):
        pytest.fail("launched")
    assert active_driver() is marker
    assert is_free(device)


def test_routes_are_by_kind_and_end(marker: Marker) -> None:
    first, second, third = Driver(), Driver(), Driver()
    meta, here = torch.empty(1, device="meta"), torch.empty(1)
    other = Target("cuda", "another part", 3, 4)
    with devices.route("meta", PART, first):
        with devices.route("cpu", other, second), devices.route("meta", other, third):
            for tensor, driver in ((meta, third), (here, second)):
                with devices.on(tensor) as target:
                    assert (target, active_driver()) == (other, driver)
                assert devices.family(tensor.device) == "cuda"
        with devices.on(meta) as target:
            assert (target, active_driver(), first.recording) == (PART, first, 1)
        assert [devices.family(x.device) for x in (meta, here)] == ["npu", "cpu"]
    assert devices.family(META) == "meta"
    with pytest.raises(MissingDependency), devices.on(meta):
        pytest.fail("launched")
    assert active_driver() is marker


def test_the_device_is_current_inside_unless_launches_go_elsewhere(
    marker: Marker, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entered once for every time and left in turn."""
    log: list[str] = []

    class Current:
        def __init__(self, device: torch.device) -> None:
            self.name = f"{device.type} {len(log)}"

        def __enter__(self) -> None:
            log.append(f"enters {self.name}")

        def __exit__(self, *error: object) -> None:
            log.append(f"leaves {self.name} {error}")

    monkeypatch.setattr(devices, "current", Current)
    launching = devices.launching(device)
    with pytest.raises(ZeroDivisionError), launching, launching:
        raise ZeroDivisionError
    nothing = (None, None, None)
    kind = device.type
    assert log == [
        f"enters {kind} 0", f"enters {kind} 1", f"leaves {kind} 1 {nothing}",
        f"leaves {kind} 0 {nothing}",
    ]  # fmt: skip
    with devices.route(kind, PART, Driver()), launching:
        pass
    assert len(log) == 4


def test_a_tensor_without_memory_is_nowhere_current() -> None:
    with devices.current(META):
        assert devices.stream_api(META) is None


def test_a_compiler_asks_once_and_calls_a_function_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def disable(function: Any) -> Any:
        asked.append(function)
        return lambda *args, **kwargs: ("as it is", function(*args, **kwargs))

    def twice(number: int, *, more: int = 0) -> int:
        """Of the number."""
        return 2 * number + more

    function = untraced.untraced(twice)
    assert (function.__name__, function.__doc__) == ("twice", "Of the number.")
    monkeypatch.setattr(untraced, "_UNTRACED", {})
    monkeypatch.setattr(torch.compiler, "disable", disable)
    assert function(3, more=1) == 7
    assert asked == []
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert [function(3, more=1), function(4)] == [("as it is", 7), ("as it is", 8)]
    assert asked == [twice]


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
    target = devices.cuda_target("H100")
    assert (target.kind, target.name, target.memory) == ("cuda", "H100", None)
    for lane in ("cube", "vector"):
        for tasks in (20_480, 2**31 - 1):  # the most that a grid has
            assert target.grid(lane, tasks) == (tasks,)
        assert target.grid(lane, 2**31) == (2**31 - 1,)


def test_best_is_the_cpu_without_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu, "_present", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cpu = devices.best()
    assert cpu == torch.device("cpu")
    threads = torch.get_num_threads()
    assert devices.describe(cpu) == (
        f"CPU, {threads} threads: the Ascend front half's code compiled for this host; its times "
        "say nothing about an NPU"
    )
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
        self.name, self.cores, self.asked, self.named = name, cores, [], []
        self.utils = self

    def is_available(self) -> bool:
        return bool(self.name)

    def current_device(self) -> int:
        return 1

    def device(self, device: Any) -> tuple[str, Any]:
        return ("inside", device)

    def get_device_name(self, device: torch.device) -> str:
        self.named.append(device)
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
        mine = dict(npu=stand_in, cuda=stand_in, device=lambda kind, index: f"{kind}:{index}")
        monkeypatch.setattr(npu, "torch", SimpleNamespace(**mine))
        monkeypatch.setattr(cuda, "torch", SimpleNamespace(**mine))
        return stand_in

    monkeypatch.setattr(npu, "_present", npu._present.__wrapped__)  # without their caches
    monkeypatch.setattr(npu, "target", npu.target.__wrapped__)
    yield put
    sys.modules.pop("torch_npu", None)


def test_torch_npu_without_a_device_is_no_npu(an_npu: Callable[..., StandInNpu]) -> None:
    an_npu("")
    assert npu.best() is None
    assert cuda.best() is None
    an_npu("Ascend910B3")
    assert npu.best() == "npu:1"
    assert cuda.best() == "cuda:1"
    assert devices.best() == "npu:1"  # ahead of a GPU beside it


@pytest.mark.parametrize(
    ("name", "room"),
    [
        ("Ascend910B3", CoreMemory(ub=196608, l1=524288, l0c=131072)),
        ("Ascend910_9392", CoreMemory(ub=196608, l1=524288, l0c=131072)),
        ("Ascend950PR_9599", None),
        ("NotAscend910B3", None),
    ],
)
def test_an_npu_is_asked_for_its_cores(
    name: str, room: Any, an_npu: Callable[..., StandInNpu], marker: Marker
) -> None:
    stand_in = an_npu(name, 24)
    devices.require_triton().runtime.driver.set_active(stand_in)
    device: Any = SimpleNamespace(type="npu", index=3)
    assert npu.target(device) == Target("npu", name, 24, 48, room)
    assert (stand_in.asked, stand_in.named) == ([3], [device])
    assert devices.describe(device) == f"{name} ({device})"
    current: Any = SimpleNamespace(type="npu", index=None)
    npu.target(current)
    assert stand_in.asked[-1] == 0


@pytest.mark.parametrize("family", [npu, cuda], ids=["npu", "cuda"])
def test_an_accelerator_is_what_torch_and_triton_have_of_it(
    family: Any, an_npu: Callable[..., StandInNpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_ENABLE_TASKQUEUE", raising=False)
    stand_in, own, other = an_npu("a part", 24), Driver(), Driver()
    triton = SimpleNamespace(runtime=SimpleNamespace(driver=SimpleNamespace()))
    triton.runtime.driver.default, triton.runtime.driver.active = own, other
    assert family.driver(triton) is own  # whichever is active
    device: Any = SimpleNamespace(type=family.__name__.rpartition(".")[2], index=3)
    assert devices.current(device) == ("inside", device)
    assert devices.stream_api(device) is stand_in
    if family is cuda:
        assert cuda.target(device) == devices.cuda_target("a part")
        assert devices.describe(device) == f"a part ({device})"
        assert stand_in.named == [device] * 2


@pytest.mark.parametrize("kind", ["npu", "cuda"])
def test_streams_graphs_and_waits_are_the_device_s(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    device: Any = SimpleNamespace(type=kind)
    tensor: Any = SimpleNamespace(device=device, record_stream=said.append)
    devices.keep_for(tensor, "a stream")
    monkeypatch.setattr(torch, kind, SimpleNamespace(synchronize=said.append), raising=False)
    devices.synchronize(device)
    assert said == ["a stream", device]
    api = SimpleNamespace(is_current_stream_capturing=lambda: "whether")
    assert devices.is_capturing(api) == "whether"
    api.CUDAGraph = lambda: "a CUDA graph"  # torch.npu has both names of some things
    assert devices.graph(api) == "a CUDA graph"
    api.NPUGraph = lambda: "an NPU graph"
    assert devices.graph(api) == "an NPU graph"


def test_of_a_cpu_nothing_is_kept_or_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        pytest.fail("a CPU has no streams")

    monkeypatch.setattr(torch.Tensor, "record_stream", fail)
    monkeypatch.setattr(torch.cpu, "synchronize", fail)
    devices.keep_for(torch.empty(1), None)
    devices.synchronize(torch.device("cpu"))


@pytest.mark.parametrize(
    ("value", "synchronous"),
    [(None, False), ("true", False), ("True", False), ("1", False), ("0", True), ("Off", True)],
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

    def plan() -> Any:
        return devices.stream_api(device)

    def entry() -> Any:
        return plan()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert entry() is stand_in
    said = f"TRITON_ENABLE_TASKQUEUE={value} makes every launch synchronous: lanes will not overlap"
    assert [str(warning.message) for warning in caught] == ([said] if synchronous else [])
    # Whoever makes a plan is told, not the plan.
    assert all(warning.lineno == entry.__code__.co_firstlineno + 1 for warning in caught)


@needs_cpu_backend
def test_a_cpu_has_as_many_cores_as_torch_has_threads() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with devices.on(torch.empty(1)) as target:
                assert target == Target("cpu", "CPU", threads, threads, None)
            said = devices.describe(torch.device("cpu"))
            assert said.startswith(f"CPU, {threads} threads: ")
    finally:
        torch.set_num_threads(before)
