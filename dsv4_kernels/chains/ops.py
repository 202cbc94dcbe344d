"""The entries as torch operators, which stand inside a compiled graph.

    from dsv4_kernels.chains import ops          # registers torch.ops.dsv4.*

    torch.ops.dsv4.prefill_sparse_attn(q, .., wo_b_scale, window=128)             -> attn_out
    torch.ops.dsv4.prefill_sparse_attn_heads(q, .., freqs_sin, groups=8)          -> o_packed, live
    torch.ops.dsv4.sparse_attn(q, .., wo_b_scale, compress_ratio=4)               -> attn_out
    torch.ops.dsv4.sparse_attn_heads(q, .., rope_sin, groups=8, compress_ratio=4) -> o_packed, live
    torch.ops.dsv4.grouped_o_proj(o_packed, wo_a, wo_b, wo_b_scale, live_slots)   -> attn_out

Arguments mean what they do for the functions of these names. Each has an out form, `.._out`, that
returns nothing. The bytes are those of the plain call. There is no gradient.

Workspaces are kept by shape and device, the latest `MOST_KEPT`, and all layers of a model share
them. What runs inside a capture has to have run before, with the same shapes and outside of one:
`warm` does that. All is issued to the current stream.

What torch's dispatcher and the look-up of the workspace cost a call beside a plan's run, by
`python -m bench.op_cost` with the kernels taken out: 30 us of host time for `prefill_sparse_attn`
(305 against 275) and 65 us for `sparse_attn` (507 against 442), out forms, 8 tokens of FLASH (two
shared x86-64 cores, CPU, torch 2.13, 2026-11-26). A graph's replay pays nothing of it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch

from dsv4_kernels import device as devices
from dsv4_kernels.buffers import BUFFERS
from dsv4_kernels.chains import batch, prefill, seams
from dsv4_kernels.chains.attention import form_of
from dsv4_kernels.contract import Contract
from dsv4_kernels.launcher import executors
from dsv4_kernels.launcher.plan import Plan

# Shapes whose workspace is kept: a server compiles or captures a few sizes of a chunk, and a
# workspace is some 230 MiB at FLASH.
MOST_KEPT = 8


_MAY_BE_NONE = ("cmp_kv", "cmp_block_table", "cmp_indices")  # of a batch


def _schema(names: Iterable[str], optional: Iterable[str] = ()) -> str:
    """The arguments of an operator: tensors, or of a buffer that is a number a number."""
    numbers = {name for name, buffer in BUFFERS.items() if buffer.dtype is int}
    types = (
        ("SymInt" if name in numbers else "Tensor?" if name in optional else "Tensor", name)
        for name in names
    )
    return ", ".join(f"{kind} {name}" for kind, name in types)


_WEIGHTS = _schema(seams.O_PROJ)
_CHUNK_HEADS = _schema(seams.PREFILL_HEADS)
_BATCH_HEADS = _schema(seams.BATCH_HEADS, _MAY_BE_NONE)
_COLUMNS = (
    "SymInt compress_ratio, SymInt window=128, float? softmax_scale=None, "
    'SymInt? max_seq_len=None, str rope_layout="interleaved", Tensor? ori_indices=None, '
    "Tensor[]? token_map=None, SymInt sharers=1"
)
_DTYPE = "ScalarType? out_dtype=None"
_SCHEDULE = 'str schedule="decoupled"'
_DEVICES = ("CPU", "CUDA", "PrivateUse1")  # an NPU is PrivateUse1

_library = torch.library.Library("dsv4", "DEF")
_DEFINED: list[str] = []


class _Kept:
    """What ran, by its shapes; the one that was used longest ago goes first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plans: OrderedDict[Hashable, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._plans)

    def get(self, op: str, tensor: torch.Tensor, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gave for this key. Raises ContractError for a new one inside a capture."""
        key = op, tensor.device, key
        with self._lock:
            if key in self._plans:
                self._plans.move_to_end(key)
                return self._plans[key]
            api = devices.stream_api(tensor.device)
            capturing = api is not None and devices.is_capturing(api)
            Contract(op).require(
                not capturing,
                "shapes",
                "known before a capture: warm() them",
                "new ones inside of one",
            )
            made = self._plans[key] = make()
            while len(self._plans) > MOST_KEPT:
                self._plans.popitem(last=False)
            return made

    def clear(self) -> None:
        with self._lock:
            self._plans.clear()


kept = _Kept()


def warm(op: str, *args: Any, **options: Any) -> None:
    """Compile and allocate what a capture of ``torch.ops.dsv4.<op>(*args, **options)`` needs, by
    running it once. op: "prefill_sparse_attn", say. Raises ContractError."""
    Contract("warm").one_of("op", op, _DEFINED)
    getattr(torch.ops.dsv4, op)(*args, **options)


def _prefill_out(
    *args: Any, out: torch.Tensor, window: int = 128, schedule: str = "decoupled"
) -> None:
    arguments = prefill.named(args, {}, {})
    sizes = tuple(arguments[n].shape for n in ("q", "freqs_cos", "wo_a", "wo_b"))
    K = arguments["cmp_sparse_indices"].shape[-1:]
    plan = kept.get(
        "prefill_sparse_attn",
        arguments["q"],
        (sizes, K, window, schedule),
        lambda: Plan(
            prefill.PrefillChain(
                window=window,
                schedule=schedule,
                attention=form_of("prefill_sparse_attn", None, arguments["q"]),
            ),
            arguments,
            wave_tokens=prefill.WAVE_TOKENS,
            executor=executors.in_order,
        ),
    )
    plan.run(arguments, out)


def _prefill(
    *args: Any, window: int = 128, schedule: str = "decoupled", out_dtype: Any = None
) -> torch.Tensor:
    q, wo_b = args[0], args[13]
    out = torch.empty((q.shape[0], wo_b.shape[0]), dtype=_wanted(out_dtype), device=q.device)
    _prefill_out(*args, out=out, window=window, schedule=schedule)
    return out


def _prefill_shape(
    *args: Any, window: int = 128, schedule: str = "decoupled", out_dtype: Any = None
) -> torch.Tensor:
    q, wo_b = args[0], args[13]
    arguments = prefill.named(_shapes(args), {}, {})
    prefill.PrefillChain(window=window, schedule=schedule).check(arguments)
    return q.new_empty((q.shape[0], wo_b.shape[0]), dtype=_wanted(out_dtype))


def _sparse_out(
    *args: Any,
    out: torch.Tensor,
    compress_ratio: int,
    window: int = 128,
    softmax_scale: float | None = None,
    max_seq_len: int | None = None,
    rope_layout: str = "interleaved",
    ori_indices: torch.Tensor | None = None,
    token_map: Any = None,
    sharers: int = 1,
    schedule: str = "decoupled",
) -> None:
    named = dict(zip(batch.ARGUMENTS, args, strict=True))
    named |= dict(ori_indices=ori_indices, token_map=token_map)
    options: dict[str, Any] = dict(
        compress_ratio=compress_ratio, window=window, softmax_scale=softmax_scale,
        max_seq_len=max_seq_len, rope_layout=rope_layout, sharers=sharers, schedule=schedule,
    )  # fmt: skip
    # What a plan is bound to; pools, and tables behind a list, may be of any size.
    whole = ("q", "rope_cos", "wo_a", "wo_b", "cmp_indices", "ori_indices")
    sizes = [_size(named[name]) for name in whole]
    sizes += [_size(named[name])[1:2] for name in ("ori_kv", "cmp_kv")]
    if named["cmp_indices"] is None:
        sizes.append(_size(named["cmp_block_table"])[1:])
    if sharers != 1:
        sizes.append(_size(named["seq_lens"]))
    plan = kept.get(
        batch.OP,
        args[0],
        (*sizes, token_map is None, *options.values()),
        lambda: batch.BatchPlan(named, executor=executors.in_order, **options),
    )
    plan.run(named, out)


def _sparse(*args: Any, out_dtype: Any = None, **options: Any) -> torch.Tensor:
    q, wo_b = args[0], args[12]
    out = torch.empty((q.shape[0], wo_b.shape[0]), dtype=_wanted(out_dtype), device=q.device)
    _sparse_out(*args, out=out, **options)
    return out


def _sparse_shape(
    *args: Any,
    compress_ratio: int,
    window: int = 128,
    max_seq_len: int | None = None,
    softmax_scale: float | None = None,
    rope_layout: str = "interleaved",
    ori_indices: Any = None,
    token_map: Any = None,
    sharers: int = 1,
    out_dtype: Any = None,
    schedule: str = "decoupled",
) -> torch.Tensor:
    named = dict(zip(batch.ARGUMENTS, _shapes(args), strict=True))
    named |= dict(ori_indices=_shape(ori_indices), token_map=_map_shape(token_map))
    layout = batch.layout_of(
        batch.OP, named, compress_ratio=compress_ratio, window=window, max_seq_len=max_seq_len
    )
    chain = batch.BatchChain(
        layout.fixed, softmax_scale=softmax_scale, rope_layout=rope_layout, schedule=schedule,
        mapped=token_map is not None, sharers=sharers,
    )  # fmt: skip
    chain.check(layout.views(named))
    return args[0].new_empty((args[0].shape[0], args[12].shape[0]), dtype=_wanted(out_dtype))


def _sparse_heads(*args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    _ran_before("sparse_attn_heads", args, *_hashable(options))
    return seams.sparse_attn_heads(*args, **options)


def _sparse_heads_out(
    *args: Any, out: torch.Tensor, live_slots: torch.Tensor, **options: Any
) -> None:
    _ran_before("sparse_attn_heads", args, *_hashable(options))
    seams.sparse_attn_heads(*args, out=out, live_slots=live_slots, **options)


def _sparse_heads_shape(
    *args: Any,
    groups: int,
    compress_ratio: int,
    window: int = 128,
    softmax_scale: float | None = None,
    max_seq_len: int | None = None,
    rope_layout: str = "interleaved",
    ori_indices: Any = None,
    token_map: Any = None,
    sharers: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    q, seq_lens = args[0], args[7]
    *_, contract = seams.batch_half(
        _shapes(args), groups=groups, compress_ratio=compress_ratio, window=window,
        softmax_scale=softmax_scale, max_seq_len=max_seq_len, rope_layout=rope_layout,
        ori_indices=_shape(ori_indices), token_map=_map_shape(token_map), sharers=sharers,
    )  # fmt: skip
    shape = groups, q.shape[0], contract["J"]
    return q.new_empty(shape), seq_lens.new_empty((q.shape[0],))


def _heads(*args: Any, groups: int, window: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    _ran_before("prefill_sparse_attn_heads", args, groups, window)
    return seams.prefill_sparse_attn_heads(*args, groups=groups, window=window)


def _heads_out(
    *args: Any, out: torch.Tensor, live_slots: torch.Tensor, groups: int, window: int = 128
) -> None:
    _ran_before("prefill_sparse_attn_heads", args, groups, window)
    seams.prefill_sparse_attn_heads(
        *args, groups=groups, window=window, out=out, live_slots=live_slots
    )


def _heads_shape(*args: Any, groups: int, window: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    q, lens = args[0], args[7]
    *_, contract = seams.prefill_half(_shapes(args), groups=groups, window=window)
    shape = groups, q.shape[0], contract["J"]
    return q.new_empty(shape), lens.new_empty((q.shape[0],))


def _o_proj(*args: Any, schedule: str = "decoupled", out_dtype: Any = None) -> torch.Tensor:
    _ran_before("grouped_o_proj", args, schedule)
    *tensors, live_slots = args
    return seams.grouped_o_proj(
        *tensors, live_slots=live_slots, schedule=schedule, out_dtype=_wanted(out_dtype)
    )


def _o_proj_out(*args: Any, out: torch.Tensor, schedule: str = "decoupled") -> None:
    _ran_before("grouped_o_proj", args, schedule)
    *tensors, live_slots = args
    seams.grouped_o_proj(*tensors, live_slots=live_slots, schedule=schedule, out=out)


def _o_proj_shape(*args: Any, schedule: str = "decoupled", out_dtype: Any = None) -> torch.Tensor:
    o_packed, wo_b = args[0], args[2]
    seams.check_o_proj(*_shapes(args))
    return o_packed.new_empty((o_packed.shape[1], wo_b.shape[0]), dtype=_wanted(out_dtype))


def _no_result(*args: Any, **kwargs: Any) -> None:
    """The shape of an out form's result."""


def _ran_before(op: str, args: tuple[Any, ...], *options: Hashable) -> None:
    shapes = tuple(a.shape for a in args if isinstance(a, torch.Tensor))
    kept.get(op, args[0], (shapes, options), lambda: None)


def _wanted(out_dtype: torch.dtype | None) -> torch.dtype:
    return torch.bfloat16 if out_dtype is None else out_dtype


def _size(tensor: torch.Tensor | None) -> tuple[int, ...]:
    return () if tensor is None else tuple(tensor.shape)


def _hashable(options: Any) -> Iterable[Hashable]:
    """Options by their order, of tensors the sizes."""
    for name, value in sorted(options.items()):
        if isinstance(value, torch.Tensor):
            value = value.shape
        elif isinstance(value, list | tuple):
            value = tuple(tensor.shape for tensor in value)
        yield name, value


def _shapes(args: Iterable[Any]) -> tuple[Any, ...]:
    """Shapes without memory, of tensors that a trace stands for; a number of tokens is a value,
    which a trace must not depend on."""
    return tuple(_shape(a) if a is None or isinstance(a, torch.Tensor) else 0 for a in args)


def _shape(tensor: torch.Tensor | None) -> torch.Tensor | None:
    if tensor is None:
        return None
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _map_shape(token_map: Any) -> Any:
    return None if token_map is None else _shapes(token_map)


def _define(name: str, schema: str, run: Any, shape: Any) -> None:
    _DEFINED.append(name)
    _library.define(f"{name}{schema}")
    for device in _DEVICES:
        _library.impl(name, run, device)
    torch.library.register_fake(f"dsv4::{name}", shape, lib=_library)


def _define_both(
    name: str, given: str, options: str, outputs: str, results: str, functions: tuple[Any, ...]
) -> None:
    """The functional form, and the one that writes `outputs`."""
    run, run_out, shape = functions
    dtype = f", {_DTYPE}" if results == "Tensor" else ""
    _define(name, f"({given}, *, {options}{dtype}) -> {results}", run, shape)
    _define(f"{name}_out", f"({given}, *, {outputs}, {options}) -> ()", run_out, _no_result)


_define_both(
    "prefill_sparse_attn", f"{_CHUNK_HEADS}, {_WEIGHTS}", f"SymInt window=128, {_SCHEDULE}",
    "Tensor(a!) out", "Tensor", (_prefill, _prefill_out, _prefill_shape),
)  # fmt: skip
_define_both(
    "prefill_sparse_attn_heads", _CHUNK_HEADS, "SymInt groups, SymInt window=128",
    "Tensor(a!) out, Tensor(b!) live_slots", "(Tensor, Tensor)", (_heads, _heads_out, _heads_shape),
)  # fmt: skip
_define_both(
    batch.OP, f"{_BATCH_HEADS}, {_WEIGHTS}", f"{_COLUMNS}, {_SCHEDULE}",
    "Tensor(a!) out", "Tensor", (_sparse, _sparse_out, _sparse_shape),
)  # fmt: skip
_define_both(
    "sparse_attn_heads", _BATCH_HEADS, f"SymInt groups, {_COLUMNS}",
    "Tensor(a!) out, Tensor(b!) live_slots", "(Tensor, Tensor)",
    (_sparse_heads, _sparse_heads_out, _sparse_heads_shape),
)  # fmt: skip
_define_both(
    "grouped_o_proj", f"Tensor o_packed, {_WEIGHTS}, Tensor? live_slots", _SCHEDULE,
    "Tensor(a!) out", "Tensor", (_o_proj, _o_proj_out, _o_proj_shape),
)  # fmt: skip
