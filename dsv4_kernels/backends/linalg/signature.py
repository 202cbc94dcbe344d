"""How a launch hands its arguments to a compiled kernel: as one C structure."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from typing import Any

POINTER = "pointer"

# {type of a scalar argument in MLIR: (in Python, in C)}
_SCALARS: dict[str, tuple[Any, str]] = {
    "i1": (ctypes.c_bool, "_Bool"),
    "i8": (ctypes.c_int8, "int8_t"),
    "i16": (ctypes.c_int16, "int16_t"),
    "i32": (ctypes.c_int32, "int32_t"),
    "i64": (ctypes.c_int64, "int64_t"),
    "f32": (ctypes.c_float, "float"),
    "f64": (ctypes.c_double, "double"),
}
# A rank-1 memref passed by value: allocated, aligned, offset, size, stride.
_MEMREF = ("void *", "void *", "int64_t", "int64_t", "int64_t")


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
            fields.append((f"a{place}", _SCALARS[kind][0]))
    return type("Arguments", (ctypes.Structure,), {"_fields_": fields})


def program(kernel: str, types: Sequence[str]) -> str:
    """C source of `dsv4_program`: one call of `kernel` with the arguments of such a structure."""
    fields, passed, parameters = [], [], [*_MEMREF, *_MEMREF]
    for place, kind in enumerate(types):
        name = f"a{place}"
        if kind == POINTER:
            fields.append(f"void *{name}; int64_t n{place};")
            passed.append(f"a->{name}, a->{name}, 0, a->n{place}, 1")
            parameters += _MEMREF
        else:
            fields.append(f"{_SCALARS[kind][1]} {name};")
            passed.append(f"a->{name}")
            parameters.append(_SCALARS[kind][1])
    parameters += ["int32_t"] * 6
    hidden = ["0, 0, 0, 0, 1"] * 2  # the lock and the workspace, unused here
    places = [f"{three}[{axis}]" for three in ("size", "program") for axis in range(3)]
    return f"""\
#include <stdint.h>
void {kernel}({", ".join(parameters)});
struct arguments {{ {" ".join(fields)} }};
void dsv4_program(const struct arguments *a, const int32_t size[3], const int32_t program[3]) {{
    {kernel}({", ".join([*hidden, *passed, *places])});
}}
"""
