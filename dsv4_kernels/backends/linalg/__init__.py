"""Kernels on any CPU: the code that the Ascend compiler's own front half produced.

A Triton backend of our own, on top of `front_half.py`: triton-ascend turns an unchanged
``@triton.jit`` kernel into Triton IR and, with its real adapter, into linalg MLIR; from there
upstream MLIR and LLVM make machine code of this host. So what runs is what the NPU compiler is
given - same tiles, same masks, same order of additions - and what is *not* seen here is what
happens below linalg on the chip: buffer sizes, layouts, synchronisation and time.

    lowering.py  linalg -> LLVM dialect -> shared object (bishengir-opt, Triton's LLVM, gcc)
    matmul.py    how a matmul's products are summed
    runtime.c    the one symbol that the generated code calls
    backend.py   the stages after linalg
    driver.py    the launch: a grid on threads

Compiled kernels are cached by Triton, in ``TRITON_CACHE_DIR`` (default ``~/.triton/cache``); files
appear there by atomic renames, so processes may start cold side by side. The number of threads is
``torch.get_num_threads()``.
"""

from __future__ import annotations

import functools

from triton.backends import Backend, backends

from dsv4_kernels.backends.linalg.backend import CPU_TARGET, CpuBackend
from dsv4_kernels.backends.linalg.driver import CpuDriver


@functools.cache
def driver() -> CpuDriver:
    """The driver to make active; registers the backend with Triton on first use."""
    # Triton annotates the fields as instances and fills them with classes, as here.
    backends[CPU_TARGET.backend] = Backend(CpuBackend, CpuDriver)  # pyright: ignore[reportArgumentType]
    return CpuDriver()
