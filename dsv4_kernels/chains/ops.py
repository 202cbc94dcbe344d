"""The entries as torch operators, which stand inside a compiled graph.

    from dsv4_kernels.chains import ops          # registers torch.ops.dsv4.*

    torch.ops.dsv4.prefill_sparse_attn(q, .., wo_b_scale, window=128)             -> attn_out
    torch.ops.dsv4.prefill_sparse_attn_heads(q, .., freqs_sin, groups=8)          -> o_packed, live
    torch.ops.dsv4.grouped_o_proj(o_packed, wo_a, wo_b, wo_b_scale, live_slots)   -> attn_out

Arguments mean what they do for the functions of these names. Each has an out form, `.._out`, that
returns nothing. The bytes are those of the plain call. There is no gradient.

Workspaces are kept by shape and device, the latest `MOST_KEPT`, and all layers of a model share
them. What runs inside a capture has to have run before, with the same shapes and outside of one:
`warm` does that. All is issued to the current stream.

What torch's dispatcher and the look-up of the workspace cost a call beside `PrefillSparseAttn.run`:
about 50 us of host time (57 against 6 with the launches left out, out form, 16 tensors; a shared
x86 core, torch 2.13, 2026-11-26). A graph's replay pays nothing of it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch

from dsv4_kernels import device as devices
from dsv4_kernels.buffers import ARGUMENTS, BUFFERS
from dsv4_kernels.chains import prefill, seams
from dsv4_kernels.contract import Contract
from dsv4_kernels.launcher import executors
from dsv4_kernels.launcher.plan import Plan

# Shapes whose workspace is kept: a server compiles or captures a few sizes of a chunk, and a
# workspace is some 230 MiB at FLASH.
MOST_KEPT = 8


def _schema(names: Iterable[str]) -> str:
    """The buffers as the arguments of an operator."""
    types = (("SymInt" if BUFFERS[name].dtype is int else "Tensor", name) for name in names)
    return ", ".join(f"{kind} {name}" for kind, name in types)


_O_PROJ = ("wo_a", "wo_b", "wo_b_scale")  # the weights behind the heads
_HEADS = _schema(name for name in ARGUMENTS if name not in _O_PROJ)
_WEIGHTS = _schema(_O_PROJ)
_DTYPE = "ScalarType? out_dtype=None"
_SCHEDULE = 'str schedule="decoupled"'
_DEVICES = ("CPU", "CUDA", "PrivateUse1")  # an NPU is PrivateUse1

_library = torch.library.Library("dsv4", "DEF")


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
            prefill.PrefillChain(window=window, schedule=schedule),
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


def _shapes(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Shapes without memory, of tensors that a trace stands for; a number of tokens is a value,
    which a trace must not depend on."""
    return tuple(
        torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device="meta")
        if isinstance(a, torch.Tensor)
        else (a if a is None else 0)
        for a in args
    )


def _define(name: str, schema: str, run: Any, shape: Any) -> None:
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
    "prefill_sparse_attn", f"{_HEADS}, {_WEIGHTS}", f"SymInt window=128, {_SCHEDULE}",
    "Tensor(a!) out", "Tensor", (_prefill, _prefill_out, _prefill_shape),
)  # fmt: skip
_define_both(
    "prefill_sparse_attn_heads", _HEADS, "SymInt groups, SymInt window=128",
    "Tensor(a!) out, Tensor(b!) live_slots", "(Tensor, Tensor)", (_heads, _heads_out, _heads_shape),
)  # fmt: skip
_define_both(
    "grouped_o_proj", f"Tensor o_packed, {_WEIGHTS}, Tensor? live_slots", _SCHEDULE,
    "Tensor(a!) out", "Tensor", (_o_proj, _o_proj_out, _o_proj_shape),
)  # fmt: skip

_DEFINED = tuple(
    name + form
    for name in ("prefill_sparse_attn", "prefill_sparse_attn_heads", "grouped_o_proj")
    for form in ("", "_out")
)
