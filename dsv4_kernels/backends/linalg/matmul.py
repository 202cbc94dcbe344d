"""How a matmul is summed on a CPU: chunks of 128 products exactly, chunks one after the other.

    acc[i, j] = acc[i, j] + fp32( sum_{k in chunk} a[i, k] * b[k, j]  in fp64 )    chunks ascending

Plain loops would give every output a serial fp32 sum; this is nearer to the exact one and, like
the plain loops, independent of how a kernel cuts K into tiles (of 128 or more). int8 products are
summed in int32 by the same loops. The loops run i, k, j: the innermost runs along rows, and LLVM
vectorises it across outputs without re-ordering any sum.
"""

from __future__ import annotations

import re

# The smallest A_K_TILE of the seed's sweep, and as long as the contract of one bit-identical result
# allows: products of two bf16 have 16 bits, so a chunk's sum is exact in fp64 unless its exponents
# spread over more than 30 binades. Narrower tiles (a head_dim of 16, say) are one chunk.
CHUNK = 128

_MATMUL = re.compile(
    r"(?P<result>%\w+) = linalg\.matmul(?: \{[^}]*\})? "
    r"ins\((?P<a>%\w+), (?P<b>%\w+) : tensor<(?P<M>\d+)x(?P<K>\d+)x(?P<operand>\w+)>, "
    r"tensor<\d+x(?P<N>\d+)x\w+>\) outs\((?P<acc>%\w+) : tensor<\d+x\d+x(?P<sum>\w+)>\) -> \S+"
)

_WIDEN_BF16 = """\
  %wa32 = arith.extf %x : bf16 to f32
  %wb32 = arith.extf %y : bf16 to f32
  %wa = arith.extf %wa32 : f32 to f64
  %wb = arith.extf %wb32 : f32 to f64
  %product = arith.mulf %wa, %wb : f64
  %next = arith.addf %partial, %product : f64"""
_WIDEN_INT8 = """\
  %wa = arith.extsi %x : i8 to i32
  %wb = arith.extsi %y : i8 to i32
  %product = arith.muli %wa, %wb : i32
  %next = arith.addi %partial, %product : i32"""
_ADD_FP32 = """\
  %rounded = arith.truncf %partial : f64 to f32
  %next = arith.addf %sum, %rounded : f32"""
_ADD_INT32 = "  %next = arith.addi %sum, %partial : i32"

# {operand type: (type of a chunk's sum, its zero, body of the products, body of the sum)}
_BODIES = {
    "bf16": ("f64", "0.0", _WIDEN_BF16, _ADD_FP32),
    "i8": ("i32", "0", _WIDEN_INT8, _ADD_INT32),
}


def expand_matmuls(linalg: str) -> str:
    """The module's text with every `linalg.matmul` spelled out as the two loops above.

    Raises ValueError for a matmul of operand types that no kernel here has.
    """
    expanded = _MATMUL.sub(_expand, linalg)
    if "linalg.matmul" in expanded:
        line = next(line for line in expanded.splitlines() if "linalg.matmul" in line)
        raise ValueError(f"no lowering to a CPU for: {line.strip()}")
    return expanded


def _expand(match: re.Match[str]) -> str:
    if match["operand"] not in _BODIES:
        return match[0]
    partial, zero, products, total = _BODIES[match["operand"]]
    M, N, K = (int(match[name]) for name in ("M", "N", "K"))
    chunk = min(CHUNK, K)  # both are powers of two, so chunks fill K
    chunks = K // chunk
    name, a, b, acc, kind = (match[group] for group in ("result", "a", "b", "acc", "sum"))
    a_type = f"tensor<{M}x{chunks}x{chunk}x{match['operand']}>"
    b_type = f"tensor<{chunks}x{chunk}x{N}x{match['operand']}>"
    p_type = f"tensor<{chunks}x{M}x{N}x{partial}>"
    sum_type = f"tensor<{M}x{N}x{kind}>"
    dot = f"%dot{name[1:]}"  # prefix of the values in between
    return f"""\
{dot}_a = tensor.expand_shape {a} [[0], [1, 2]] output_shape [{M}, {chunks}, {chunk}] \
: tensor<{M}x{K}x{match["operand"]}> into {a_type}
{dot}_b = tensor.expand_shape {b} [[0, 1], [2]] output_shape [{chunks}, {chunk}, {N}] \
: tensor<{K}x{N}x{match["operand"]}> into {b_type}
{dot}_zero = arith.constant {zero} : {partial}
{dot}_empty = tensor.empty() : {p_type}
{dot}_fill = linalg.fill ins({dot}_zero : {partial}) outs({dot}_empty : {p_type}) -> {p_type}
{dot}_chunks = linalg.generic {{indexing_maps = [
  affine_map<(q, i, k, j) -> (i, q, k)>, affine_map<(q, i, k, j) -> (q, k, j)>,
  affine_map<(q, i, k, j) -> (q, i, j)>],
  iterator_types = ["parallel", "parallel", "reduction", "parallel"]}}
  ins({dot}_a, {dot}_b : {a_type}, {b_type}) outs({dot}_fill : {p_type}) {{
^bb0(%x: {match["operand"]}, %y: {match["operand"]}, %partial: {partial}):
{products}
  linalg.yield %next : {partial}
}} -> {p_type}
{name} = linalg.generic {{indexing_maps = [
  affine_map<(q, i, j) -> (q, i, j)>, affine_map<(q, i, j) -> (i, j)>],
  iterator_types = ["reduction", "parallel", "parallel"]}}
  ins({dot}_chunks : {p_type}) outs({acc} : {sum_type}) {{
^bb0(%partial: {partial}, %sum: {kind}):
{total}
  linalg.yield %next : {kind}
}} -> {sum_type}"""
