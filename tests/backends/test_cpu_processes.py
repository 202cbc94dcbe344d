"""Launches on a CPU and the life of a process: forks, threads, exits, interrupts.

Each case is a function here that a process of its own runs; it prints what it saw.
"""

# A @triton.jit body is compiled, not run as Python: its names have other types than they seem to.
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOptionalOperand=false, reportCallIssue=false

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import on_cpu
import pytest
import torch
import triton
import triton.language as tl

import dsv4_kernels
from adversary import SMALL
from children import Fork, Interpreter, words
from dsv4_kernels import device as devices
from dsv4_kernels.inputs.batch import Request, make_batch

pytestmark = on_cpu.only

PROGRAMS = 7
BLOCK = 1024


@triton.jit
def _count_kernel(out_ptr, rounds, BLOCK: tl.constexpr):
    """Each program counts its block up to `rounds`, round by round in memory."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    for _ in range(rounds):
        tl.store(out_ptr + i, tl.load(out_ptr + i) + 1)


def count(rounds: int, out: torch.Tensor | None = None) -> bool:
    """Launch it; whether every program did all its rounds."""
    out = torch.zeros(PROGRAMS, BLOCK, dtype=torch.int32) if out is None else out
    with devices.on(out):
        _count_kernel[(PROGRAMS,)](out, rounds, BLOCK=BLOCK)
    return bool((out == rounds).all())


def rounds_in(seconds: float) -> int:
    """How many rounds a launch does in so long a time, here and now."""
    count(2)
    begin = time.perf_counter()
    count(2000)
    return int(2000 * seconds / (time.perf_counter() - begin))


def run(call: str, **environment: str) -> list[str]:
    return words(Fork(__file__, call, **environment), seconds=60)


# -- forks


def exit_code_of_fork(body: Callable[[], bool]) -> int:
    if (pid := os.fork()) == 0:
        os._exit(0 if body() else 3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def active_driver() -> Any:
    return devices.require_triton().runtime.driver.active


def fork_around_launches() -> None:
    torch.set_num_threads(2)
    before = active_driver()
    print(exit_code_of_fork(lambda: active_driver() is before and count(2)), count(2))
    print(exit_code_of_fork(lambda: count(3)), count(4))
    with contextlib.ExitStack() as inside:
        inside.enter_context(devices.on(torch.empty(1)))
        own = active_driver()

        def goes_on() -> bool:
            inside_too = active_driver() is own is not before and count(3)
            inside.close()
            return inside_too and active_driver() is before

        print(exit_code_of_fork(goes_on), active_driver() is own)
    fork_beside_a_launch_on_another_device()


def fork_beside_a_launch_on_another_device() -> None:
    """For which a fork does not wait; another thread is just looking who launches."""
    torch.set_num_threads(2)
    before, other = active_driver(), object()
    inside, forked = threading.Event(), threading.Event()

    def on_meta() -> contextlib.AbstractContextManager[Any]:
        return devices.route("meta", devices.cuda_target("a part"), other)

    def launch() -> None:
        with on_meta(), devices.launching(torch.device("meta")), devices._DRIVER._changed:
            inside.set()
            forked.wait()

    def launches() -> bool:
        signal.alarm(20)  # where it waits for a thread that is not here
        with on_meta(), devices.launching(torch.device("meta")):
            there = active_driver() is other
        return there and active_driver() is before and count(3)

    thread = threading.Thread(target=launch)
    thread.start()
    inside.wait()
    print(exit_code_of_fork(launches))
    forked.set()
    thread.join()
    print(active_driver() is before)


def every_entry_in_a_fork() -> None:
    sys.path.append(str(Path(__file__).parents[1] / "segments"))
    contract = importlib.import_module("test_contract")

    batch = make_batch(SMALL, (Request(9, 2, key=1),), ratio=4)

    def outputs(name: str) -> list[bytes]:
        if name == "sparse_attn":
            made = dsv4_kernels.sparse_attn(*batch.args(), **batch.options())
        else:
            made = getattr(dsv4_kernels, name)(**contract.valid(name))
        made = made if isinstance(made, tuple) else (made,)
        return [bytes(tensor.contiguous().view(torch.uint8).flatten().tolist()) for tensor in made]

    torch.set_num_threads(2)
    before = {name: outputs(name) for name in (*contract.INPUTS, "sparse_attn")}
    print(len(before) >= 14, exit_code_of_fork(lambda: {n: outputs(n) for n in before} == before))


def fork_and_compile() -> None:
    torch.set_num_threads(2)
    assert count(2)
    os.environ["TRITON_CACHE_DIR"] += "-of-the-child"
    _count_kernel.cache.clear()
    print(exit_code_of_fork(lambda: count(3)))


def fork_while_another_thread_launches() -> None:
    torch.set_num_threads(2)
    before = active_driver()
    rounds = rounds_in(0.05)
    stop, failed = threading.Event(), []

    def launch_all_the_time() -> None:
        while not stop.is_set():
            if not count(rounds):
                failed.append(rounds)

    def driver_is_back() -> bool:
        return active_driver() is before

    thread = threading.Thread(target=launch_all_the_time)
    thread.start()
    for _ in range(5):
        time.sleep(0.02)
        print(exit_code_of_fork(lambda: driver_is_back() and count(3)))
    stop.set()
    thread.join()
    print(failed)


class Launches(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, item: int) -> bool:
        return count(item + 2)


def data_loader() -> None:
    torch.set_num_threads(1)  # as many as its workers have
    assert count(2)
    loader = torch.utils.data.DataLoader(
        Launches(), num_workers=2, batch_size=1, multiprocessing_context="fork", timeout=20
    )
    print(torch.cat(list(loader)).tolist())


def test_a_process_forked_after_a_launch_launches() -> None:
    """And ahead of one, in one, and beside one on another device."""
    assert run("fork_around_launches()") == ["0", "True"] * 4


def test_every_entry_and_segment_launches_in_a_fork() -> None:
    assert run("every_entry_in_a_fork()") == ["True", "0"]


def test_a_forked_process_compiles(tmp_path: Path) -> None:
    assert run("fork_and_compile()", TRITON_CACHE_DIR=str(tmp_path / "cache")) == ["0"]


def test_a_process_forked_while_another_thread_launches() -> None:
    assert run("fork_while_another_thread_launches()") == [*"00000", "[]"]


def test_the_workers_of_a_data_loader_launch() -> None:
    assert run("data_loader()") == ["[True,", "True,", "True,", "True]"]


# -- the end of the interpreter


def launch_when_the_main_thread_has_ended() -> None:
    torch.set_num_threads(2)
    assert count(2)

    def launch() -> None:
        threading.main_thread().join()
        print(count(3), flush=True)

    threading.Thread(target=launch).start()


def launch_at_exit() -> None:
    torch.set_num_threads(2)
    assert count(2)
    atexit.register(lambda: print(count(3), flush=True))


def test_a_thread_launches_after_the_main_thread_has_ended() -> None:
    assert words(Interpreter(__file__, "launch_when_the_main_thread_has_ended()")) == ["True"]


def test_a_launch_at_exit() -> None:
    assert words(Interpreter(__file__, "launch_at_exit()")) == ["True"]


# -- interrupts


class Alarm(Exception):
    """What the handler of another signal than Ctrl-C's raises."""


def raise_alarm(*_: Any) -> None:
    raise Alarm


def interrupted(number: int) -> None:
    """A signal comes a quarter into a launch that takes two seconds."""
    torch.set_num_threads(2)
    signal.signal(signal.SIGALRM, raise_alarm)
    # A shell's background job ignores SIGINT, and so would Python in it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rounds = rounds_in(2.0)
    out = torch.zeros(PROGRAMS, BLOCK, dtype=torch.int32)
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    try:
        count(rounds, out)
        print("not interrupted")
    except (KeyboardInterrupt, Alarm):
        at_return = out.clone()
        time.sleep(1.0)
        print("still" if torch.equal(out, at_return) else "written", count(3))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM], ids=lambda n: n.name)
def test_nothing_writes_after_an_interrupted_launch(number: signal.Signals) -> None:
    assert run(f"interrupted({int(number)})") == ["still", "True"]


# -- threads


@pytest.fixture
def threads() -> Iterator[None]:
    """Lets a test set the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def native_threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.usefixtures("threads")
def test_no_thread_outlives_its_launch() -> None:
    assert count(2)
    before = native_threads()
    for number in range(1, 9):
        torch.set_num_threads(number)
        assert count(3)
    assert native_threads() <= before


def launch_on_more_threads_than_are_kept() -> None:
    out = torch.zeros(1000, BLOCK, dtype=torch.int32)
    torch.set_num_threads(400)
    with devices.on(out):
        _count_kernel[(1000,)](out, 3, BLOCK=BLOCK)
    torch.set_num_threads(1)
    print(bool((out == 3).all()))


def test_more_threads_than_a_launch_takes() -> None:
    assert run("launch_on_more_threads_than_are_kept()") == ["True"]


@triton.jit
def _meet_kernel(arrived_ptr, met_ptr, rounds, PROGRAMS: tl.constexpr):
    """Each program arrives, then looks for the others until all are there or it gives up."""
    X, Y = tl.num_programs(0), tl.num_programs(1)
    me = (tl.program_id(2) * Y + tl.program_id(1)) * X + tl.program_id(0)
    other = tl.arange(0, PROGRAMS)
    tl.store(arrived_ptr + me, 1)
    for _ in range(rounds):
        here = tl.sum(tl.load(arrived_ptr + other))
        tl.store(met_ptr + me, tl.maximum(tl.load(met_ptr + me), here))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("number", "grid"), [(1, (4,)), (2, (4,)), (4, (4,)), (2, (1, 4)), (2, (1, 1, 4))], ids=str
)
def test_as_many_programs_at_a_time_as_threads(number: int, grid: tuple[int, ...]) -> None:
    """One thread runs them one after the other, several run them side by side."""
    torch.set_num_threads(number)
    arrived, met = torch.zeros(2, 4, dtype=torch.int32)
    with devices.on(met):
        _meet_kernel[grid](arrived, met, 3_000_000, PROGRAMS=4)
    if number == 1:
        assert met.tolist() == [1, 2, 3, 4]
    else:
        assert met[0] >= 2
