"""torch.compile around the public entries: a break of the graph, at any length and with any
backend; and what a caller with gradients gets."""

from typing import Any

import pytest
import torch

import children
import dsv4_kernels
from adversary import SMALL
from dsv4_kernels import PrefillSparseAttn, group_quant, prefill_sparse_attn
from dsv4_kernels.inputs.prefill import make_inputs

LENGTHS = (6, 7, 9, 3)


def compiled(backend: str, dynamic: bool | None) -> None:
    """In a process of its own: the compiler keeps what it has learnt."""
    try:
        print(frames_compiled(backend, dynamic))
    except Exception as error:
        print(type(error).__name__)


def frames_compiled(backend: str, dynamic: bool | None) -> int:
    import torch._dynamo
    import torch._inductor.config

    torch._inductor.config.cpp.vec_isa_ok = True  # or each vector unit is tried by a C++ program
    plain: Any = torch.compile(prefill_sparse_attn, backend=backend, dynamic=dynamic)
    entry: Any = prefill_sparse_attn
    around: Any = torch.compile(
        lambda *args, **named: entry(*args, **named).float() + 1,
        backend=backend,
        dynamic=dynamic,
    )
    quant: Any = torch.compile(lambda o_r: group_quant(o_r + 1), backend=backend, dynamic=dynamic)
    run: Any = torch.compile(
        lambda plan, args: plan.run(*args) + 1, backend=backend, dynamic=dynamic
    )
    for T in LENGTHS:
        inputs = make_inputs(SMALL, tokens=T, start=40)
        args, window = inputs.args(), inputs.window
        want = prefill_sparse_attn(*args, window=window)
        assert plain(*args, window=window).equal(want)
        assert around(*args, window=window).equal(want.float() + 1)
        assert run(PrefillSparseAttn(*args, window=window), args).equal(want + 1)
        o_r = torch.randn(T, 2, 40)
        assert all(map(torch.equal, quant(o_r), group_quant(o_r + 1)))
    # A frame or two of the callers' for each length, and nothing of the package.
    return torch._dynamo.utils.counters["frames"]["total"]


@pytest.mark.parametrize(
    ("backend", "dynamic"), [("eager", True), ("inductor", None), ("inductor", True)]
)
def test_compile_breaks_its_graph_around_an_entry(backend, dynamic):
    said = children.words(children.Fork(__file__, f"compiled({backend!r}, {dynamic})"))
    assert said[-1].isdecimal(), said  # or the name of an error
    assert int(said[-1]) <= 4 * 3 * len(LENGTHS)


def test_there_is_no_gradient_and_the_readers_are_told(device, seed):
    inputs = make_inputs(SMALL, tokens=3, start=40, seed=seed).to(device)
    want = prefill_sparse_attn(*inputs.args(), window=inputs.window)
    args = [
        a.requires_grad_() if isinstance(a, torch.Tensor) and a.is_floating_point() else a
        for a in inputs.args()
    ]
    got = prefill_sparse_attn(*args, window=inputs.window)
    assert not got.requires_grad
    assert got.equal(want)
    for entry in (prefill_sparse_attn, PrefillSparseAttn):
        assert " gradient" in (entry.__doc__ or "")


def test_dir_lists_the_public_names():
    code = "import dsv4_kernels; print(*dir(dsv4_kernels))"
    listed = children.words(children.Fork(__file__, f"print_of({code!r})"))
    assert {*dsv4_kernels.__all__} <= {*listed}


def print_of(code: str) -> None:
    exec(code)
