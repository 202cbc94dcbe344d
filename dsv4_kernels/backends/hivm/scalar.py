"""The scalar code of the final HIVM IR - loops, conditions, affine maps, views - as Python.

A kernel function becomes a generator function of a `core` and the kernel's arguments, which
machine.py runs. What touches memory, a pipe or a flag is a method of the core (`CoreInterface`);
those for calls and flags return what is then yielded: points where other cores and pipes may move.
gates/ascend/slicing.py takes the same statements and leaves only what counts depend on. An
operation that is not known here is an error.

i8, i16 and i32 wrap as the hardware's do; index and i64 do not, and nothing here comes near 2**63.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import struct
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dsv4_kernels.backends.hivm.memory import View
from dsv4_kernels.backends.hivm.statement import (
    Call,
    Chosen,
    Handed,
    Hidden,
    Load,
    Made,
    Statement,
    python,
)


class CoreInterface(Protocol):
    """What the scalar code of a function drives. line: of the module's text, from 1.

    program, sub: `get_block_idx` and `get_sub_block_idx`.
    """

    program: int
    sub: int

    def at(self, space: str, offset: int, shape: tuple[int, ...], type: str, /) -> View:
        """A buffer at its planned address, bytes from the start of its memory."""
        ...

    def call(self, name: str, operands: tuple[Any, ...], line: int, /) -> Iterable[Any]: ...
    def set_flag(self, pipe: str, waits: str, event: int, line: int, /) -> Iterable[Any]: ...
    def wait_flag(self, pipe: str, waits: str, event: int, line: int, /) -> Iterable[Any]: ...
    def barrier(self, pipe: str, line: int, /) -> Iterable[Any]: ...
    def block_set(self, pipe: str, flag: int, line: int, /) -> Iterable[Any]: ...
    def block_wait(self, flag: int, line: int, /) -> Iterable[Any]: ...
    def load(self, view: View, index: tuple[int, ...], line: int, /) -> int | float: ...
    def store(
        self, value: int | float, view: View, index: tuple[int, ...], line: int, /
    ) -> None: ...


@dataclass(frozen=True)
class Function:
    """One kernel function of a module.

    core: AIC or AIV. arguments: names of them in the statements: three hidden ones (the address of
    the block flags, lock, workspace), the kernel's own, three sizes of the grid. calls: the library
    functions that it names. element_loops: how many of its loops go through a tile in the unified
    buffer element by element.
    """

    name: str
    core: str
    arguments: tuple[str, ...]
    calls: frozenset[str]
    element_loops: int
    statements: list[Statement] = field(repr=False, hash=False)

    @property
    def paired(self) -> bool:
        """Runs on both vector cores of a pair, next to a cube core."""
        return self.name.endswith("_mix_aiv")

    def run(self, core: CoreInterface, *arguments: Any) -> Generator[Any, None, None]:
        """Its scalar code on `core`."""
        return self._code(core, *arguments)

    @functools.cached_property
    def _code(self) -> Callable[..., Generator[Any, None, None]]:
        lines = ["  yield from ()", *python(self.statements)]
        return compiled(self.name, ("core", *self.arguments), lines)


def compiled(name: str, arguments: Iterable[str], lines: Iterable[str]) -> Callable[..., Any]:
    """A Python function of statements; name: for tracebacks."""
    namespace: dict[str, Any] = {"quotient": _quotient, "fp32": _fp32}
    text = "\n".join([f"def run({', '.join(arguments)}):", *lines])
    exec(compile(text, f"<{name}>", "exec"), namespace)
    return namespace["run"]


@functools.lru_cache(maxsize=64)
def functions(hivm: str) -> tuple[Function, ...]:
    """The kernel functions of a final HIVM module.

    Raises ValueError for a text without any, and for an operation that is not known.
    """
    maps = dict(re.findall(r"^(#map\d*) = affine_map<(.*)>$", hivm, re.MULTILINE))
    kind = re.search(r"hivm\.module_core_type<(\w+)>", hivm)
    found = re.finditer(
        r"^  func\.func @(\w+)\(([^\n]*?)\) attributes [^\n]*\{\n(.*?)^  \}", hivm, re.M | re.S
    )
    made = []
    for match in found:
        if "hacc.function_kind = #hacc.function_kind<HOST>" in match[0].split("\n")[0]:
            continue  # answers questions of the runtime, moves nothing
        arguments = tuple(_name(argument) for argument in re.findall(r"(%arg\d+):", match[2]))
        translator = _Translator(maps, first_line=hivm.count("\n", 0, match.start(3)) + 1)
        statements = translator.block(match[3].splitlines())
        suffix = re.search(r"_mix_(ai[cv])$", match[1])
        core = suffix[1].upper() if suffix else (kind[1] if kind else "AIV")
        calls = frozenset(translator.calls)
        loops = translator.element_loops
        made.append(Function(match[1], core, arguments, calls, loops, statements))
    if not made:
        raise ValueError("no kernel function in the compiled module")
    return tuple(made)


class _Translator:
    """Lines of HIVM -> statements. One block of the IR after another, in their order."""

    def __init__(self, maps: Mapping[str, str], first_line: int) -> None:
        self._maps = maps
        self._line = first_line - 1
        # Of the open loops and conditions: what their scf.yield assigns to.
        self._yields: list[list[list[str]]] = []
        self._inductions: list[str] = []
        self._by_element: list[bool] = []
        self.calls: set[str] = set()
        self.element_loops = 0

    def block(self, lines: Sequence[str]) -> list[Statement]:
        open_blocks: list[list[Statement]] = [[]]
        for line in (raw.strip() for raw in lines):
            self._line += 1
            if not line:
                continue
            if line.startswith("}"):
                open_blocks.pop()
                if line.startswith("} else"):
                    open_blocks[-1].append(Statement("else:"))
                else:
                    self._close()
            else:
                open_blocks[-1] += self._statement(line)
            if line.endswith("{"):
                open_blocks.append(open_blocks[-1][-1].body)
        return open_blocks[0]

    def _close(self) -> None:
        self._yields.pop()
        self._inductions.pop()
        self.element_loops += self._by_element.pop()

    def _open(self, yields: list[list[str]], induction: str = "") -> None:
        self._yields.append(yields)
        self._inductions.append(induction)
        self._by_element.append(False)

    def _statement(self, line: str) -> Iterator[Statement]:
        target, _, rest = line.partition(" = ") if line.startswith("%") else ("", "", line)
        op = _match(r"[\w.]+", rest, line)[0]
        values = _values(rest.split(" : ")[0])
        if op == "scf.for":
            yield from self._loop(target, rest)
        elif op == "scf.if":
            self._open([_results(target)])
            yield Statement(f"if {values[0]}:")
        elif op == "scf.yield":
            yield from self._yield(values)
        elif op in ("func.call", "call"):
            called = _match(r"(?:func\.)?call @(\w+)\((.*?)\) :", rest, line)
            self.calls.add(called[1])
            call = Call(called[1], tuple(_values(called[2])))
            operands = "".join(f"{value}, " for value in call.operands)
            yield Statement(
                f"yield from core.call({call.name!r}, ({operands}), {self._line})", call
            )
        elif op in ("memref.load", "memref.store"):
            yield self._element(op, target, rest, line)
        elif op.startswith("hivm.hir.") and op[9:] in _SYNCHRONISES:
            how = self._synchronisation(op[9:], rest, line)
            yield Statement(f"yield from core.{how}", Hidden())
        elif op == "memref.extract_strided_metadata":
            base, *numbers = [name for part in target.split(", ") for name in _results(part)]
            yield Statement(f"{base} = {values[0]}", Made(values[0]))
            yield Statement(
                f"{', '.join(numbers)}, = (0, *{values[0]}.shape, *{values[0]}.strides)"
            )
        elif op in _VIEWS:
            expression, made = _VIEWS[op](values, rest)
            yield Statement(f"{_name(target)} = {expression}", made)
        elif op == "arith.select":
            condition, one, other = values
            chosen = Chosen(condition, (one, other))
            yield Statement(f"{_name(target)} = {one} if {condition} else {other}", chosen)
        elif op not in _IGNORED:
            yield Statement(f"{_name(target)} = {self._expression(op, rest, line)}")

    def _loop(self, target: str, rest: str) -> Iterator[Statement]:
        match = _match(r"scf\.for (%\w+) = (%\S+) to (%\S+) step (%\S+)(.*)", rest, rest)
        carried = re.findall(r"(%\w+) = (%[\w#-]+)", match[5].split("->")[0])
        results, inner = _results(target), [_name(name) for name, _ in carried]
        self._open([results, inner] if results else [], match[1])
        for result, name, (_, start) in zip(results, inner, carried, strict=True):
            yield Statement(f"{result} = {name} = {_name(start)}", Made(_name(start)))
        low, high, step = (_name(match[i]) for i in (2, 3, 4))
        yield Statement(f"for {_name(match[1])} in range({low}, {high}, {step}):")

    def _yield(self, values: list[str]) -> Iterator[Statement]:
        """All at once: a loop may hand on what it was handed under another name."""
        targets = list(zip(*self._yields[-1], strict=True))
        if {name for names in targets for name in names} & set(values):
            held = [f"{names[0]}_next" for names in targets]
            for name, value in zip(held, values, strict=True):
                yield Statement(f"{name} = {value}", Made(value))
            values = held
        for names, value in zip(targets, values, strict=True):
            yield Statement(f"{' = '.join(names)} = {value}", Handed(value))

    def _element(self, op: str, target: str, rest: str, line: str) -> Statement:
        """A load or store of one element, by the scalar unit."""
        match = _match(r"memref\.\w+ (?:(%[\w#-]+), )?(%[\w#-]+)\[(.*?)\]", rest, line)
        view, index = _name(match[2]), "".join(f"{value}, " for value in _values(match[3]))
        if "<ub>" in rest and self._inductions and self._inductions[-1] in _ssa(match[3]):
            self._by_element[-1] = True
        if op == "memref.load":
            load = f"{_name(target)} = core.load({view}, ({index}), {self._line})"
            return Statement(load, Load(view, f"({index})"))
        store = f"core.store({_name(match[1])}, {view}, ({index}), {self._line})"
        return Statement(store, Hidden())

    def _synchronisation(self, op: str, rest: str, line: str) -> str:
        """A method of the core and its arguments."""
        if op == "pipe_barrier":
            pipe = _match(r".*<PIPE_(\w+)>", rest, line)[1]
            return f"barrier({pipe!r}, {self._line})"
        if op in ("set_flag", "wait_flag"):
            match = _match(r"\S+\[<PIPE_(\w+)>, <PIPE_(\w+)>, (?:<EVENT_ID)?([%\w#-]+)", rest, line)
            return f"{op}({match[1]!r}, {match[2]!r}, {_name(match[3])}, {self._line})"
        match = _match(r"\S+\[<\w+>, <PIPE_(\w+)>, <PIPE_(\w+)>\] flag = ([%\w#-]+)", rest, line)
        if match[2] != "S":
            raise ValueError(f"a block flag that is not for the scalar unit: {line[:120]}")
        if op == "sync_block_set":
            return f"block_set({match[1]!r}, {_name(match[3])}, {self._line})"
        return f"block_wait({_name(match[3])}, {self._line})"

    def _expression(self, op: str, rest: str, line: str) -> str:
        values = _values(rest.split(" : ")[0])
        if op == "arith.constant":
            return _constant(rest, line)
        if op in _INTEGER:
            return _wrapped(_INTEGER[op].format(*values), rest)
        if op in _FLOAT:
            return f"fp32({_FLOAT[op].format(*values)})"
        if op == "arith.cmpi" or op == "arith.cmpf":
            predicate = _match(r"arith\.cmp\w (\w+)", rest, line)[1]
            if predicate not in _PREDICATES:
                raise ValueError(f"unknown predicate `{predicate}` in: {line[:120]}")
            return f"int({values[0]} {_PREDICATES[predicate]} {values[1]})"
        if op in ("arith.index_cast", "arith.extsi", "arith.trunci"):
            return _wrapped(f"-{values[0]}" if _from_i1(op, rest) else values[0], rest)
        if op in ("arith.extui", "arith.index_castui"):
            return f"{values[0]} & {_ones(rest)}"
        if op.startswith("affine."):
            return self._affine(op, rest, line)
        if op in _INDICES:
            return _INDICES[op]
        if op == "memref.dim":
            return f"{values[0]}.shape[{values[1]}]"
        raise ValueError(f"unknown operation `{op}` in: {line[:120]}")

    def _affine(self, op: str, rest: str, line: str) -> str:
        match = _match(r"(affine\.\w+) (#map\d*)\((.*?)\)(?:\[(.*?)\])?", rest, line)
        if op not in ("affine.apply", "affine.min", "affine.max"):
            raise ValueError(f"unknown operation `{op}` in: {line[:120]}")
        signature, body = self._maps[match[2]].split(" -> ")
        formal = re.findall(r"[ds]\d+", signature)
        actual = dict(zip(formal, _values(f"{match[3]}, {match[4] or ''}"), strict=True))
        body = body.replace("floordiv", "//").replace(" mod ", " % ")
        body = re.sub(r"(\([^()]*\)|\w+) ceildiv (\w+)", r"-(-\1 // \2)", body)
        if "ceildiv" in body:
            raise ValueError(f"cannot read the division in: {body}")
        body = re.sub(r"[ds]\d+", lambda m: actual[m[0]], body)
        if op == "affine.apply":
            return body
        return f"{op[7:]}({body}, {body})" if "," not in body else f"{op[7:]}{body}"


_SYNCHRONISES = {"set_flag", "wait_flag", "pipe_barrier", "sync_block_set", "sync_block_wait"}
_IGNORED = {"hivm.hir.set_mask_norm", "hivm.hir.set_ffts_base_addr", "return"}  # modes; the end
_INDICES = {"hivm.hir.get_block_idx": "core.program", "hivm.hir.get_sub_block_idx": "core.sub"}

_INTEGER = {
    "arith.addi": "{} + {}",
    "arith.subi": "{} - {}",
    "arith.muli": "{} * {}",
    "arith.divsi": "quotient({0}, {1})",
    "arith.remsi": "{0} - {1} * quotient({0}, {1})",
    "arith.floordivsi": "{} // {}",
    "arith.ceildivsi": "-(-{} // {})",
    "arith.minsi": "min({}, {})",
    "arith.maxsi": "max({}, {})",
    "arith.andi": "{} & {}",
    "arith.ori": "{} | {}",
    "arith.xori": "{} ^ {}",
    "arith.shli": "{} << {}",
    "arith.shrsi": "{} >> {}",
    "arith.fptosi": "int({})",  # towards zero, as int() does
}
# In Python's double precision and then rounded once more: for these that is fp32's own rounding.
_FLOAT = {
    "arith.addf": "{} + {}",
    "arith.subf": "{} - {}",
    "arith.mulf": "{} * {}",
    "arith.divf": "{} / {}",
    "arith.negf": "-{}",
    "arith.extf": "{}",
    "arith.sitofp": "float({})",
}
_PREDICATES = {
    **dict(eq="==", ne="!=", slt="<", sle="<=", sgt=">", sge=">="),
    **dict(oeq="==", une="!=", olt="<", ole="<=", ogt=">", oge=">="),
}

_MEMREF = re.compile(
    r"memref<(?P<shape>(?:[\d?]+x)*)(?P<type>\w+)"
    r"(?:, strided<\[(?P<strides>.*?)\][^>]*>)?(?:, #hivm\.address_space<(?P<space>\w+)>)?"
)


def _pointer_cast(values: list[str], rest: str) -> tuple[str, Made]:
    type_ = _last_memref(rest)
    space, sizes, element = type_["space"], _sizes(type_), type_["type"]
    python = f"core.at({space!r}, {values[0]}, {_tuple(sizes)}, {element!r})"
    return python, Made(space, sizes, element)


def _view(values: list[str], rest: str) -> tuple[str, Made]:
    type_ = _last_memref(rest)
    dynamic = iter(values[2:])
    sizes = tuple(next(dynamic) if n == "?" else n for n in _sizes(type_))
    python = f"{values[0]}.shifted({values[1]}, {_tuple(sizes)}, {type_['type']!r})"
    return python, Made(values[0], sizes, type_["type"])


def _reinterpret(values: list[str], rest: str) -> tuple[str, Made]:
    (offset,), sizes, strides = (
        _entries(_match(rf".*{part}: \[(.*?)\]", rest, rest)[1])
        for part in ("offset", "sizes", "strides")
    )
    type_ = _last_memref(rest)["type"]
    python = f"{values[0]}.at({offset}, {_tuple(sizes)}, {_tuple(strides)}, {type_!r})"
    return python, Made(values[0], sizes, type_)


def _subview(values: list[str], rest: str) -> tuple[str, Made]:
    match = _match(r"memref\.subview \S+?\[(.*?)\] \[(.*?)\] \[(.*?)\]", rest, rest)
    offsets, sizes, steps = (_entries(match[i]) for i in (1, 2, 3))
    parts = [_tuple(offsets), _tuple(sizes), _tuple(steps)]
    if dropped := _dropped(sizes, rest):
        parts.append(str(dropped))
    return f"{values[0]}.part({', '.join(parts)})", Made(values[0], sizes)


def _collapse(values: list[str], rest: str) -> tuple[str, Made]:
    groups = _match(r".*?(\[\[.*?\]\]|\[\])", rest, rest)[1]
    return f"{values[0]}.collapse({_tuples(groups)})", Made(values[0])


def _expand(values: list[str], rest: str) -> tuple[str, Made]:
    match = _match(r".*?(\[\[.*?\]\]) output_shape \[(.*?)\]", rest, rest)
    shape = _tuple(_entries(match[2]))
    return f"{values[0]}.expand({match[1]}, {shape})", Made(values[0])


def _bitcast(values: list[str], rest: str) -> tuple[str, Made]:
    type_ = _last_memref(rest)["type"]
    return f"{values[0]}.bitcast({type_!r})", Made(values[0], type=type_)


def _same(values: list[str], rest: str) -> tuple[str, Made]:
    return values[0], Made(values[0])


def _tuples(groups: str) -> tuple[tuple[int, ...], ...]:
    """Groups of axes, `[[0, 1], [2]]`."""
    return tuple(map(tuple, json.loads(groups)))


_VIEWS: dict[str, Callable[[list[str], str], tuple[str, Made]]] = {
    "hivm.hir.pointer_cast": _pointer_cast,
    "hivm.hir.bitcast": _bitcast,
    "memref.cast": _same,
    "memref.memory_space_cast": _same,
    "memref.view": _view,
    "memref.reinterpret_cast": _reinterpret,
    "memref.subview": _subview,
    "memref.collapse_shape": _collapse,
    "memref.expand_shape": _expand,
}


def _dropped(sizes: Sequence[str], rest: str) -> tuple[int, ...]:
    """The axes of size 1 that a rank-reducing subview leaves out: those without which the strides
    of its type agree with those of its source's. Two candidates of one stride are the same view."""
    source, target = (_layout(m) for m in list(_MEMREF.finditer(rest.split(" : ")[1]))[-2:])
    ones = [axis for axis, size in enumerate(sizes) if size == "1"]
    for dropped in itertools.combinations(ones, len(sizes) - len(target[0])):
        kept = [axis for axis in range(len(sizes)) if axis not in dropped]
        if all(
            size in ("?", sizes[axis]) and ("?" in (stride, source[1][axis]) or fits)
            for axis, size, stride in zip(kept, *target, strict=True)
            for fits in [stride == source[1][axis]]
        ):
            return dropped
    raise ValueError(f"cannot read the subview: {rest[:200]}")


def _sizes(type_: re.Match[str]) -> tuple[str, ...]:
    """Of a memref type."""
    return tuple(size for size in type_["shape"].split("x") if size)


def _layout(type_: re.Match[str]) -> tuple[list[str], list[str]]:
    """Sizes and strides of a memref type, `?` where they are not known."""
    sizes = list(_sizes(type_))
    if type_["strides"] is not None:
        return sizes, [stride.strip() for stride in type_["strides"].split(",")]
    strides, stride = [], 1
    for size in reversed(sizes):
        strides.append(str(stride))
        stride *= int(size) if size != "?" else 1
    return sizes, strides[::-1]


def _constant(rest: str, line: str) -> str:
    match = _match(r"arith\.constant (\S+)(?: : (\w+))?", rest, line)
    text, type_ = match[1], match[2]
    if text in ("true", "false"):
        return str(int(text == "true"))
    if text.startswith("0x"):
        bits = int(text, 16) << (16 if type_ == "bf16" else 0)
        form = ("<H", "<e") if type_ == "f16" else ("<I", "<f")
        return f"float('{struct.unpack(form[1], struct.pack(form[0], bits))[0]}')"
    if not re.fullmatch(r"-?\d+(\.\d+([eE][+-]\d+)?)?", text):
        raise ValueError(f"cannot read the constant in: {line[:120]}")
    return f"fp32({text})" if type_ in ("f32", "bf16", "f16") else text


def _from_i1(op: str, rest: str) -> bool:
    """Whether a sign extension is of a boolean: true becomes -1."""
    return op == "arith.extsi" and " : i1 to " in rest


def _ones(rest: str) -> int:
    """A mask of the width of a cast's source: what zero extension keeps."""
    return (1 << int(_match(r".* : i(\d+) to ", rest, rest)[1])) - 1


def _wrapped(expression: str, rest: str) -> str:
    """The expression within the width of its result's type."""
    type_ = rest.rsplit(" to " if " to " in rest else " : ", 1)[-1].split(" ")[0]
    if type_ == "i1":
        return f"({expression}) & 1"
    if type_ not in ("i8", "i16", "i32"):
        return expression
    half = 1 << (int(type_[1:]) - 1)
    return f"(({expression}) + {half} & {2 * half - 1}) - {half}"


def _quotient(a: int, b: int) -> int:
    """Division that rounds to zero."""
    return a // b if (a < 0) == (b < 0) else -(-a // b)


def _fp32(value: float) -> float:
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _match(pattern: str, text: str, line: str) -> re.Match[str]:
    found = re.match(pattern, text)
    if found is None:
        raise ValueError(f"cannot read the line: {line[:200]}")
    return found


def _last_memref(rest: str) -> re.Match[str]:
    return list(_MEMREF.finditer(rest))[-1]


def _name(value: str) -> str:
    """A Python name for an SSA value; a number is itself."""
    return value.strip().replace("%", "v_").replace("#", "_").replace("-", "m")


def _ssa(text: str) -> list[str]:
    return re.findall(r"%[\w#-]+", text)


def _values(text: str) -> list[str]:
    return [_name(value) for value in _ssa(text)]


def _results(target: str) -> list[str]:
    """Names of an operation's results: `%62:2` has two."""
    if not target:
        return []
    name, _, many = target.partition(":")
    return [f"{_name(name)}_{i}" for i in range(int(many))] if many else [_name(name)]


def _entries(text: str) -> tuple[str, ...]:
    """Of a list of sizes, static and dynamic."""
    entries = (entry.strip() for entry in text.split(","))
    return tuple(_name(entry) if entry[0] == "%" else entry for entry in entries if entry)


def _tuple(entries: Iterable[str]) -> str:
    """A Python tuple."""
    return f"({''.join(f'{entry}, ' for entry in entries)})"
