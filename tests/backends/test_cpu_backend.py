"""Triton on a CPU: arguments, rounding, grids, errors.

The kernels here are this file's own, in plain `tl`: what holds for them holds for the segments.
"""

# A @triton.jit body is compiled, not run as Python: its names have other types than they seem to.
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOptionalOperand=false, reportCallIssue=false
# pyright: reportInvalidTypeForm=false

from __future__ import annotations

import ctypes
import inspect
import os
import subprocess
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import on_cpu
import pytest
import torch
import triton
import triton.language as tl
from on_cpu import compilation_error, launch

from dsv4_kernels import device as devices
from dsv4_kernels.backends import front_half, linalg
from dsv4_kernels.backends.linalg import lowering

pytestmark = on_cpu.only


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory that nothing was compiled into yet, and a front half that knows nothing."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    front_half.linalg_of.cache_clear()
    return tmp_path


@pytest.fixture
def threads() -> Iterator[None]:
    """Lets a test set the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# -- arguments


@triton.jit
def _integers_kernel(a, out_ptr, b, c, unused_ptr, d):
    tl.store(out_ptr + 0, a)
    tl.store(out_ptr + 1, b)
    tl.store(out_ptr + 2, c)
    tl.store(out_ptr + 3, d)


@triton.jit(do_not_specialize=["b", "d"])
def _unspecialised_kernel(a, out_ptr, b, c, unused_ptr, d):
    tl.store(out_ptr + 0, a)
    tl.store(out_ptr + 1, b)
    tl.store(out_ptr + 2, c)
    tl.store(out_ptr + 3, d)


@triton.jit
def _narrow_kernel(out_ptr, a: tl.int8, b: tl.int16):
    tl.store(out_ptr + 0, a.to(tl.int32))
    tl.store(out_ptr + 1, b.to(tl.int32))


@triton.jit
def _floats_kernel(out_ptr, a, n, b):
    tl.store(out_ptr + 0, a)
    tl.store(out_ptr + 1, n * 1.0)
    tl.store(out_ptr + 2, b)


# Triton makes a constant of an integer that is 1 and drops it from the compiled signature.
@pytest.mark.parametrize(
    "kernel", [_integers_kernel, _unspecialised_kernel], ids=lambda k: k.__name__
)
@pytest.mark.parametrize(
    "values",
    [
        (7, 8, 9, 10),
        (1, 7, 8, 9),
        (7, 1, 8, 9),
        (7, 8, 1, 9),
        (7, 8, 9, 1),
        (1, 7, 1, 8),
        (7, 1, 8, 1),
        (1, 1, 1, 1),
        (16, 1, 32, 0),  # multiples of 16 are specialised as well, but stay arguments
    ],
    ids=str,
)
def test_an_integer_of_one_shifts_no_other(kernel: Any, values: tuple[int, ...]) -> None:
    out = torch.full((4,), -1, dtype=torch.int64)
    launch(kernel, (1,), values[0], out, values[1], values[2], torch.empty(1), values[3])
    assert out.tolist() == list(values)


@pytest.mark.parametrize(
    "values",
    [
        (-1, -(2**31), 2**31 - 1, 0),  # i32
        (2**31, -(2**31) - 1, 2**63 - 1, -(2**63)),  # i64
        (-7, 2**40, -3, 1),
        (True, 5, False, -5),
    ],
    ids=str,
)
def test_wide_and_negative_integers(values: tuple[int, ...]) -> None:
    out = torch.full((4,), 77, dtype=torch.int64)
    launch(_integers_kernel, (1,), values[0], out, values[1], values[2], torch.empty(1), values[3])
    assert out.tolist() == [int(value) for value in values]


def test_narrow_integers() -> None:
    out = torch.full((2,), 77, dtype=torch.int32)
    launch(_narrow_kernel, (1,), out, -128, -(2**15))
    assert out.tolist() == [-128, -(2**15)]


@pytest.mark.parametrize("n", [1, -3])
@pytest.mark.parametrize(
    ("a", "b"),
    [(0.1, -0.1), (1.0, -2.5), (1e-45, -0.0), (1e40, -torch.inf), (torch.nan, 3.4e38)],
)
def test_floats(a: float, n: int, b: float) -> None:
    out = torch.full((3,), 77.0)
    launch(_floats_kernel, (1,), out, a, n, b)
    want = torch.tensor([a, n, b], dtype=torch.float64).to(torch.float32)
    torch.testing.assert_close(out, want, rtol=0, atol=0, equal_nan=True)
    assert out.signbit()[2] == want.signbit()[2]  # -0.0


@triton.jit
def _erf_kernel(x_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + i, tl.erf(tl.load(x_ptr + i)))


def test_a_function_of_libm(generator: torch.Generator) -> None:
    x = torch.randn(64, generator=generator)
    want = torch.erf(x)
    launch(_erf_kernel, (2,), x, BLOCK=32)
    torch.testing.assert_close(x, want, rtol=1e-6, atol=0)


# -- rounding


@triton.jit
def _cast_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0)
    tl.store(y_ptr + i, x.to(y_ptr.dtype.element_ty), mask=i < n)


@triton.jit
def _multiply_add_kernel(a_ptr, b_ptr, c_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(a_ptr + i, mask=i < n, other=0.0)
    b = tl.load(b_ptr + i, mask=i < n, other=0.0)
    c = tl.load(c_ptr + i, mask=i < n, other=0.0)
    tl.store(y_ptr + i, a * b + c, mask=i < n)


@triton.jit
def _scalar_multiply_add_kernel(a_ptr, b_ptr, c_ptr, y_ptr, n):
    for i in range(n):
        tl.store(y_ptr + i, tl.load(a_ptr + i) * tl.load(b_ptr + i) + tl.load(c_ptr + i))


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    y = torch.full(x.shape, 77, dtype=dtype)
    launch(_cast_kernel, (triton.cdiv(x.numel(), 4096),), x, y, x.numel(), BLOCK=4096)
    return y


def test_fp32_to_bf16_rounds_to_nearest_even() -> None:
    """Every sign, exponent and bf16 mantissa, with what is cut off below, on and above the tie."""
    kept = torch.arange(2**16, dtype=torch.int64)[:, None] << 16
    cut = torch.tensor([0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    bits = (kept | cut).flatten()
    x = torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32).view(torch.float32)
    y = cast(x, torch.bfloat16)
    assert torch.equal(y.isnan(), x.isnan())
    want = x.to(torch.bfloat16)
    numbers = ~x.isnan()
    assert torch.equal(y.view(torch.int16)[numbers], want.view(torch.int16)[numbers])

    # The same by hand: 0x8000 is the tie, the largest fp32 overflows, infinities stay.
    by_hand = {
        0x3F80_8000: 0x3F80, 0x3F80_8001: 0x3F81, 0x3F81_8000: 0x3F82, 0x3F81_7FFF: 0x3F81,
        0x7F7F_7FFF: 0x7F7F, 0x7F7F_8000: 0x7F80, 0x7F80_0000: 0x7F80, 0x0000_8001: 0x0001,
        0x0000_8000: 0x0000,
    }  # fmt: skip
    x = torch.tensor(list(by_hand), dtype=torch.int32).view(torch.float32)
    got = cast(torch.cat([x, -x]), torch.bfloat16).view(torch.int16).tolist()
    assert got == [*by_hand.values(), *(value - 2**15 for value in by_hand.values())]


def test_bf16_to_fp32_is_exact() -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32)
    y = cast(bits.to(torch.int16).view(torch.bfloat16), torch.float32)
    want = (bits << 16).view(torch.float32)
    assert torch.equal(y.isnan(), want.isnan())
    numbers = ~want.isnan()
    assert torch.equal(y.view(torch.int32)[numbers], want.view(torch.int32)[numbers])


# dsv4_program: what the runtime would run.
MULTIPLY_ADD = """module {
  llvm.func @dsv4_program() {
    llvm.return
  }
  llvm.func @f(%a: f32, %b: f32, %c: f32) -> f32 {
    %m = llvm.fmul %a, %b : f32
    %s = llvm.fadd %m, %c : f32
    llvm.return %s : f32
  }
}
"""


def test_a_product_is_rounded_before_it_is_added(
    generator: torch.Generator, tmp_path: Path
) -> None:
    """As a tile, as a scalar, and as numbers that never see memory: the front half leaves a product
    in a buffer, but the code generator must not depend on that."""
    a, b, c = torch.randn(3, 4099, generator=generator)
    c[::2] = -(a * b)[::2]  # one rounding would leave the error of the product, two leave zero
    product = a * b
    want = product + c
    fused = (a.double() * b.double() + c.double()).float()
    assert not torch.equal(fused, want), "these inputs cannot tell one rounding from two"
    y = torch.full_like(a, torch.nan)
    launch(_multiply_add_kernel, (2,), a, b, c, y, len(a), BLOCK=4096)
    assert torch.equal(y, want)
    y = torch.full_like(a, torch.nan)
    launch(_scalar_multiply_add_kernel, (1,), a, b, c, y, len(a))
    assert torch.equal(y, want)
    (tmp_path / "f.so").write_bytes(lowering.llvm_dialect_to_shared_object(MULTIPLY_ADD))
    f = ctypes.CDLL(str(tmp_path / "f.so")).f
    f.argtypes, f.restype = [ctypes.c_float] * 3, ctypes.c_float
    for i in torch.nonzero(fused != want).flatten().tolist():
        assert f(a[i], b[i], c[i]) == want[i], i


# Each element times its row's factor, plus one, square root: a broadcast and three operations.
OF_EACH_ELEMENT = """module {
  func.func @f(%x_at: memref<8x64xf32>, %row_at: memref<8xf32>, %one: f32,
      %out_at: memref<8x64xf32>) {
    %x = bufferization.to_tensor %x_at restrict : memref<8x64xf32>
    %row = bufferization.to_tensor %row_at restrict : memref<8xf32>
    %empty = tensor.empty() : tensor<8x64xf32>
    %ones = linalg.fill ins(%one : f32) outs(%empty : tensor<8x64xf32>) -> tensor<8x64xf32>
    %factor = linalg.broadcast ins(%row : tensor<8xf32>) outs(%empty : tensor<8x64xf32>)
      dimensions = [1]
    %product = arith.mulf %x, %factor : tensor<8x64xf32>
    %sum = arith.addf %product, %ones : tensor<8x64xf32>
    %root = math.sqrt %sum : tensor<8x64xf32>
    bufferization.materialize_in_destination %root in restrict writable %out_at
      : (tensor<8x64xf32>, memref<8x64xf32>) -> ()
    return
  }
}
"""


def test_what_is_done_to_each_element_is_one_loop() -> None:
    """Compiled one by one, loops are most of what a kernel that is not in the cache costs."""
    module = lowering.linalg_to_llvm_dialect(OF_EACH_ELEMENT)
    assert module.count("llvm.cond_br") == 2  # over the rows, over the columns
    assert module.count("llvm.intr.sqrt") == 1
    assert module.count("unroll = <disable = true>") == 2  # of each loop, and of nothing else


def test_a_kernel_is_compiled_once(tmp_path: Path) -> None:
    """Into the program that calls it, not as a function of its own besides."""
    module = lowering.linalg_to_llvm_dialect("module { func.func @kernel() { return } }")
    program = "llvm.func @dsv4_program() { llvm.call @kernel() : () -> () llvm.return }"
    so = lowering.llvm_dialect_to_shared_object(f"{module.rstrip()[:-1]}{program} }}")
    (tmp_path / "kernel.so").write_bytes(so)
    names = ctypes.CDLL(str(tmp_path / "kernel.so"))
    assert hasattr(names, "dsv4_program")
    assert not hasattr(names, "kernel")


@triton.jit
def _twice(x):
    return 2 * x


@triton.jit
def _twice_kernel(x_ptr, n):
    tl.store(x_ptr + 1, _twice(tl.load(x_ptr)))
    tl.store(x_ptr + 2, _twice(n))


@pytest.mark.usefixtures("empty_cache")
def test_where_a_function_begins_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once a kernel and a type."""
    find, found = inspect.getsourcelines, []

    def told(function: Any) -> Any:
        found.append(function.__name__)
        return find(function)

    monkeypatch.setattr(inspect, "getsourcelines", told)
    for dtype in (torch.float32, torch.int32):
        x = torch.tensor([3, 0, 0], dtype=dtype)
        launch(_twice_kernel, (1,), x, 5)
        assert x.tolist() == [3, 6, 10]
    assert sorted(found) == ["_twice", "_twice_kernel"]


# -- grids


@triton.jit
def _count_kernel(out_ptr, counts_ptr):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    X, Y, Z = tl.num_programs(0), tl.num_programs(1), tl.num_programs(2)
    program = (z * Y + y) * X + x
    tl.store(out_ptr + program, x + 100 * y + 10_000 * z + 1_000_000 * (X * Y * Z))
    tl.store(counts_ptr + program, tl.load(counts_ptr + program) + 1)


@triton.jit
def _scale_kernel(x_ptr, y_ptr, n, factor, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    for start in range(tl.program_id(0) * BLOCK, n, tl.num_programs(0) * BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + i, mask=i < n, other=0.0)
        tl.store(y_ptr + i, tl.exp(x * factor) + SHIFT, mask=i < n)


@pytest.mark.parametrize("grid", [(1,), (7,), (3, 5), (4, 3, 5), (1, 1, 6)], ids=str)
def test_each_program_runs_once(grid: tuple[int, ...]) -> None:
    X, Y, Z = (*grid, 1, 1)[:3]
    memory = torch.full((1000,), -1, dtype=torch.int32)
    counts = torch.zeros(1000, dtype=torch.int32)
    launch(_count_kernel, grid, memory, counts)
    z, y, x = torch.meshgrid(*(torch.arange(n) for n in (Z, Y, X)), indexing="ij")
    want = x + 100 * y + 10_000 * z + 1_000_000 * (X * Y * Z)
    programs = X * Y * Z
    assert torch.equal(memory[:programs].view(Z, Y, X), want.to(torch.int32))
    assert (counts[:programs] == 1).all()
    assert (counts[programs:] == 0).all()


def test_a_name_of_any_length() -> None:
    """Triton calls a kernel's files by the first 150 characters."""
    body = _count_kernel.fn
    named = triton.jit(types.FunctionType(body.__code__, body.__globals__, "k" * 160))
    counts = torch.zeros(2, dtype=torch.int32)
    launch(named, (2,), torch.zeros(2, dtype=torch.int32), counts)
    assert (counts == 1).all()


@triton.jit
def _fill_kernel(x_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x_ptr + i, tl.exp(tl.load(x_ptr + i, mask=i < n, other=0.0)), mask=i < n)


def test_a_launch_gives_its_memory_back() -> None:
    """2000 programs of a tile of 64 KiB or more each: 128 MB, were they kept."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    x = torch.zeros(2**14)
    launch(_fill_kernel, (1,), x, len(x) - 1, BLOCK=2**14)
    before = resident()
    launch(_fill_kernel, (2000,), x, len(x) - 1, BLOCK=2**14)
    assert resident() - before < 2**24


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads_of_torch", [1, 2, 5])
def test_more_programs_than_threads(threads_of_torch: int) -> None:
    torch.set_num_threads(threads_of_torch)
    programs = 97
    out = torch.full((programs,), -1, dtype=torch.int32)
    counts = torch.zeros(programs, dtype=torch.int32)
    launch(_count_kernel, (programs,), out, counts)
    assert torch.equal(out - 1_000_000 * programs, torch.arange(programs, dtype=torch.int32))
    assert (counts == 1).all()


@pytest.mark.usefixtures("empty_cache")
def test_launches_of_several_python_threads(generator: torch.Generator) -> None:
    """The first of them compile as well: nobody did before."""
    x = torch.randn(8, 5000, generator=generator)
    y = torch.full_like(x, torch.nan)

    def scale(row: int) -> None:
        for _ in range(5):
            _scale_kernel[(11,)](x[row], y[row], x.shape[1], 0.1 * row, SHIFT=row % 2, BLOCK=128)

    with devices.on(x), ThreadPoolExecutor(len(x)) as pool:
        list(pool.map(scale, range(len(x))))
    want = torch.full_like(x, torch.nan)
    for row in range(len(x)):
        launch(
            _scale_kernel, (1,), x[row], want[row], x.shape[1], 0.1 * row, SHIFT=row % 2, BLOCK=128
        )
    assert torch.equal(y, want)
    shift = torch.arange(len(x))[:, None] % 2
    exact = torch.exp(x.double() * 0.1 * torch.arange(len(x))[:, None]) + shift
    torch.testing.assert_close(y.double(), exact, rtol=1e-6, atol=0)


def test_hooks_are_called_around_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profiler's: they are told of the launch."""
    from triton.compiler import CompiledKernel

    counts, seen = torch.zeros(1, dtype=torch.int32), []

    def told(name: str) -> Any:
        return lambda launch: seen.append((name, launch.get()["name"], int(counts)))

    for name in ("launch_enter_hook", "launch_exit_hook"):
        monkeypatch.setattr(CompiledKernel, name, told(name))
    launch(_count_kernel, (1,), torch.zeros(1, dtype=torch.int32), counts)
    kernel = "_count_kernel"
    assert seen == [("launch_enter_hook", kernel, 0), ("launch_exit_hook", kernel, 1)]


# -- errors


@triton.jit
def _wrong_pass_kernel(y_ptr):
    tl.store(y_ptr, 1.0)


@triton.jit
def _wrong_runtime_kernel(y_ptr):
    tl.store(y_ptr, 2.0)


@triton.jit
def _wrong_linalg_kernel(y_ptr):
    tl.store(y_ptr, 3.0)


@pytest.mark.usefixtures("empty_cache")
def test_an_error_of_bishengir_opt_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    from dsv4_kernels.backends.linalg import lowering

    monkeypatch.setattr(lowering, "PASSES", (*lowering.PASSES, "--no-such-pass"))
    where = "kernel `_wrong_pass_kernel`, stage `llvm_dialect`: .*no-such-pass"
    y = torch.zeros(1)
    with pytest.raises(compilation_error(), match=where):
        launch(_wrong_pass_kernel, (1,), y)
    assert y == 0
    monkeypatch.undo()  # the failure is not remembered
    launch(_wrong_pass_kernel, (1,), y)
    assert y == 1


@pytest.mark.usefixtures("empty_cache")
def test_an_error_of_gcc_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dsv4_kernels.backends.linalg import c_compiler

    source = tmp_path / "runtime.c"
    source.write_text("int broken(void) { return undeclared; }\n")
    monkeypatch.setattr(c_compiler, "RUNTIME", (source,))
    where = r"kernel `_wrong_runtime_kernel`, stage `so`: (.|\n)*undeclared"
    with pytest.raises(compilation_error(), match=where):
        launch(_wrong_runtime_kernel, (1,), torch.zeros(1))


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize(
    ("linalg", "message"),
    [
        ("garbage", "kernel `<unnamed>`, stage `llvm_dialect`: no kernel signature in:\ngarbage"),
        (
            "func.func @named(%arg0: memref<?xi8>) attributes {} { no_such_op }",
            r"kernel `named`, stage `llvm_dialect`: (.|\n)*no_such_op",
        ),
    ],
)
def test_an_error_in_the_linalg_says_where(
    linalg: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_half.ascend, "ttir_to_linalg", lambda *_, **__: linalg)
    with pytest.raises(compilation_error(), match=message):
        launch(_wrong_linalg_kernel, (1,), torch.zeros(1))


@pytest.mark.usefixtures("empty_cache")
def test_an_error_of_the_front_half_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise subprocess.CalledProcessError(1, "triton-adapter-opt", stderr=b"no such dialect\n")

    monkeypatch.setattr(front_half.ascend, "ttir_to_linalg", fail)
    where = "kernel `_wrong_linalg_kernel`, stage `ttadapter`: no such dialect\n"
    with pytest.raises(compilation_error(), match=where):
        launch(_wrong_linalg_kernel, (1,), torch.zeros(1))


def test_it_is_for_its_own_target_alone() -> None:
    """Triton asks all backends, an accelerator's too, and wants one that answers."""
    from triton.backends.compiler import GPUTarget

    own = linalg.backend.CpuBackend, linalg.driver()
    assert own[0].supports_target(linalg.backend.CPU_TARGET)
    assert not own[0].supports_target(GPUTarget("cuda", 90, 32))
    assert not own[1].is_active()


def test_nothing_is_benched_to_choose_a_tile() -> None:
    with devices.on(torch.empty(0)), pytest.raises(NotImplementedError, match="a device clock"):
        triton.runtime.driver.active.get_benchmarker()
