"""What a launch moves and computes, counted by walking its final HIVM IR.

The scalar part of the IR - loops, conditions, affine maps, sizes of subviews - is translated to
Python and run for every program of the grid; each call of a library function is then counted with
the sizes that its operands really have. Data are not computed: a value loaded from memory comes
from `LOADED`. An operation or a function that is not known here is an error, never a zero.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dsv4_kernels.gates.ascend.memory import ELEMENT_BITS

# What a scalar load of an argument gives: every slot is live and names the overlay's first row.
LOADED: dict[str, int] = {
    "cmp_sparse_lens_ptr": 2**31 - 1,
    "cmp_sparse_indices_ptr": 128,  # with the window of 128 that both presets have
    "live_slots_ptr": 1,
}


@dataclass
class Counts:
    """Totals over all programs of a launch. Bytes by path; `workspace` is the part of them that
    goes through the compiler's own scratch in global memory (the round trip of a MIX kernel)."""

    gm_to_l1: int = 0
    gm_to_ub: int = 0
    ub_to_gm: int = 0
    l0c_to_gm: int = 0
    workspace: int = 0
    dma: int = 0  # instructions between memories
    macs: int = 0
    vector: int = 0  # vector instructions, as library calls
    scalar_loads: int = 0  # single elements of global memory
    scalar_loops: int = 0  # loops in the code that touch a tile element by element
    calls: dict[str, int] = field(default_factory=dict)

    def add_call(self, name: str, operands: Sequence[Any]) -> None:
        """Count one call of a library function."""
        self.calls[name] = self.calls.get(name, 0) + 1
        path = next((path for prefix, path in _PATHS.items() if name.startswith(prefix)), None)
        if path is not None:
            source, target = operands[:2]
            size = min(source.elements, target.elements) * source.bits // 8
            setattr(self, path, getattr(self, path) + size)
            self.workspace += size * (source.workspace or target.workspace)
            self.dma += 1
        elif name.startswith("mma_tile_"):
            self.macs += math.prod(operands[3:6])  # M, K, N after both operands and the init flag
        elif not name.startswith("set_l1_"):  # fills L1 with zeros: neither moves nor computes
            self.vector += 1


# Library functions by the beginning of their names. nd2nz loads into L1 in the cube's fractal
# layout, fixpipe stores an accumulator.
_PATHS = {
    "nd2nz_": "gm_to_l1",
    "load_gm_to_ubuf_": "gm_to_ub",
    "store_ubuf_to_gm_": "ub_to_gm",
    "fixpipe_": "l0c_to_gm",
}
_VECTOR = re.compile(
    r"(v[a-z]+_|enablevc_reduce_|reduce_|broadcast_|arange_|copy_ubuf_to_ubuf_|(de)?interleave_)"
)
_KNOWN = (*_PATHS, "mma_tile_", "set_l1_")


@dataclass(frozen=True)
class View:
    """A piece of memory: elements, bits of one, what global memory it belongs to."""

    elements: int
    bits: int
    argument: str = ""
    workspace: bool = False

    def of(self, elements: int) -> View:
        """Another piece of the same memory."""
        return View(elements, self.bits, self.argument, self.workspace)


def count(
    hivm: str,
    grid: int,
    arguments: Mapping[str, int | float | None],
    loaded: Mapping[str, int] = LOADED,
) -> Counts:
    """Walk every program of a launch.

    Args:
        hivm: final IR of the kernel; both functions of a MIX kernel are walked, the vector one
            for both cores of a pair.
        grid: programs.
        arguments: the kernel's runtime arguments in the compiled order; None for a pointer.
        loaded: what a scalar load of an argument gives; 0 for one that is not named.
    """
    counts = Counts()
    for function, source in _translated(hivm).items():
        namespace: dict[str, Any] = {"View": View, "LOADED": loaded}
        exec(compile(source, f"<{function}>", "exec"), namespace)
        hidden = [None, View(0, 8), View(0, 8, workspace=True)]  # ffts address, lock, workspace
        own = [
            View(0, 0, argument=name) if value is None else value
            for name, value in arguments.items()
        ]
        subs = 2 if function.endswith("_mix_aiv") else 1
        for program in range(grid):
            for sub in range(subs):
                namespace["walk"](counts, program, sub, *hidden, *own, grid, 1, 1)
        counts.scalar_loops += source.count(_SCALAR_LOOP)
    return counts


_SCALAR_LOOP = "# element by element"


@functools.lru_cache(maxsize=64)
def _translated(hivm: str) -> dict[str, str]:
    """Python source of each kernel function of a module."""
    maps = dict(re.findall(r"^(#map\d*) = affine_map<(.*)>$", hivm, re.MULTILINE))
    found = re.finditer(
        r"^  func\.func @(\w+)\(([^\n]*?)\) attributes [^\n]*\{\n(.*?)^  \}", hivm, re.M | re.S
    )
    functions = {}
    for match in found:
        if "hacc.function_kind = #hacc.function_kind<HOST>" in match[0].split("\n")[0]:
            continue  # answers questions of the runtime, moves nothing
        names = [_name(arg) for arg in re.findall(r"(%arg\d+):", match[2])]
        lines = [f"def walk(counts, program, sub, {', '.join(names)}):"]
        lines += _Translator(maps).block(match[3].splitlines())
        functions[match[1]] = "\n".join(lines)
    if not functions:
        raise ValueError("no kernel function in the compiled module")
    return functions


class _Translator:
    """Lines of HIVM -> lines of Python. One block of the IR after another, in their order."""

    def __init__(self, maps: Mapping[str, str]) -> None:
        self._maps = maps
        self._results: list[list[str]] = []  # of the open loops and conditions, for scf.yield

    def block(self, lines: Sequence[str]) -> list[str]:
        out: list[str] = []
        depth = 1
        loops: list[tuple[str, int]] = []  # induction variable and its `for` line, of open loops
        for line in (raw.strip() for raw in lines):
            if not line:
                continue
            if line.startswith("}"):
                depth -= 1
                if line.startswith("} else"):
                    out.append("  " * depth + "else:")
                    depth += 1
                    continue
                self._results.pop()
                loops.pop()
                continue
            opened = line.endswith("{")
            for text in self._statement(line):
                out.append("  " * depth + text)
            if opened:
                induction = re.search(r"scf\.for (%\w+) =", line)
                loops.append((induction[1] if induction else "", len(out) - 1))
                depth += 1
                out.append("  " * depth + "pass")
            element = re.match(r"(?:%\w+ = )?memref\.(?:load|store) .*?\[(.*?)\].*<ub>>$", line)
            if element and loops and loops[-1][0] and loops[-1][0] in element[1]:
                opener = loops[-1][1]
                if _SCALAR_LOOP not in out[opener]:
                    out[opener] += f"  {_SCALAR_LOOP}"
        return out

    def _statement(self, line: str) -> Iterator[str]:
        target, _, rest = line.partition(" = ") if line.startswith("%") else ("", "", line)
        name = _name(target.split(":")[0]) if target else ""
        op = re.match(r"[\w.]+", rest)
        if op is None:
            raise ValueError(f"cannot read the line: {line}")
        if op[0] == "scf.for":
            yield from self._loop(target, rest)
        elif op[0] == "scf.if":
            self._results.append(_numbered(target))
            yield f"if {_values(rest)[0]}:"
        elif op[0] == "scf.yield":
            for result, value in zip(self._results[-1], _values(rest.split(" : ")[0]), strict=True):
                yield f"{result}_next = {value}"
            for result in self._results[-1]:
                yield f"{result} = {result}_next"
        elif op[0] in ("func.call", "call"):
            called = re.match(r"(?:func\.)?call @(\w+)\((.*?)\) :", rest)
            if called is None:
                raise ValueError(f"cannot read the call: {line}")
            if not (_VECTOR.match(called[1]) or called[1].startswith(_KNOWN)):
                raise ValueError(f"unknown library function `{called[1]}` in: {line[:120]}")
            yield f"counts.add_call({called[1]!r}, ({', '.join(_values(called[2]))},))"
        elif op[0] in _IGNORED:
            return
        elif op[0] == "memref.load":
            yield f"counts.scalar_loads += {int('<gm>' in rest)}"
            yield f"{name} = LOADED.get({_values(rest)[0]}.argument, 0)"
        else:
            yield f"{name} = {self._expression(op[0], rest, line)}"

    def _loop(self, target: str, rest: str) -> Iterator[str]:
        match = re.match(r"scf\.for (%\w+) = (%\S+) to (%\S+) step (%\S+)(.*)", rest)
        assert match is not None, rest
        results = _numbered(target)
        carried = re.findall(r"(%\w+) = (%[\w#]+)", match[5].split("->")[0])
        self._results.append([_name(inner) for inner, _ in carried])
        for result, (inner, start) in zip(results, carried, strict=True):
            yield f"{result} = {_name(inner)} = {_name(start)}"
        low, high, step = (_name(match[i]) for i in (2, 3, 4))
        yield f"for {_name(match[1])} in range({low}, {high}, {step}):"

    def _expression(self, op: str, rest: str, line: str) -> str:
        values = _values(rest.split(" : ")[0])
        if op == "arith.constant":
            literal = re.match(r"arith\.constant (\S+)", rest)
            assert literal is not None
            text = literal[1]
            if text in ("true", "false"):
                return str(int(text == "true"))
            return text if re.fullmatch(r"-?\d+", text) else "0.0"
        if op in _BINARY:
            return _BINARY[op](*values[:2])
        if op == "arith.cmpi":
            compared = re.match(r"arith\.cmpi (\w+)", rest)
            assert compared is not None
            return f"int({values[0]} {_COMPARISONS[compared[1]]} {values[1]})"
        if op == "arith.select":
            return f"{values[1]} if {values[0]} else {values[2]}"
        if op in ("arith.index_cast", "arith.extsi", "arith.extui", "arith.trunci"):
            return f"{values[0]} & 1" if rest.endswith("to i1") else values[0]
        if op.startswith("affine."):
            return self._affine(op, rest)
        if op == "hivm.hir.get_block_idx":
            return "program"
        if op == "hivm.hir.get_sub_block_idx":
            return "sub"
        if op == "hivm.hir.pointer_cast":
            elements, bits = _shape(rest)
            return f"View({elements}, {bits})"
        if op in ("memref.cast", "memref.collapse_shape", "memref.expand_shape"):
            return values[0]
        if op == "memref.view":
            elements, bits = _shape(rest)
            return f"View({elements}, {bits}, workspace={values[0]}.workspace)"
        if op == "memref.reinterpret_cast":
            sizes = re.search(r"sizes: \[(.*?)\]", rest)
            assert sizes is not None
            _, bits = _shape(rest)
            return f"View({_product(sizes[1])}, {bits}, {values[0]}.argument)"
        if op == "memref.subview":
            sizes = re.match(r"memref\.subview \S+?\[.*?\] \[(.*?)\]", rest)
            assert sizes is not None
            return f"{values[0]}.of({_product(sizes[1])})"
        raise ValueError(f"unknown operation `{op}` in: {line[:120]}")

    def _affine(self, op: str, rest: str) -> str:
        match = re.match(r"affine\.\w+ (#map\d*)\((.*?)\)(?:\[(.*?)\])?", rest)
        assert match is not None, rest
        signature, body = self._maps[match[1]].split(" -> ")
        formal = re.findall(r"[ds]\d+", signature)
        actual = dict(zip(formal, _values(f"{match[2]}, {match[3] or ''}"), strict=True))
        body = body.replace("floordiv", "//").replace(" mod ", " % ")
        body = re.sub(r"(\([^()]*\)|\w+) ceildiv (\w+)", r"-(-\1 // \2)", body)
        if "ceildiv" in body:
            raise ValueError(f"cannot read the division in: {body}")
        body = re.sub(r"[ds]\d+", lambda m: actual[m[0]], body)
        function = {"affine.min": "min", "affine.max": "max"}.get(op)
        if function is None:
            return body
        return f"{function}({body})" if "," in body else f"{function}({body}, {body})"


def _truncated(a: str, b: str) -> str:
    return f"int({a} / {b})" if b == "0" else f"({a} // {b} if {a} >= 0 else -(-{a} // {b}))"


# Divisions round to zero in arith; none here has a negative divisor.
_BINARY: dict[str, Callable[[str, str], str]] = {
    "arith.addi": "{} + {}".format,
    "arith.subi": "{} - {}".format,
    "arith.muli": "{} * {}".format,
    "arith.divsi": _truncated,
    "arith.remsi": lambda a, b: f"({a} % {b} if {a} >= 0 else -(-{a} % {b}))",
    "arith.minsi": "min({}, {})".format,
    "arith.maxsi": "max({}, {})".format,
    "arith.andi": "{} & {}".format,
    "arith.ori": "{} | {}".format,
    "arith.xori": "{} ^ {}".format,
    "arith.shrsi": "{} >> {}".format,
}
_COMPARISONS = {"eq": "==", "ne": "!=", "slt": "<", "sle": "<=", "sgt": ">", "sge": ">="}
# Synchronisation and modes; a store of one element; the end.
_IGNORED = {
    *(f"hivm.hir.{o}" for o in ("set_flag", "wait_flag", "pipe_barrier", "sync_block_wait")),
    *(f"hivm.hir.{o}" for o in ("sync_block_set", "set_mask_norm", "set_ffts_base_addr")),
    "memref.store",
    "return",
}


def _name(value: str) -> str:
    """A Python name for an SSA value."""
    return value.replace("%", "v_").replace("#", "_").replace("-", "m")


def _values(text: str) -> list[str]:
    return [_name(value) for value in re.findall(r"%[\w#-]+", text)]


def _numbered(target: str) -> list[str]:
    """Names of an operation's results: `%62:2` has two."""
    if not target:
        return []
    name, _, many = target.partition(":")
    return [f"{_name(name)}_{i}" for i in range(int(many))] if many else [_name(name)]


def _product(sizes: str) -> str:
    """Product of a list of sizes, static and dynamic."""
    return " * ".join(_name(size.strip()) for size in sizes.split(",")) or "1"


def _shape(rest: str) -> tuple[int, int]:
    """Elements (dynamic sizes left out) and bits of one, of the memref type at the end."""
    match = re.findall(r"memref<((?:[\d?]+x)*)(\w+)", rest)[-1]
    sizes = [int(size) for size in match[0].split("x") if size.isdigit()]
    return math.prod(sizes), ELEMENT_BITS[match[1]]
