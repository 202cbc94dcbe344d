"""How a matmul is summed on a CPU: chunks of 128 products exactly, chunks one after the other.

    acc[i, j] = acc[i, j] + fp32( sum_{k in chunk} a[i, k] * b[k, j]  in fp64 )    chunks ascending

Plain loops would give every output a serial fp32 sum; this is nearer to the exact one and, like
the plain loops, independent of how a kernel cuts K into tiles (of 128 or more). int8 products are
summed in int32. Every `linalg.matmul` becomes a call of `matmul.c`, which says why its blocks
change no byte; a transposed operand is passed as a view of what it transposes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# The smallest A_K_TILE of the seed's sweep, and as long as the contract of one bit-identical result
# allows: products of two bf16 have 16 bits, so a chunk's sum is exact in fp64 unless its exponents
# spread over more than 30 binades. Narrower tiles (a head_dim of 16, say) are one chunk.
CHUNK = 128

_SUMS = {"bf16": "f32", "i8": "i32"}  # {type of the operands: of the sum}, as matmul.c has them

_MATMUL = re.compile(
    r"(?P<result>%\w+) = linalg\.matmul(?: \{[^}]*\})? "
    r"ins\((?P<a>%\w+), (?P<b>%\w+) : tensor<(?P<M>\d+)x(?P<K>\d+)x(?P<operand>\w+)>, "
    r"tensor<\d+x(?P<N>\d+)x\w+>\) outs\((?P<acc>%\w+) : tensor<\d+x\d+x(?P<sum>\w+)>\) -> \S+"
)
_TRANSPOSE = re.compile(
    r" *(?P<result>%\w+) = linalg\.transpose ins\((?P<source>%\w+) : tensor<\d+x\d+x\w+>\) "
    r"outs\([^)]*\) permutation = \[1, 0\]"
)


def expand_matmuls(linalg: str) -> str:
    """The module's text with every `linalg.matmul` as a call of `matmul.c`.

    Raises ValueError for a matmul of operand types that no kernel here has.
    """
    lines = linalg.splitlines()
    transposes: dict[
        str, tuple[int, str]
    ] = {}  # {name: (its line, the name of what it transposes)}
    called: set[str] = set()
    for place, line in enumerate(lines):
        if found := _TRANSPOSE.match(line):
            transposes[found["result"]] = place, found["source"]
        elif "linalg.matmul" in line:
            found = _MATMUL.search(line)
            if found is None or _SUMS.get(found["operand"]) != found["sum"]:
                raise ValueError(f"no lowering to a CPU for: {line.strip()}")
            called.add(found["operand"])
            lines[place] = _call(found, {name: source for name, (_, source) in transposes.items()})
    unused = set(_unused(lines, {name: place for name, (place, _) in transposes.items()}))
    kept = [line for place, line in enumerate(lines) if place not in unused]
    if called:
        end = max(place for place, line in enumerate(kept) if line.startswith("}"))
        kept[end:end] = [_declaration(operand) for operand in sorted(called)]
    return "\n".join(kept) + "\n"


def _call(matmul: re.Match[str], transposed: dict[str, str]) -> str:
    """The call, which adds to a copy of acc. In acc's own place bufferization would not know that
    the result lies there: acc = s * o in a loop over o was written over before it was read."""
    M, N, K = (int(matmul[letter]) for letter in ("M", "N", "K"))
    result, acc, operand = matmul["result"], matmul["acc"], matmul["operand"]
    dot = f"%dot{result[1:]}"  # prefix of the values in between
    shape = f"<{M}x{N}x{_SUMS[operand]}>"
    acc_type = f"memref{shape}"
    return "\n".join(
        [
            *_view(f"{dot}_a", matmul["a"], M, K, operand, transposed),
            *_view(f"{dot}_b", matmul["b"], K, N, operand, transposed),
            f"{dot}_copy = bufferization.alloc_tensor() copy({acc}) : tensor{shape}",
            f"{dot}_sums = bufferization.to_memref {dot}_copy : {acc_type}",
            f"{dot}_acc = memref.cast {dot}_sums : {acc_type} to {_any(_SUMS[operand])}",
            f"func.call @matmul_{operand}({dot}_a, {dot}_b, {dot}_acc) : {_signature(operand)}",
            f"{result} = bufferization.to_tensor {dot}_sums restrict writable : {acc_type}",
        ]
    )


def _view(
    name: str, value: str, rows: int, columns: int, operand: str, transposed: dict[str, str]
) -> Iterator[str]:
    """A [rows, columns] operand as `name`, without a copy."""
    layout = f"x{operand}, strided<[?, ?], offset: ?>>"
    shape = f"memref<{rows}x{columns}{layout}"
    if value in transposed:
        source = f"memref<{columns}x{rows}{layout}"
        yield f"{name}_source = bufferization.to_memref {transposed[value]} read_only : {source}"
        yield (
            f"{name}_tile = memref.transpose {name}_source (i, j) -> (j, i) : {source} to {shape}"
        )
    else:
        yield f"{name}_tile = bufferization.to_memref {value} read_only : {shape}"
    yield f"{name} = memref.cast {name}_tile : {shape} to {_any(operand)}"


def _unused(lines: list[str], places: dict[str, int]) -> Iterator[int]:
    """Lines of the names that no other line has."""
    for name, place in places.items():
        word = re.compile(rf"{name}\b")
        if not any(word.search(line) for other, line in enumerate(lines) if other != place):
            yield place


def _any(element: str) -> str:
    """A matrix of any shape and layout, which is what matmul.c takes."""
    return f"memref<?x?x{element}, strided<[?, ?], offset: ?>>"


def _signature(operand: str) -> str:
    return f"({_any(operand)}, {_any(operand)}, {_any(_SUMS[operand])}) -> ()"


def _declaration(operand: str) -> str:
    """What makes LLVM call `_mlir_ciface_matmul_*` with a pointer to each matrix."""
    types = _signature(operand).removesuffix(" -> ()")
    return f"func.func private @matmul_{operand}{types} attributes {{llvm.emit_c_interface}}"
