"""Once a capacity has run, nothing that a batch may change compiles anything."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from typing import Any, NoReturn

import pytest
import torch
import triton.language as tl
from triton.runtime.jit import JITFunction

import dsv4_kernels
from adversary import SMALL, adversarial_inputs
from dsv4_kernels import SparseAttn, prefill_sparse_attn, segments, sparse_attn, token_map
from dsv4_kernels import device as devices
from dsv4_kernels.chains.attention import forms_on
from dsv4_kernels.inputs.batch import BatchInputs, Request, make_batch
from dsv4_kernels.segments import kernel as kernels

REQUESTS = (Request(100, 3, key=1), Request(7, 7, key=2), Request(61, 1, key=3))
T = 11  # waves of 3 begin at rows 3, 6, 9 and end with one of 2


class CompiledInService(AssertionError):
    """A launch that has to wait for a compiler."""


@pytest.fixture
def in_service(monkeypatch):
    """A function from whose call on no kernel compiles."""

    def compile(*args: Any, **kwargs: Any) -> NoReturn:
        raise CompiledInService

    def begin() -> None:
        modules = pkgutil.iter_modules(segments.__path__, f"{segments.__name__}.")
        found = [v for m in modules for v in vars(importlib.import_module(m.name)).values()]
        kernels = {id(value): value for value in found if isinstance(value, JITFunction)}
        assert len(kernels) > 12
        monkeypatch.setattr("triton.compiler.compile", compile)  # of one that has not run yet
        for kernel in kernels.values():
            if hasattr(kernel, "compile"):
                monkeypatch.setattr(kernel, "compile", compile)

    return begin


def at_an_odd_row(tensor: torch.Tensor, rows: int = 1) -> torch.Tensor:
    """The same values behind so many rows of others."""
    return torch.cat([tensor.new_zeros((rows, *tensor.shape[1:])), tensor])[rows:]


def at_an_odd_byte(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, one element behind where an allocation begins."""
    memory = tensor.new_zeros(tensor.numel() + 1)
    return memory[1:].view(tensor.shape).copy_(tensor)


def batch_of(requests=REQUESTS, device=torch.device("cpu"), **options: Any) -> BatchInputs:
    options = dict(ratio=4, capacity=T, page_sizes=(16, 8), gap=72) | options
    return make_batch(SMALL, requests, **options).to(device)


def moved(batch: BatchInputs, move: Any) -> BatchInputs:
    tensors = {k: v for k, v in vars(batch).items() if isinstance(v, torch.Tensor)}
    return dataclasses.replace(batch, **{name: move(value) for name, value in tensors.items()})


def places(device: torch.device) -> tuple[Any, ...]:
    """Where a tensor may lie. What has rows of 16 bytes begins on 16 on CUDA, as those rows do."""
    return (at_an_odd_row, *((at_an_odd_byte,) if device.type != "cuda" else ()))


@pytest.mark.parametrize("attention", forms_on(devices.best().type))
@pytest.mark.parametrize("drafts", [None, 40])
@pytest.mark.parametrize(("ratio", "listed"), [(4, True), (128, False), (0, False)])
def test_a_batch_compiles_nothing_behind_the_first(
    ratio, listed, drafts, attention, in_service, device
):
    make = dict(device=device, ratio=ratio, listed=listed, drafts=drafts)
    first = batch_of(**make)
    sparse_attn = functools.partial(dsv4_kernels.sparse_attn, attention=attention)
    want = sparse_attn(*first.args(), **first.options())
    in_service()
    step = 8 if device.type == "cuda" else 1
    for move in places(device):
        other = moved(first, move)
        assert torch.equal(sparse_attn(*other.args(), **other.options()), want)
        out = move(torch.empty_like(want))
        sparse_attn(*other.args(), **other.options(), out=out, wave_tokens=3)
        assert torch.equal(out, want)
    for options in (
        dict(requests=()),
        dict(requests=(Request(16, 1, key=4),)),
        dict(requests=(Request(1, 1, key=4),) * 4),
        dict(requests=(Request(0, 0),) * 300),
        dict(requests=(Request(700, 9, key=5),), gap=0),
        *(dict(gap=gap * step, seed=3) for gap in (1, 7, 8, 9, 1021)),
    ):
        other = batch_of(**make | options)
        sparse_attn(*other.args(), **other.options())
        sparse_attn(*other.args(), **other.options(), wave_tokens=1)


def test_a_shared_map_compiles_nothing_behind_the_first(in_service, device):
    batch = batch_of(device=device)
    mapped = token_map(batch.query_start_loc, batch.seq_lens, T)
    sparse_attn(*batch.args(), **batch.options(), token_map=mapped)
    in_service()
    for move in places(device):
        request, position = (move(x) for x in mapped)
        sparse_attn(*batch.args(), **batch.options(), token_map=(request, position), wave_tokens=3)
        token_map(move(batch.query_start_loc), move(batch.seq_lens), T + 5)


def test_a_plan_s_next_run_compiles_nothing(in_service, device):
    batch = batch_of(device=device)
    plan = SparseAttn(*batch.args(), **batch.options(), wave_tokens=3)
    want = plan.run(*batch.args()).clone()
    in_service()
    for move in places(device):
        assert torch.equal(plan.run(*moved(batch, move).args()), want)


def test_a_chunk_compiles_nothing_behind_the_first(generator, in_service, device):
    inputs = adversarial_inputs(SMALL, T=T, generator=generator, device=device)
    want = prefill_sparse_attn(*inputs.args(), window=inputs.window)
    in_service()
    for move in places(device):
        arguments = [move(x) if isinstance(x, torch.Tensor) else x for x in inputs.args()]
        for options in ({}, dict(wave_tokens=3)):
            out = move(torch.empty_like(want))
            prefill_sparse_attn(*arguments, window=inputs.window, out=out, **options)
            assert torch.equal(out, want)
    for sizes in (
        dict(num_tokens=1), dict(num_tokens=0), dict(K=1), dict(K=16), dict(K=257),
        dict(ori_entries=0, cmp_entries=0), dict(ori_entries=1, cmp_entries=16),
    ):  # fmt: skip
        other = adversarial_inputs(SMALL, T=T, generator=generator, device=device, **sizes)
        prefill_sparse_attn(*other.args(), window=other.window)
        prefill_sparse_attn(*other.args(), window=other.window + 1, wave_tokens=1)


def test_lanes_compile_once_for_their_columns(generator, in_service, device):
    """In blocks, or a block with one of three tails; not for a K between."""

    def run(K: int) -> None:
        inputs = adversarial_inputs(SMALL, T=T, generator=generator, device=device, K=K)
        prefill_sparse_attn(*inputs.args(), window=inputs.window, attention="lanes")

    for K in (128, 144, 160, 192, 384):
        run(K)
    in_service()
    for K in (1, 100, 129, 145, 150, 161, 191, 257, 300):
        run(K)
    with pytest.raises(CompiledInService):
        run(385)


def test_a_constant_that_is_new_compiles(in_service, device):
    """The law's own eyes are open: another page size, which is compiled in, is a new kernel."""
    batch = batch_of(device=device)
    sparse_attn(*batch.args(), **batch.options())
    in_service()
    other = batch_of(device=device, page_sizes=(64, 2))
    with pytest.raises(CompiledInService):
        sparse_attn(*other.args(), **other.options())


def _some_kernel(
    q_ptr, wo_b_ptr, m_ptr, kv_ptr, attn_out_ptr, attn_sink_ptr, rows_ptr, live_slots_ptr, N,
    stride, H: tl.constexpr,
):  # fmt: skip
    pass


@pytest.mark.parametrize("upstream", [False, True])
def test_what_a_kernel_is_compiled_for(upstream, monkeypatch):
    """No number; on CUDA the alignment of what has rows of 16 bytes, or is a workspace."""
    monkeypatch.setattr(kernels, "_UPSTREAM", upstream)
    made = kernels.kernel(_some_kernel)
    assert made.do_not_specialize == ["N", "stride"]
    never = ["attn_out_ptr", "attn_sink_ptr", "live_slots_ptr"]
    always = ["q_ptr", "wo_b_ptr", "m_ptr", "kv_ptr", "rows_ptr"]
    assert {*made.do_not_specialize_on_alignment} == {*never, *([] if upstream else always)}
