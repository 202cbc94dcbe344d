"""Library functions of the vector core, as the instructions that they put on its pipes.

Names, operands and effects are read in AscendNPU-IR, commit 52f96a13, bishengir/lib/Template:
include/Vector/*, lib/DMA/Ubuf/Copy{1,2}D.cpp, include/DMA/DMAUtils.h. A function is one instruction
here: what it does inside, barriers between its steps included, is the library's own business. What
the intrinsics compute is assumed to be IEEE. Where that says nothing - exp, the order of an fp32
sum - it is what the CPU path does, so that what differs from that path is not of this model's
making (README.md).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dsv4_kernels.backends.hivm.instruction import Instruction, Library, Site, Work
from dsv4_kernels.backends.hivm.memory import OutOfBounds, View

ALIGNMENT = 32  # bytes: of a vector operand in the unified buffer, and of a row of one

Array = np.ndarray[Any, Any]

# Types by the library's names, as what numpy computes with.
_TYPES: dict[str, Any] = {
    "float": np.float32,
    "half": np.float16,
    "bfloat16_t": np.float32,
    "int64_t": np.int64,
    "int32_t": np.int32,
    "int16_t": np.int16,
    "int8_t": np.int8,
    "bool": np.bool_,
}
_T = rf"({'|'.join(_TYPES)})"
_FLOATS = ("float", "half", "bfloat16_t")


# -- between global memory and the unified buffer


def _load(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
    """GM to UB in whole blocks of 32 bytes: behind the end of a row comes the padding, 0 where
    there is no value for it."""
    gm, ub, mode, value, left = operands
    if mode not in (0, 2) or left:
        raise ValueError(f"{name[0]}: no model of padding mode {mode} with {left} on the left")
    if not gm.elements:
        return []
    _note_unaligned(site, ub)
    size = gm.bits // 8
    tail = -(gm.shape[-1] * size) % ALIGNMENT // size
    exact = ub._replace(shape=gm.shape)
    whole = ub._replace(shape=(*gm.shape[:-1], gm.shape[-1] + tail))

    def run() -> None:
        if tail:
            whole.put(value if mode == 2 else 0)
        exact.array()[...] = gm.array()

    return [Work("MTE2", (gm,), (whole,), run)]


def _store(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
    """UB to GM, exactly the elements."""
    ub, gm, atomic = operands
    if atomic or ub.shape != gm.shape:
        raise ValueError(f"{name[0]}: no model of {ub.shape} to {gm.shape}, atomic {atomic}")
    if not ub.elements:
        return []
    _note_unaligned(site, ub)

    def run() -> None:
        gm.array()[...] = ub.array()

    return [Work("MTE3", (ub,), (gm,), run)]


def _note_unaligned(site: Site, view: View) -> None:
    if not is_aligned(view):
        site.note("unaligned", view.space.name)


def is_aligned(view: View) -> bool:
    """Whether its start and that of every row is on 32 bytes."""
    bits = 8 * ALIGNMENT
    rows = [
        stride
        for n, stride in zip(view.shape[:-1], view.strides[:-1], strict=True)
        if n > 1 and view.shape[-1] > 1
    ]
    return not (view.offset % bits or any(stride * view.bits % bits for stride in rows))


# -- one instruction over vectors


def _vector(compute: Callable[..., Any], sources: int, target: int | None = None) -> Library:
    """A function of its first operands, vectors as their values and scalars as they are.

    target: place of the result, behind the sources unless said; a view behind it is scratch.
    """
    place = sources if target is None else target

    def make(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
        result, inputs = operands[place], operands[:sources]
        if not result.elements:
            return []
        views = tuple(operand for operand in inputs if isinstance(operand, View))
        scratch = tuple(
            operand
            for operand in operands[place + 1 : place + 2]
            if isinstance(operand, View) and operand.elements
        )
        for view in (*views, result):
            _note_unaligned(site, view)
        for buffer in scratch:
            if any(buffer.overlaps(view) for view in (*views, result)):
                site.note("scratch alias", buffer.space.name)

        def run() -> None:
            values = [v.get() if isinstance(v, View) else v for v in inputs]
            with np.errstate(all="ignore"):  # poison computes too
                made = compute(*values)
            for buffer in scratch:
                first, last = buffer.extent()
                buffer.space.data[first:last] = site.garbage(last - first)
            result.put(made)

        return [Work("V", views, (result, *scratch), run)]

    return make


def _elementwise(table: Mapping[str, Callable[..., Any]], sources: int) -> Library:
    """By the operation's name; a scalar operand has the type that the name ends in."""

    def make(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
        kind = _TYPES[name[2]]
        typed = tuple(x if isinstance(x, View) else kind(x) for x in operands[:sources])
        return _vector(table[name[1]], sources)(site, name, (*typed, *operands[sources:]))

    return make


_BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "div": np.divide,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
_SCALAR: dict[str, Callable[..., Any]] = {
    "adds_vs": np.add,
    "sub_vs": np.subtract,
    "sub_sv": np.subtract,
    "muls_vs": np.multiply,
    "maxs_vs": np.maximum,
    "mins_vs": np.minimum,
    "div_vs": np.divide,
    "div_sv": np.divide,
    "shls_vs": np.left_shift,
    "shrs_vs": np.right_shift,  # arithmetic for signed integers
}


def _exp(x: Array) -> Array:
    """The C library's, as on the CPU path: numpy's own differs by an ulp."""
    return _expf(x).astype(x.dtype)


_libm = ctypes.CDLL("libm.so.6")
_libm.expf.restype, _libm.expf.argtypes = ctypes.c_float, [ctypes.c_float]
_expf = np.frompyfunc(_libm.expf, 1, 1)

_UNARY: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "exp": _exp,
    "ln": np.log,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: x.dtype.type(1) / np.sqrt(x),
    "rec": lambda x: x.dtype.type(1) / x,
    "relu": lambda x: np.maximum(x, x.dtype.type(0)),
    "not": np.invert,
}
_COMPARE: dict[str, Callable[..., Any]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def _select(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
    """condition ? first : second, each a vector (v) or a scalar (s)."""
    condition, *choices = operands[:3]
    kind = _TYPES[name[2]]
    typed = [x if isinstance(x, View) else kind(x) for x in choices]
    return _vector(np.where, 3)(site, name, (condition, *typed, *operands[3:]))


# -- reductions, along the last axis (r, ar), the first (ra) or the middle one (ara)


def _sum(x: Array, axis: int, keepdims: bool, dtype: Any) -> Array:
    """In ascending order: the library's blocks of 64 lanes are not modelled."""
    return np.take(np.cumsum(x, axis=axis, dtype=dtype), [-1], axis=axis)


_REDUCE: dict[str, Callable[..., Any]] = {
    "max": np.max,
    "min": np.min,
    "sum": _sum,
    "prod": np.prod,
    "andi": np.bitwise_and.reduce,
    "ori": np.bitwise_or.reduce,
    "xori": np.bitwise_xor.reduce,
}


def _reduce(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
    reduce, axis = _REDUCE[name[1]], {"ra": 0, "ara": 1}.get(name[2], -1)
    typed = {"dtype": _TYPES[name[3]]} if name[1] in ("sum", "prod") else {}
    compute = lambda x: reduce(x, axis=axis, keepdims=True, **typed)  # noqa: E731
    return _vector(compute, 1)(site, name, operands)


# -- casts

# CastMode of CastUtils.h: to nearest even, to nearest with ties away, down, up, to zero.
_ROUND: dict[int, Callable[[Array], Array]] = {
    0: np.rint,
    1: lambda x: np.trunc(x + np.copysign(x.dtype.type(0.5), x)),
    2: np.floor,
    3: np.ceil,
    4: np.trunc,
}


def _cast(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
    source, target, mode = name[1], name[2], operands[2]
    return _vector(_cast_of(name[0], source, target, mode), 1)(site, name, operands)


def _cast_of(function: str, source: str, target: str, mode: int) -> Callable[[Array], Array]:
    if mode not in _ROUND:
        raise ValueError(f"{function}: no model of rounding mode {mode}")
    if source == target or (source in _FLOATS and target not in _FLOATS):
        return lambda x: _saturated(_ROUND[mode](x), target)
    if target in _FLOATS and mode == 0:
        return lambda x: x.astype(_TYPES[target])  # to bf16: View.put rounds, to nearest even
    if np.can_cast(_TYPES[source], _TYPES[target]):
        return lambda x: x.astype(_TYPES[target])
    raise ValueError(f"{function}: no model of rounding mode {mode}")


def _saturated(values: Array, target: str) -> Array:
    """Whole numbers in an integer type: the nearest that it has, 0 for NaN (assumed)."""
    if target in _FLOATS:
        return values
    limits = np.iinfo(_TYPES[target])
    whole = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
    clipped = np.clip(whole, limits.min, limits.max)
    # 2**63 - 1 is no fp64: what rounds up to 2**63 is the largest int64.
    top = whole >= float(limits.max)
    return np.where(top, limits.max, np.where(top, 0, clipped).astype(np.int64)).astype(
        _TYPES[target]
    )


def _low_bits(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
    """An integer's low bits, as a narrower one; mode 6 is the one that wraps."""
    if operands[3] != 6:
        raise ValueError(f"{name[0]}: no model of rounding mode {operands[3]}")
    return _vector(lambda x: x.astype(_TYPES[name[2]]), 1)(site, name, operands)


def _from_bool(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
    return _vector(lambda x: x.astype(_TYPES[name[1]]), 1)(site, name, operands)


# -- filling and moving


def _fill(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
    value = _TYPES[name[1]](operands[0])
    return _vector(lambda x: x, 1)(site, name, (value, *operands[1:]))


def _arange(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
    """start + sum over the axes of index * step."""
    target, start, *steps = operands
    grid = np.indices(target.shape)

    def values() -> Array:
        return start + sum(index * step for index, step in zip(grid, steps, strict=True))

    return _vector(values, 0)(site, name, (target,))


def _take_channel(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
    return _vector(lambda x: x[int(name[1]) :: 2], 1)(site, name, operands)


def _gather(site: Site, name: re.Match[str], operands: tuple[Any, ...]) -> list[Instruction]:
    """target[i] = source[indices[i]]; the library does not look whether that is in the source."""

    def gather(source: Array, indices: Array) -> Array:
        if ((indices < 0) | (indices >= source.size)).any():
            raise OutOfBounds(
                f"indices {indices.min()}..{indices.max()} into {source.size} elements"
            )
        return source[indices]

    return _vector(gather, 2)(site, name, operands)


FUNCTIONS: tuple[tuple[str, Library], ...] = (
    (rf"load_gm_to_ubuf_[123]d_{_T}", _load),
    (rf"store_ubuf_to_gm_[123]d_{_T}", _store),
    (rf"v(add|sub|mul|max|min)_[123]d_{_T}", _elementwise(_BINARY, 2)),
    (r"v(div)_[123]d_(float|half)", _elementwise(_BINARY, 2)),
    (rf"v(and|or|xor)_[123]d_{_T}", _elementwise(_BINARY, 2)),
    (rf"v((?:adds|sub|muls|maxs|mins|shls|shrs)_vs|sub_sv)_[123]d_{_T}", _elementwise(_SCALAR, 2)),
    (r"v(div_vs|div_sv)_[123]d_(float|half)", _elementwise(_SCALAR, 2)),
    (r"v(abs|exp|ln|sqrt|rsqrt|rec|relu)_[123]d_(float|half)", _elementwise(_UNARY, 1)),
    (rf"v(abs|relu|not)_[123]d_{_T}", _elementwise(_UNARY, 1)),
    (rf"vcmps?_(eq|ne|lt|le|gt|ge)_1d_{_T}", _elementwise(_COMPARE, 2)),
    (rf"vsel_(vv)_1d_bool_{_T}", _select),
    (rf"vsel_(vs|sv|ss)_1d_{_T}", _select),
    (
        rf"(?:enablevcg?_)?reduce_(max|min|sum|prod|andi|ori|xori)_(r|ar|ra|ara)_{_T}",
        _reduce,
    ),
    (rf"vcast_{_T}_to_{_T}_[12]d_with_mode", _cast),
    (r"vcast_(int32_t|int16_t)_to_(int16_t|int8_t)_[12]d_with_overflow", _low_bits),
    (rf"vcast_bool_to_{_T}_[12]d_with_temp", _from_bool),
    (rf"broadcast_scalar_{_T}_to_[123]d", _fill),
    (
        rf"broadcast_(?:1d|(?:first|middle|last)_axis_(?:align|unalign|unknown_align)_[23]d)_{_T}",
        _vector(lambda x: x, 1),
    ),
    (r"arange_[123]d_(int64_t|int32_t|int16_t|float|half)", _arange),
    (rf"copy_ubuf_to_ubuf_[123]d_{_T}", _vector(lambda x: x, 1)),
    (rf"interleave_1d_{_T}", _vector(lambda x, y: np.stack([x, y], -1).ravel(), 2)),
    (rf"deinterleave_channel_([01])_from_2_channels_1d_{_T}", _take_channel),
    (rf"gather_1d_{_T}", _gather),
)
