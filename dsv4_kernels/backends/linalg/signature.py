"""How a launch hands its arguments to a compiled kernel: as one structure, laid out as in C."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Sequence
from typing import Any

POINTER = "pointer"

# {type of a scalar argument in MLIR: in Python}
_SCALARS: dict[str, Any] = {
    "i1": ctypes.c_bool,
    "i8": ctypes.c_int8,
    "i16": ctypes.c_int16,
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "f32": ctypes.c_float,
}


def argument_types(linalg: str) -> list[str]:
    """Types of the kernel's own arguments as compiled.

    Triton drops arguments it turned into constants (an integer that was 1), so the compiled
    signature is the only true list. Around it stand two hidden buffers (lock, workspace) and six
    integers (grid and program id). Raises ValueError where there is no kernel.
    """
    arguments = re.search(r"func\.func @\w+\((.*?)\) attributes", linalg, re.DOTALL)
    if arguments is None:
        raise ValueError(f"no kernel signature in:\n{linalg[:500]}")
    types = re.findall(r"%arg\d+: (memref<[^>]*>|\w+)", arguments.group(1))
    return [POINTER if t.startswith("memref") else t for t in types[2:-6]]


def structure(types: Sequence[str]) -> type[ctypes.Structure]:
    """The arguments of one launch, in the order of `types`: `a0`, `a1`, ...; a pointer is followed
    by the number of its elements, `n0`, ..."""
    fields: list[tuple[str, Any]] = []
    for place, kind in enumerate(types):
        if kind == POINTER:
            fields += [(f"a{place}", ctypes.c_void_p), (f"n{place}", ctypes.c_int64)]
        else:
            fields.append((f"a{place}", _SCALARS[kind]))
    return type("Arguments", (ctypes.Structure,), {"_fields_": fields})


def program(kernel: str, types: Sequence[str]) -> str:
    """`dsv4_program` in the LLVM dialect: one call of `kernel` with the arguments of such a
    structure. grid.c declares it."""
    members: list[str] = []
    passed = ["%null, %null, %zero, %zero, %one"] * 2  # the lock and the workspace, unused here
    for kind in types:
        value = f"%arguments{len(members)}"
        if kind == POINTER:  # a memref is: allocated, aligned, offset, size, stride
            passed.append(f"{value}, {value}, %zero, %arguments{len(members) + 1}, %one")
            members += ["!llvm.ptr", "i64"]
        else:
            passed.append(value)
            members.append(kind)
    passed += [f"%{three}{axis}" for three in ("size", "program") for axis in range(3)]
    loads = [*_loads("arguments", members), *_loads("size", _THREE), *_loads("program", _THREE)]
    memref = "!llvm.ptr, !llvm.ptr, i64, i64, i64"
    parameters = [memref if kind == POINTER else kind for kind in (POINTER, POINTER, *types)]
    return f"""\
llvm.func @dsv4_program(%arguments: !llvm.ptr, %size: !llvm.ptr, %program: !llvm.ptr) {{
  %null = llvm.mlir.zero : !llvm.ptr
  %zero = llvm.mlir.constant(0 : i64) : i64
  %one = llvm.mlir.constant(1 : i64) : i64
  {" ".join(loads)}
  llvm.call @{kernel}({", ".join(passed)}) : ({", ".join([*parameters, *_THREE, *_THREE])}) -> ()
  llvm.return
}}
"""


_THREE = ("i32", "i32", "i32")  # a grid's sizes, a program's place in it


def _loads(structure: str, members: Sequence[str]) -> Iterator[str]:
    """What loads each member of %structure as %structure0, %structure1, ..."""
    layout = f"!llvm.struct<({', '.join(members)})>"
    for place, kind in enumerate(members):
        at, value = f"%{structure}_at{place}", f"%{structure}{place}"
        yield f"{at} = llvm.getelementptr %{structure}[0, {place}]"
        yield f" : (!llvm.ptr) -> !llvm.ptr, {layout}\n  "
        yield f"{value} = llvm.load {at} : !llvm.ptr -> {kind}\n  "
