"""Matmuls on a CPU: the order of every sum, whatever the tile, the layout or the processor."""

# A @triton.jit body is compiled, not run as Python: its names have other types than they seem to.
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOptionalOperand=false, reportCallIssue=false

from __future__ import annotations

import ctypes
import itertools
import subprocess
from collections.abc import Callable

import on_cpu
import pytest
import torch
import triton
import triton.language as tl
from on_cpu import compilation_error, launch

pytestmark = on_cpu.only


def chunked(a: torch.Tensor, b: torch.Tensor, acc: torch.Tensor, chunk: int) -> torch.Tensor:
    """acc + a @ b by the rule: fp64 sums of `chunk` products in ascending k, each then rounded and
    added in fp32. Products of two bf16 are exact in fp64, so each step here rounds once."""
    wide_a, wide_b = a.double(), b.double()
    for start in range(0, a.shape[1], chunk):
        partial = torch.zeros(acc.shape, dtype=torch.float64)
        for k in range(start, min(start + chunk, a.shape[1])):
            partial = partial + wide_a[:, k, None] * wide_b[k]
        acc = acc + partial.float()
    return acc


def spread(*shape: int, generator: torch.Generator) -> torch.Tensor:
    """bf16 of exponents so far apart that the order of an fp64 sum decides its bits."""
    mantissas = torch.randn(*shape, generator=generator)
    return (mantissas * 2.0 ** torch.randint(-40, 41, shape, generator=generator)).bfloat16()


def cancelling(a: torch.Tensor, b: torch.Tensor) -> None:
    """Make most products the negative of the one 16 places before, so that what is left of a
    chunk's sum are its rounding errors, and the order of k decides the result."""
    for k in range(a.shape[1]):
        if k % 32 > 16:
            a[:, k], b[k] = a[:, k - 16], -b[k - 16]


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.view(torch.int32)


# -- through Triton


@triton.jit
def _matmul_kernel(a_ptr, b_ptr, c_ptr, K, M: tl.constexpr, N: tl.constexpr, K_TILE: tl.constexpr):
    m = tl.arange(0, M)[:, None]
    n = tl.arange(0, N)[None, :]
    k = tl.arange(0, K_TILE)
    acc = tl.zeros((M, N), c_ptr.dtype.element_ty)
    for k0 in range(0, K, K_TILE):
        a = tl.load(a_ptr + m * K + (k0 + k)[None, :])
        b = tl.load(b_ptr + (k0 + k)[:, None] * N + n)
        acc = tl.dot(a, b, acc, out_dtype=c_ptr.dtype.element_ty)
    tl.store(c_ptr + m * N + n, acc)


@triton.jit
def _rescaled_kernel(
    a_ptr, b_ptr, scale_ptr, c_ptr, steps,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, SCALE_FIRST: tl.constexpr,
):  # fmt: skip
    """An online softmax's o: rescaled, and added to, in every step."""
    m = tl.arange(0, M)[:, None]
    n = tl.arange(0, N)[None, :]
    k = tl.arange(0, K)
    c = tl.zeros((M, N), tl.float32)
    for step in range(0, steps):
        a = tl.load(a_ptr + step * M * K + m * K + k[None, :])
        b = tl.load(b_ptr + step * K * N + k[:, None] * N + n)
        scale = tl.load(scale_ptr + step * M + m)
        c = tl.dot(a, b, scale * c) if SCALE_FIRST else tl.dot(a, b, c * scale)
    tl.store(c_ptr + m * N + n, c)


@triton.jit
def _transposes_kernel(
    a_ptr, at_ptr, b_ptr, c_ptr, d_ptr, e_ptr, t_ptr,
    M: tl.constexpr, K: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """c = a @ b.T, d = at.T @ b.T with b.T written down as well, e = b @ a.T."""
    m, k, n = tl.arange(0, M), tl.arange(0, K), tl.arange(0, N)
    a = tl.load(a_ptr + m[:, None] * K + k[None, :])
    at = tl.load(at_ptr + k[:, None] * M + m[None, :])
    b = tl.load(b_ptr + n[:, None] * K + k[None, :])
    tl.store(c_ptr + m[:, None] * N + n[None, :], tl.dot(a, tl.trans(b)))
    bt = tl.trans(b)
    tl.store(t_ptr + k[:, None] * N + n[None, :], bt)
    tl.store(d_ptr + m[:, None] * N + n[None, :], tl.dot(tl.trans(at), bt))
    tl.store(e_ptr + n[:, None] * M + m[None, :], tl.dot(b, tl.trans(a)))


@triton.jit
def _two_sums_kernel(a_ptr, b_ptr, c_ptr, T: tl.constexpr):
    """acc, acc + a @ b and acc + a @ b + b @ a: each accumulator is used after it was added to, and
    b after half of it was masked."""
    i = tl.arange(0, T)[:, None] * T + tl.arange(0, T)[None, :]
    a = tl.load(a_ptr + i)
    b = tl.load(b_ptr + i)
    acc = tl.load(c_ptr + i)
    tl.store(c_ptr + 4 * T * T + i, tl.where(i % 2 == 0, b, 0.0).to(tl.float32))
    first = tl.dot(a, b, acc)
    second = tl.dot(b, a, first)
    tl.store(c_ptr + T * T + i, first)
    tl.store(c_ptr + 2 * T * T + i, second)
    tl.store(c_ptr + 3 * T * T + i, acc)


@pytest.mark.parametrize("k_tile", [16, 64, 128, 256, 512])
def test_a_matmul_adds_chunk_by_chunk(k_tile: int, generator: torch.Generator) -> None:
    """Products are summed exactly within a chunk, chunks in fp32 in ascending order."""
    from dsv4_kernels.backends.linalg.matmul import CHUNK

    M, K, N = 16, 1024, 32
    a = torch.randn(M, K, generator=generator).to(torch.bfloat16)
    b = torch.randn(K, N, generator=generator).to(torch.bfloat16)
    chunk = min(CHUNK, k_tile)

    def summed(starts: list[int]) -> torch.Tensor:
        total = torch.zeros(M, N)
        for k in starts:
            partial = a[:, k : k + chunk].double() @ b[k : k + chunk].double()
            total = total + partial.float()
        return total

    starts = list(range(0, K, chunk))
    want = summed(starts)
    assert not torch.equal(want, summed(starts[::-1])), "these inputs cannot tell the order"
    c = torch.full((M, N), torch.nan)
    launch(_matmul_kernel, (1,), a, b, c, K, M=M, N=N, K_TILE=k_tile)
    assert torch.equal(c, want)


def test_the_tile_of_a_matmul_changes_no_bit(generator: torch.Generator) -> None:
    M, K, N = 16, 1024, 32
    a = torch.randn(M, K, generator=generator).to(torch.bfloat16)
    b = torch.randn(K, N, generator=generator).to(torch.bfloat16)
    tiles = (128, 256, 512)  # the sweep of proj_a's A_K_TILE
    c = torch.full((len(tiles), M, N), torch.nan)
    for out, k_tile in zip(c, tiles, strict=True):
        launch(_matmul_kernel, (1,), a, b, out, K, M=M, N=N, K_TILE=k_tile)
    assert torch.equal(c, c[:1].expand_as(c))
    torch.testing.assert_close(c[0].double(), a.double() @ b.double(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("k_tile", [16, 64, 128])
def test_an_int8_matmul_is_exact(k_tile: int, generator: torch.Generator) -> None:
    M, K, N = 16, 256, 32
    a = torch.randint(-128, 128, (M, K), generator=generator, dtype=torch.int8)
    b = torch.randint(-128, 128, (K, N), generator=generator, dtype=torch.int8)
    a[0], b[:, 0] = -128, -128  # the largest sum there is
    c = torch.full((M, N), -1, dtype=torch.int32)
    launch(_matmul_kernel, (1,), a, b, c, K, M=M, N=N, K_TILE=k_tile)
    assert torch.equal(c, (a.long() @ b.long()).int())
    assert c[0, 0] == 128 * 128 * K


@pytest.mark.parametrize("k_tile", [32, 128, 512])
def test_the_order_within_a_chunk_is_ascending(k_tile: int, generator: torch.Generator) -> None:
    M, K, N = 16, 512, 32
    a, b = spread(M, K, generator=generator), spread(K, N, generator=generator)
    cancelling(a, b)
    chunk = min(128, k_tile)
    want = chunked(a, b, torch.zeros(M, N), chunk)
    backwards = torch.arange(K).view(-1, chunk).flip(1).flatten()
    other = chunked(a[:, backwards], b[backwards], torch.zeros(M, N), chunk)
    assert not torch.equal(want, other), "these inputs cannot tell the order"
    c = torch.full((M, N), torch.nan)
    launch(_matmul_kernel, (1,), a, b, c, K, M=M, N=N, K_TILE=k_tile)
    assert torch.equal(bits(c), bits(want))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8], ids=str)
def test_transposed_operands(dtype: torch.dtype, generator: torch.Generator) -> None:
    """Also one transpose that is wanted for itself."""
    M, K, N = 16, 64, 32
    a = torch.randint(-9, 9, (M, K), generator=generator).to(dtype)
    b = torch.randint(-9, 9, (N, K), generator=generator).to(dtype)
    sums = torch.float32 if dtype == torch.bfloat16 else torch.int32
    c, d = torch.full((2, M, N), 77, dtype=sums)
    e, t = torch.full((N, M), 77, dtype=sums), torch.full((K, N), 77, dtype=dtype)
    launch(_transposes_kernel, (1,), a, a.T.contiguous(), b, c, d, e, t, M=M, K=K, N=N)
    want = (a.double() @ b.double().T).to(sums)
    assert torch.equal(c, want)
    assert torch.equal(d, want)
    assert torch.equal(e, want.T)
    assert torch.equal(t, b.T)


def test_a_value_that_is_used_again_is_not_overwritten(generator: torch.Generator) -> None:
    T = 16
    a, b = torch.randint(-9, 9, (2, T, T), generator=generator).bfloat16()
    c = torch.full((5, T, T), torch.nan)
    c[0] = torch.randint(-9, 9, (T, T), generator=generator)
    acc, first = c[0].clone(), c[0] + a.float() @ b.float()
    launch(_two_sums_kernel, (1,), a, b, c, T=T)
    second = first + b.float() @ a.float()
    masked = b.float() * (torch.arange(T) % 2 == 0)
    assert torch.equal(c, torch.stack([acc, first, second, acc, masked]))


def test_a_folded_transpose_is_not_computed() -> None:
    """The linalg of proj_a's dot: what is left of the transpose is a view."""
    from dsv4_kernels.backends.linalg.matmul import expand_matmuls

    linalg = """\
module {
  func.func @k(%w: tensor<16x32xbf16>, %a: tensor<16x32xbf16>, %c: tensor<16x16xf32>) {
    %0 = tensor.empty() : tensor<32x16xbf16>
    %t = linalg.transpose ins(%w : tensor<16x32xbf16>) outs(%0 : tensor<32x16xbf16>) \
permutation = [1, 0]
    %1 = linalg.matmul ins(%a, %t : tensor<16x32xbf16>, tensor<32x16xbf16>) \
outs(%c : tensor<16x16xf32>) -> tensor<16x16xf32>
    return
  }
}
"""
    once = expand_matmuls(linalg)
    assert "linalg" not in once
    assert once.count("@matmul_bf16") == 2  # the call and the declaration
    used = linalg.replace("    return\n", "    %2 = tensor.dim %t, %c0\n    return\n")
    assert expand_matmuls(used).count("linalg.transpose") == 1


def test_a_matmul_that_cannot_be_lowered_says_which(generator: torch.Generator) -> None:
    a, b = torch.randn(2, 16, 16, generator=generator)
    c = torch.full((16, 16), 77.0)
    where = "kernel `_matmul_kernel`, stage `llvm_dialect`: .*linalg.matmul"
    with pytest.raises(compilation_error(), match=where):
        launch(_matmul_kernel, (1,), a, b, c, 16, M=16, N=16, K_TILE=16)
    assert (c == 77).all()


# -- the C by itself: any size and layout


def lanes_options() -> list[tuple[str, ...]]:
    """Options of the vectors that this processor has: 16 bytes always, its own, and FMA apart."""
    from dsv4_kernels.backends.linalg import host

    return [(), host.processor().c_options, (*host.processor().c_options, "-ffp-contract=off")]


Matmul = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


@pytest.fixture(scope="module", params=range(3), ids=["baseline", "host", "no-fma"])
def matmul(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Matmul:
    """`matmul.c` built for vectors of one size, as acc += a @ b on tensors of any strides."""
    from dsv4_kernels.backends.linalg import c_compiler
    from dsv4_kernels.backends.linalg.matmul import CHUNK

    library = tmp_path_factory.mktemp("c") / "matmul.so"
    source = next(path for path in c_compiler.RUNTIME if path.name == "matmul.c")
    options = ["-O3", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-DCHUNK={CHUNK}"]
    subprocess.run(
        [*c_compiler.command(), *options, *lanes_options()[request.param], "-o", library, source],
        check=True,
    )
    c = ctypes.CDLL(str(library))

    class Matrix(ctypes.Structure):
        _fields_ = [
            ("allocated", ctypes.c_void_p),
            ("aligned", ctypes.c_void_p),
            ("offset", ctypes.c_int64),
            ("size", ctypes.c_int64 * 2),
            ("stride", ctypes.c_int64 * 2),
        ]

    def matrix(x: torch.Tensor) -> Matrix:
        start = x.untyped_storage().data_ptr()
        return Matrix(None, start, x.storage_offset(), (*x.shape,), (*x.stride(),))

    def call(a: torch.Tensor, b: torch.Tensor, acc: torch.Tensor) -> None:
        kind = {torch.bfloat16: "bf16", torch.int8: "i8"}[a.dtype]
        function = getattr(c, f"_mlir_ciface_matmul_{kind}")
        function(*(ctypes.byref(matrix(x)) for x in (a, b, acc)))

    return call


# M around one block of 6 rows and one tile of 132, N around vectors of every width, K around a
# chunk and a tile of several.
SHAPES = [
    *itertools.product((1, 5, 6, 7), (1, 7, 8, 9, 16, 31, 33), (1, 128)),
    (131, 12, 3), (132, 12, 3), (133, 12, 3), (270, 9, 2),
    (6, 8, 127), (7, 17, 129), (13, 33, 300), (64, 64, 512),
]  # fmt: skip


@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize(("M", "N", "K"), SHAPES)
def test_any_size_and_layout(
    M: int,
    N: int,
    K: int,
    transposed: tuple[bool, bool],
    matmul: Matmul,
    generator: torch.Generator,
) -> None:
    """bf16 to the bit, inside a larger accumulator of which nothing else may change."""

    def laid_out(rows: int, columns: int, flip: bool) -> torch.Tensor:
        shape = (columns + 3, rows + 2) if flip else (rows + 2, columns + 3)
        whole = spread(*shape, generator=generator)
        return (whole.T if flip else whole)[1 : rows + 1, 2 : columns + 2]

    a, b = laid_out(M, K, transposed[0]), laid_out(K, N, transposed[1])
    cancelling(a, b)
    whole = torch.randn(M + 2, N + 5, generator=generator)
    want = whole.clone()
    want[1 : M + 1, 2 : N + 2] = chunked(a, b, want[1 : M + 1, 2 : N + 2], 128)
    matmul(a, b, whole[1 : M + 1, 2 : N + 2])
    assert torch.equal(bits(whole), bits(want))


@pytest.mark.parametrize(("M", "N", "K"), [(7, 33, 300), (6, 16, 1024), (133, 8, 128)])
def test_int8_of_any_size(
    M: int, N: int, K: int, matmul: Matmul, generator: torch.Generator
) -> None:
    a = torch.randint(-128, 128, (M, K), generator=generator, dtype=torch.int8)
    b = torch.randint(-128, 128, (K, N), generator=generator, dtype=torch.int8)
    a[0], b[:, 0] = -128, -128
    acc = torch.randint(-(2**29), 2**29, (M, N), generator=generator, dtype=torch.int32)
    want = (acc.long() + a.long() @ b.long()).int()
    matmul(a, b, acc)
    assert torch.equal(acc, want)


@pytest.mark.parametrize(("chunk", "compiles"), [(1024, True), (1025, False)])
def test_a_chunk_of_int8_products_is_exact(chunk: int, compiles: bool) -> None:
    """2**10 products of 2**14: the largest sum that fp32 counts one by one."""
    from dsv4_kernels.backends.linalg import c_compiler

    source = next(path for path in c_compiler.RUNTIME if path.name == "matmul.c")
    command = [*c_compiler.command(), "-fsyntax-only", f"-DCHUNK={chunk}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == compiles, done.stderr


# -- zero rows are not multiplied, and nobody can tell


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("b_value", [1.0, -1.0, torch.inf, -torch.inf, torch.nan, 3e38])
@pytest.mark.parametrize("where", [0, 130, 299], ids="k = {}".format)
@pytest.mark.parametrize("flip", [False, True], ids=["rows", "columns"])
def test_zero_rows(zero: float, b_value: float, where: int, flip: bool, matmul: Matmul) -> None:
    """Zero times a number that is not finite is NaN; -0 plus a sum of zeros is +0."""
    a = torch.full((14, 300), zero).bfloat16()
    b = torch.ones(40, 300).bfloat16().T if flip else torch.ones(300, 40).bfloat16()
    b[where, 33] = b_value
    a[13, 5] = 2.0  # not a row of zeros
    acc = torch.full((14, 40), -0.0)
    want = chunked(a, b, acc, 128)
    matmul(a, b, acc)
    assert torch.equal(acc.isnan(), want.isnan())
    numbers = ~want.isnan()
    assert torch.equal(bits(acc)[numbers], bits(want)[numbers])
    assert acc.isnan().any() == (not torch.tensor(b_value).isfinite())


@pytest.mark.parametrize("row", range(13))
def test_a_row_that_is_zero_nearly_everywhere(row: int, matmul: Matmul) -> None:
    """The smallest bf16 there is, in any row of a block and in the last place of a chunk."""
    a = torch.zeros(13, 256).bfloat16()
    a[row, 127] = torch.tensor(1, dtype=torch.int16).view(torch.bfloat16)
    b = torch.full((256, 8), 2.0**120).bfloat16()
    acc = torch.zeros(13, 8)
    matmul(a, b, acc)
    want = torch.zeros(13, 8)
    want[row] = 2.0 ** (-133 + 120)
    assert torch.equal(acc, want)


@pytest.mark.parametrize("scale_first", [False, True])
def test_a_sum_that_is_rescaled_before_it_is_added_to(scale_first, generator):
    """The same bits whichever factor stands first."""
    steps, M, N, K = 3, 16, 32, 64
    a = torch.randn(steps, M, K, generator=generator).bfloat16()
    b = torch.randn(steps, K, N, generator=generator).bfloat16()
    scale, c = torch.rand(steps, M, generator=generator), torch.empty(M, N)
    launch(_rescaled_kernel, (1,), a, b, scale, c, steps, M=M, N=N, K=K, SCALE_FIRST=scale_first)
    want = torch.zeros(M, N)
    for step in range(steps):
        want = chunked(a[step], b[step], scale[step, :, None] * want, chunk=128)
    assert torch.equal(bits(c), bits(want))
