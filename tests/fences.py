"""Tensors with pages beside them that no access survives."""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Sequence

import torch

from dsv4_kernels.buffers import BUFFERS, Buffers
from dsv4_kernels.launcher.graph import Node

PROT_NONE = 0  # the mmap module has no name for it


class Fences:
    """Makes tensors whose last ("after") or first ("before") byte touches a PROT_NONE page."""

    def __init__(self, side: str) -> None:
        self._side = side
        self._memory: list[mmap.mmap] = []  # mapped until the process ends

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous tensor of 0xff bytes: NaN, or -1."""
        size = math.prod(shape) * dtype.itemsize
        if size == 0:
            return torch.empty(tuple(shape), dtype=dtype)  # its pointer is null
        room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(-1, room + 2 * mmap.PAGESIZE)
        self._memory.append(memory)
        first = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + mmap.PAGESIZE
        protect(first - mmap.PAGESIZE, mmap.PAGESIZE)
        protect(first + room, mmap.PAGESIZE)
        address = first + room - size if self._side == "after" else first
        ctypes.memset(address, 0xFF, size)
        array = (ctypes.c_uint8 * size).from_address(address)
        return torch.frombuffer(array, dtype=dtype).view(tuple(shape))

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.empty(tensor.shape, tensor.dtype).copy_(tensor)

    def run(self, nodes: Sequence[Node], waves: Sequence[Buffers]) -> None:
        """An executor for `prefill_sparse_attn`: the workspace is fenced as well."""
        for buffers in waves:
            for name in BUFFERS.keys() & buffers.keys():
                if BUFFERS[name].lifetime in ("wave", "chunk"):
                    buffers[name] = self.empty(buffers[name].shape, buffers[name].dtype)
        for node in nodes:
            print(node.label, flush=True)  # the last line of a process that died says where
            node.run(waves)


def protect(address: int, size: int) -> None:
    """Take away every right to the pages at `address`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), PROT_NONE):
        raise OSError(ctypes.get_errno(), "mprotect")
