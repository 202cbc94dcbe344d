"""What the benches measure with, and that nobody runs them by accident."""

import contextlib
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from adversary import SMALL
from bench import clock, rivals, workloads
from bench.roof import Roof
from dsv4_kernels import device as devices
from dsv4_kernels.inputs.prefill import LAYER_RATIOS, make_inputs
from dsv4_kernels.segments import SEGMENTS
from dsv4_kernels.segments.cost import Cost
from reference import bounds, oracle

ACCELERATOR = torch.device("cuda", 0)
CALL_US, HOST_US = 40.0, 300.0


class ClockedDevice:
    """A stand-in for `torch.npu`, whose calls take CALL_US of the device and HOST_US to launch."""

    def __init__(self):
        self.now_us, self.recording = 0.0, None
        device = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at_us = device.now_us

            def synchronize(self):
                pass

            def elapsed_time(self, end):
                return (end.at_us - self.at_us) / 1e3

        class NPUGraph:
            calls = 0

            def replay(self):
                device.now_us += self.calls * CALL_US

        self.Event, self.NPUGraph = Event, NPUGraph

    def synchronize(self, device=None):
        pass

    @contextlib.contextmanager
    def graph(self, graph):
        self.recording = graph
        yield
        self.recording = None

    def launch(self):
        if self.recording is None:
            self.now_us += HOST_US  # the device waits for a host that is slower
        else:
            self.recording.calls += 1


@pytest.fixture
def clocked(monkeypatch):
    device = ClockedDevice()
    monkeypatch.setattr(devices, "stream_api", lambda _: device)
    monkeypatch.setattr(devices, "synchronize", device.synchronize)
    return device


@pytest.mark.parametrize("number", [1, 3])
def test_a_recorded_call_takes_the_devices_time_not_the_hosts(number, clocked):
    times = clock.measure([clocked.launch] * number, ACCELERATOR, graph=True)
    assert times.device_us == pytest.approx(CALL_US)
    assert times.us == times.device_us


def test_a_call_launched_by_the_host_is_timed_as_that(clocked):
    times = clock.measure([clocked.launch] * 3, ACCELERATOR, graph=False)
    assert times.device_us == pytest.approx(HOST_US)


def test_a_cpu_has_no_clock_of_its_own(device):
    calls = []
    times = clock.measure([partial(calls.append, 0)], torch.device("cpu"), graph=True)
    assert times.device_us is None
    assert times.us == times.host_us > 0
    assert len(calls) == clock.HOST_SAMPLES


def test_copies_fill_a_cache_twice_but_no_more_than_a_few():
    assert clock.copies(64 * 2**20, ACCELERATOR) * 64 * 2**20 >= 2 * 192 * 2**20
    assert clock.copies(2**40, ACCELERATOR) == 1
    assert clock.copies(100, ACCELERATOR) == clock.copies(0, ACCELERATOR) == clock.MOST_COPIES
    assert clock.copies(100, torch.device("cpu")) == 1


def test_the_roof_is_bytes_or_flop_whichever_takes_longer():
    roof = Roof(copy_bytes_s=1e12, bf16_flop_s=1e14, int8_flop_s=2e14)
    assert roof.floor_us(Cost(10**6)) == pytest.approx(1.0)
    assert roof.floor_us(Cost(10**6, bf16_flop=10**9)) == pytest.approx(10.0)
    assert roof.floor_us(Cost(10**6, 10**9, 10**9)) == pytest.approx(15.0)
    no_int8 = Roof(1e12, 1e14, None)
    assert no_int8.floor_us(Cost(10**6, int8_flop=1)) is None
    assert no_int8.floor_us(Cost(10**6, bf16_flop=10**9)) == pytest.approx(10.0)


@pytest.mark.parametrize("layer", LAYER_RATIOS)
@pytest.mark.parametrize("start", [0, 200])
def test_a_rival_does_the_same_work(layer, start, seed):
    """So that a race is one: ring, overlay, compressed slots, dead columns and dead rows."""
    inputs = make_inputs(SMALL, layer=layer, tokens=29, capacity=31, start=start, seed=seed)
    wo_b = rivals.split_by_group(inputs.wo_b, SMALL.groups)
    got = rivals.chain(inputs, wo_b)
    want = oracle(*inputs.args(), window=inputs.window)
    # Twice the oracle's bound for full widths: an amax of 40 ranks varies more than one of 1024.
    assert bounds.relative_l2(got[:29], want[:29]) <= 2 * bounds.ORACLE_REL_L2
    assert not got[29:].any()


@pytest.mark.skipif(devices.best().type != "cpu", reason="an accelerator is here")
def test_a_cpu_is_benched_only_if_asked_for(pytestconfig):
    assert pytestconfig.getini("testpaths") == ["tests"]
    command = [sys.executable, "-m", "pytest", "bench", "--collect-only"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "say nothing about one: --cpu" in done.stderr


def test_every_segment_is_in_a_form_that_a_bench_knows():
    """Its buffers come from a chain of that form."""
    assert {*SEGMENTS} == set().union(*workloads.SEGMENTS_OF)
