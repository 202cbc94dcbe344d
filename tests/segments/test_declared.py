"""segment.py by itself: what a launch hands to its kernel, and where a segment is refused."""

import dataclasses
from typing import Any

import numpy
import pytest
import torch

import dsv4_kernels
from adversary import SMALL
from dsv4_kernels import MissingDependency
from dsv4_kernels.contract import Contract, ContractError
from dsv4_kernels.device import Target, cuda_target
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments import SEGMENTS
from dsv4_kernels.segments.group_quant import GroupQuantTiles
from dsv4_kernels.segments.proj_a import ProjATiles
from dsv4_kernels.segments.resolve_slots import ResolveSlotsTiles
from dsv4_kernels.segments.segment import Launch
from dsv4_kernels.segments.tiles import Tiles


class Kernel:
    """Stands for one that is compiled, and keeps what it is run with."""

    def __init__(self) -> None:
        self.runs: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def run(self, *values: Any, **options: Any) -> None:
        self.runs.append((values, options))


def test_a_launch_looks_up_names_and_compiles_once_for_those_beside_it() -> None:
    kernel = Kernel()
    beside = (dict(BLOCK=32), dict(BLOCK=64, ROWS=1))
    launch = Launch(kernel, (3,), ("q", 7, None, "N", 1.5), dict(BLOCK=16, WARPS=4), beside)
    launch(dict(q="a pointer", N=5, other=0))
    *compiled, (values, options) = kernel.runs
    assert all(run[0] == values == ("a pointer", 7, None, 5, 1.5) for run in compiled)
    assert options == dict(grid=(3,), warmup=False, BLOCK=16, WARPS=4)
    warm = dict(grid=(3,), warmup=True, WARPS=4)
    assert sorted((o for _, o in compiled), key=len) == [warm | other for other in beside]
    kernel.runs.clear()
    launch(dict(q="another", N=6))
    assert kernel.runs == [(("another", 7, None, 6, 1.5), options)]
    assert launch.beside == beside


def test_a_segment_is_refused_where_it_is_not_run() -> None:
    segment = dataclasses.replace(SEGMENTS["qk"], not_on={"npu": "a reason"})
    with pytest.raises(
        ContractError, match=r"^qk: `q` must be elsewhere \(a reason\), got a part$"
    ):
        segment._launch(Contract("qk"), Target("npu", "a part", 1, 2), None)


def test_a_segment_takes_and_gives_what_it_declares() -> None:
    segment = dataclasses.replace(
        SEGMENTS["qk"], reads=("q",), updates=("o_packed",), writes=("kv",), numbers=("groups",)
    )
    buffers = dict(q=1, kv=2, o_packed=3, groups=4, other=5)
    assert segment.inputs_of(buffers) == dict(q=1, o_packed=3, groups=4)
    assert segment.outputs_of(buffers) == dict(kv=2, o_packed=3)
    assert segment.core == segment.tiles.core


def test_no_tiles_are_the_device_s_again() -> None:
    tiles = ProjATiles(a_k_tile=64)
    own = SEGMENTS["proj_a"].with_tiles(tiles)
    assert (own.chosen, own.with_tiles(None).chosen) == (tiles, None)


def test_a_call_s_tiles_are_ahead_of_the_chosen_ones(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was launched says which it was."""
    seen: list[Any] = []
    monkeypatch.setattr(Launch, "__call__", lambda self, buffers: seen.append(self.tiles))
    segment = SEGMENTS["group_quant"]
    first, second = (GroupQuantTiles(block_t=n) for n in (1, 2))
    o_r = torch.zeros(2, 1, 4, device=device)
    for chosen, given in ((first, second), (first, None), (None, second)):
        segment.with_tiles(chosen)(given, o_r=o_r)
    segment(None, o_r=o_r)
    assert seen[:3] == [second, first, second]
    assert type(seen[3]) is segment.tiles
    segment.with_tiles(first).bind(dict(o_r=o_r))({})
    assert seen[4] == first


def test_a_call_compiles_what_it_launches_alone(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is bound is run again, and then may need what lies beside it."""
    seen: list[Any] = []
    monkeypatch.setattr(Launch, "__call__", lambda self, buffers: seen.append(self.beside))
    beside = (dict(BLOCK_T=2),)
    own = SEGMENTS["group_quant"]
    segment = dataclasses.replace(
        own, launch=lambda *asked: dataclasses.replace(own.launch(*asked), beside=beside)
    )
    o_r = torch.zeros(2, 1, 4, device=device)
    segment(None, o_r=o_r)
    segment.bind(dict(o_r=o_r))({})
    assert seen == [(), beside]


def test_where_nothing_is_to_be_done_no_device_is_asked() -> None:
    """None runs on meta tensors: a launch would be refused."""
    segment, o_r = SEGMENTS["group_quant"], torch.empty(2, 3, 8, device="meta")
    for given, groups in ((o_r[:0], None), (o_r, range(1, 1))):
        try:
            assert segment.bind(dict(o_r=given), groups)({}) is None
            codes, scale = segment(None, o_r=given, group_range=groups)
        except MissingDependency as error:
            pytest.fail(str(error))
        assert (codes.shape, scale.shape) == (given.shape, (3, len(given)))
    contract = Contract("group_quant", G=1)
    contract.group_range(None)
    assert segment._nothing_to_do(contract, dict(codes=o_r, scale=o_r[:0]))
    assert not segment._nothing_to_do(contract, dict(codes=o_r, scale=o_r))


def test_numbers_are_pythons_own() -> None:
    inputs = make_inputs(SMALL, tokens=3, start=40)
    given = dict(num_tokens=3, window=inputs.window, first_token=0, sharers=1)
    given = {name: numpy.int64(value) for name, value in given.items()}
    _, values = SEGMENTS["resolve_slots"].checked(vars(inputs) | given | dict(tail=128))
    assert all(type(values[name]) is int and values[name] == given[name] for name in given)


def test_one_output_is_no_tuple(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Launch, "__call__", lambda self, buffers: None)
    codes, scale = dsv4_kernels.group_quant(torch.zeros(2, 1, 4, device=device))
    assert (codes.shape, scale.shape) == ((2, 1, 4), (1, 2))
    wo_b = torch.zeros(3, 4, dtype=torch.int8, device=device)
    assert dsv4_kernels.proj_b(torch.zeros_like(codes), wo_b).shape == (1, 2, 3)


# -- tiles


def test_tiles_are_those_of_the_family() -> None:
    for target in (Target("cpu", "CPU", 4, 4), Target("npu", "a part", 20, 40)):
        assert ProjATiles.on(target) == ProjATiles()
        assert ProjATiles(num_warps=8).options(target) == {}
    gpu = cuda_target("a GPU")
    assert ProjATiles.on(gpu) == ProjATiles.cuda() != ProjATiles()
    assert ProjATiles(num_warps=8, num_stages=3).options(gpu) == dict(
        num_warps=8, num_stages=3, enable_fp_fusion=False
    )
    own = ResolveSlotsTiles.on(gpu)
    assert (own.num_warps, own.num_stages) == (4, 2)
    with pytest.raises(NotImplementedError):  # a segment says what it takes
        Tiles().budget({})
