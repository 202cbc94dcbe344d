"""runtime.c: copies between strided views, called as LLVM's code calls it."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable

import on_cpu
import pytest
import torch

from dsv4_kernels.backends.linalg import c_compiler

pytestmark = on_cpu.only

Copy = Callable[[torch.Tensor, torch.Tensor], None]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """`memrefCopy` on tensors of any strides: (source, destination)."""
    library = tmp_path_factory.mktemp("c") / "runtime.so"
    source = next(path for path in c_compiler.RUNTIME if path.name == "runtime.c")
    options = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fstack-protector-all"]
    subprocess.run([*c_compiler.command(), *options, "-o", library, source], check=True)
    c = ctypes.CDLL(str(library))

    def call(*tensors: torch.Tensor) -> None:
        unranked = []
        for x in tensors:
            start = x.untyped_storage().data_ptr()
            ranked = (ctypes.c_int64 * (3 + 2 * x.dim()))(
                0, start, x.storage_offset(), *x.shape, *x.stride()
            )
            unranked.append((ranked, (ctypes.c_int64 * 2)(x.dim(), ctypes.addressof(ranked))))
        c.memrefCopy(ctypes.c_int64(tensors[0].element_size()), *(both for _, both in unranked))

    return call


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32], ids=str)
@pytest.mark.parametrize(
    ("shape", "source", "destination"),
    [
        ((), (), ()),
        ((7,), (1,), (3,)),
        ((4, 6), (6, 1), (6, 1)),  # one run
        ((4, 6), (6, 1), (9, 1)),  # of a row each
        ((4, 6), (8, 1), (6, 1)),
        ((4, 6), (1, 4), (6, 1)),  # of an element each
        ((4, 3, 5), (30, 5, 1), (15, 5, 1)),  # of two dimensions
        ((2, 3, 2, 3, 2), (2, 4, 12, 24, 72), (80, 26, 12, 4, 2)),
        ((0, 6), (8, 1), (9, 1)),
        ((4, 0), (1, 4), (6, 2)),
        ((3, 0, 2), (7, 2, 3), (1, 2, 9)),
    ],
    ids=str,
)
def test_a_copy_moves_its_elements_and_no_others(shape, source, destination, dtype, copy):
    numbers = torch.arange(300) % 127
    whole, want = (torch.full((300,), -1, dtype=dtype) for _ in range(2))
    read = numbers.to(dtype).as_strided(shape, source, 11)
    want.as_strided(shape, destination, 5).copy_(read)
    copy(read, whole.as_strided(shape, destination, 5))
    assert torch.equal(whole, want)
