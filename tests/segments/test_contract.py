"""Every wrong argument is a ContractError, raised before anything is launched or written."""

from __future__ import annotations

import dataclasses
import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest
import torch
from torch._subclasses import FakeTensorMode

import dsv4_kernels
from dsv4_kernels import ContractError, MissingDependency
from dsv4_kernels.buffers import BUFFERS
from dsv4_kernels.dims import Dims
from dsv4_kernels.inputs.batch import Request, make_batch
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments import SEGMENTS
from dsv4_kernels.segments.segment import Launch

Arguments = dict[str, Any]

DIMS = Dims(
    heads=6, head_dim=16, rope_dim=16, groups=2, o_lora_rank=10, hidden=12,
    window=11, index_topk=7, page_rows=4,
)  # fmt: skip
T, N, FIRST = 5, 3, 1  # rows of the chunk; rows that a segment gets of it, and the first of them
KP, NB, J = 128, 1, 48
MAX_RANK = 132_104  # 127 * 128 * R < 2**31

BF16, FP32, INT32, INT8 = torch.bfloat16, torch.float32, torch.int32, torch.int8

Tensors = dict[str, tuple[str, torch.dtype]]  # shape in the letters of the messages, and dtype


def table(names: tuple[str, ...]) -> Tensors:
    """Of the buffers among these names that are tensors."""
    return {
        name: (BUFFERS[name].shape, dtype)
        for name in names
        if isinstance(dtype := BUFFERS[name].dtype, torch.dtype)
    }


# The entry point's are said once more, by hand (spec section 3); the segments' are the table's.
INPUTS: dict[str, Tensors] = {
    "prefill_sparse_attn": {
        "q": ("T H C", BF16),
        "ori_kv": ("ori_pages ori_B C", BF16),
        "ori_block_table": ("ori_entries", INT32),
        "kv_overlay": ("T C", BF16),
        "cmp_kv": ("cmp_pages cmp_B C", BF16),
        "cmp_block_table": ("cmp_entries", INT32),
        "cmp_sparse_indices": ("T K", INT32),
        "cmp_sparse_lens": ("T", INT32),
        "attn_sink": ("H", FP32),
        "freqs_cos": ("T P", BF16),
        "freqs_sin": ("T P", BF16),
        "wo_a": ("G R J", BF16),
        "wo_b": ("D G*R", INT8),
        "wo_b_scale": ("D", FP32),
    },
    **{name: table(segment.reads + segment.updates) for name, segment in SEGMENTS.items()},
}
INPUTS |= {
    "prefill_sparse_attn_heads": {
        name: shape for name, shape in INPUTS["prefill_sparse_attn"].items() if "wo_" not in name
    },
    "grouped_o_proj": {
        "o_packed": ("G T J", BF16),
        "wo_a": ("G R J", BF16),
        "wo_b": ("D G*R", INT8),
        "wo_b_scale": ("D", FP32),
        "live_slots": ("T", INT32),
    },
}
OUTPUTS: dict[str, Tensors] = {
    "prefill_sparse_attn": {"out": ("T D", BF16)},
    "prefill_sparse_attn_heads": {"out": ("G T J", BF16), "live_slots": ("T", INT32)},
    "grouped_o_proj": {"out": ("T D", BF16)},
    **{name: table(segment.writes) for name, segment in SEGMENTS.items()},
}

# Letters that a call takes from something else than a tensor's shape: a tensor that disagrees is
# wrong, whichever it is.
COMPUTED = {
    "KP": ("resolve_slots",),
    "P": ("merge_norm", "pv"),
    "G": ("merge_norm", "merge_finish", "pv"),
}

# Of the same size where there is one: what a view or a forgotten cast would give.
NEIGHBOUR = {
    BF16: torch.float16,
    FP32: torch.float64,
    INT32: torch.int64,
    INT8: torch.uint8,
}


def valid(op: str, dims: Dims = DIMS) -> Arguments:
    """A call that holds its contract; outputs are full of a sentinel."""
    inputs = vars(make_inputs(dims, tokens=3, capacity=T, start=20))
    sizes = dict(
        T=T, N=N, H=dims.heads, C=dims.head_dim, P=dims.rope_dim, G=dims.groups,
        R=dims.o_lora_rank, D=dims.hidden, J=dims.group_inputs, KP=KP, NB=NB, KR=KP // 16, U=N,
    )  # fmt: skip
    if op == "prefill_sparse_attn":
        arguments: Arguments = dict(
            num_tokens=3, window=dims.window, wave_tokens=2, waves_in_flight=1,
            schedule="decoupled", attention="fused", sharers=1, groups_per_launch=1,
        )  # fmt: skip
    elif op == "prefill_sparse_attn_heads":
        arguments = dict(num_tokens=3, window=dims.window, wave_tokens=2, groups=2)
    elif op == "grouped_o_proj":
        arguments = dict(wave_tokens=2, schedule="decoupled", groups_per_launch=1)
    else:
        numbers = dict(
            num_tokens=3, window=dims.window, first_token=FIRST, softmax_scale=0.25, groups=2,
            rope_dim=dims.rope_dim, sharers=1, tail=128,
        )  # fmt: skip
        arguments = {name: numbers[name] for name in SEGMENTS[op].numbers}
        if SEGMENTS[op].by_groups:
            arguments["group_range"] = range(1, 2)
    for name, (shape, dtype) in (INPUTS[op] | OUTPUTS[op]).items():
        if name not in inputs:
            extent = [_product(dim, sizes) for dim in shape.split()]
            arguments[name] = torch.full(extent, 77, dtype=dtype)
        elif shape.startswith("N"):
            arguments[name] = inputs[name][FIRST : FIRST + N]
        else:
            arguments[name] = inputs[name]
    return arguments


def _product(dim: str, sizes: dict[str, int]) -> int:
    product = 1
    for letter in dim.split("*"):
        product *= sizes[letter]
    return product


class Launched(AssertionError):
    """All checks were passed."""


@pytest.fixture(autouse=True)
def no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(launch: Launch, buffers: Any) -> NoReturn:
        raise Launched

    monkeypatch.setattr(Launch, "__call__", run)


@dataclass(frozen=True)
class Wrong:
    """A call with something wrong, and what its message has to say."""

    op: str
    change: Callable[[Arguments], Arguments]  # valid arguments -> those to replace
    blamed: tuple[str, ...]  # arguments of which the message names one
    contract: str  # regular expressions
    actual: str
    dims: Dims = DIMS


def refusal(call: Callable[[], Any]) -> tuple[str, ...]:
    """What the error of a call says: op, argument, contract, and what came instead."""
    said = ""
    try:
        call()
    except (ContractError, RuntimeError) as error:  # the latter torch's own, of another grammar
        said = str(error)
    except (Launched, MissingDependency):  # past all checks; nothing runs on meta tensors
        pass
    grammar = re.fullmatch(r"(\w+): `(\w+)` must be (.+), got (.+)", said)
    assert grammar, said
    return grammar.groups()


def check(wrong: Wrong) -> None:
    arguments = valid(wrong.op, wrong.dims)
    arguments |= wrong.change(arguments)
    tensors = {k: v for k, v in arguments.items() if isinstance(v, torch.Tensor)}
    before = {k: v.clone() for k, v in tensors.items()}
    op, argument, contract, actual = refusal(lambda: getattr(dsv4_kernels, wrong.op)(**arguments))
    assert op == wrong.op
    assert argument in wrong.blamed
    assert re.search(wrong.contract, contract)
    assert re.search(wrong.actual, actual)
    for name, tensor in tensors.items():
        if tensor.device.type == "cpu":
            same = torch.equal(_bytes(tensor), _bytes(before[name]))
            assert same, f"`{name}` was written"


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def the(name: str, change: Callable[[Any], Any]) -> Callable[[Arguments], Arguments]:
    """Replace one argument by something made from the valid one."""
    return lambda arguments: {name: change(arguments[name])}


def words(shape: str, dtype: torch.dtype) -> str:
    """Regular expression for a shape as messages write it: ``[N, H=6, C=16] bfloat16``."""
    dims = ", ".join(rf"{re.escape(dim)}(=\d+)?" for dim in shape.split())
    return rf"^\[{dims}\] {str(dtype).removeprefix('torch.')}"


def every_other_stride(tensor: torch.Tensor) -> torch.Tensor:
    """The same shape, every stride twice as long."""
    return torch.stack([tensor, tensor], dim=-1)[..., 0]


def longer(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.cat([tensor, tensor.narrow(axis, 0, 1)], dim=axis)


def shared_letters(op: str) -> dict[str, list[str]]:
    """Letters that more than one tensor of the op has, and those tensors."""
    owners: dict[str, list[str]] = {}
    for name, (shape, _) in (INPUTS[op] | OUTPUTS[op]).items():
        for dim in shape.split():
            for letter in dim.split("*"):
                owners.setdefault(letter, []).append(name)
    return {
        letter: names
        for letter, names in owners.items()
        if len(names) > 1 or op in COMPUTED.get(letter, ())
    }


class Elsewhere(torch.Tensor):
    """A wrapper without storage of its own, as a DTensor is."""

    @staticmethod
    def __new__(cls, tensor: torch.Tensor) -> Elsewhere:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, tensor.shape, dtype=tensor.dtype, device=tensor.device
        )

    @classmethod
    def __torch_dispatch__(cls, func: Any, *rest: Any) -> NoReturn:
        raise NotImplementedError(func)


def freed(tensor: torch.Tensor) -> torch.Tensor:
    """As FSDP leaves a parameter that it has sharded."""
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


def fake(tensor: torch.Tensor) -> torch.Tensor:
    with FakeTensorMode():
        return torch.empty(tensor.shape, dtype=tensor.dtype)


def sparse(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tensor.to_sparse() if tensor.dim() != 2 else tensor.to_sparse_csr()


# What stands behind a tensor that no kernel may be given, and what the message says of it.
ODD_MEMORY = {
    "wrapper": (Elsewhere, "^none$"),
    "freed": (freed, "^none$"),
    "fake": (fake, "^none$"),
    "negated": (torch._neg_view, "^a pending negation"),  # type: ignore[attr-defined]
    "sparse": (sparse, r"^sparse_\w+ layout$"),
}


def odd_tensors() -> Iterator[Any]:
    """Every tensor argument of every op with each kind of memory."""
    for op in INPUTS:
        for name, (shape, dtype) in (INPUTS[op] | OUTPUTS[op]).items():
            for kind, (change, actual) in ODD_MEMORY.items():
                contract = words(shape, dtype) + " in plain memory$"
                wrong = Wrong(op, the(name, change), (name,), contract, actual)
                yield pytest.param(wrong, id=f"{op}-{name}-{kind}")


@pytest.mark.parametrize("wrong", list(odd_tensors()))
def test_memory_that_a_pointer_does_not_tell(wrong: Wrong) -> None:
    """It would be read wrong in silence, or end in a segmentation fault."""
    arguments = valid(wrong.op)
    arguments |= wrong.change(arguments)
    op, argument, contract, actual = refusal(lambda: getattr(dsv4_kernels, wrong.op)(**arguments))
    assert (op, argument) == (wrong.op, *wrong.blamed)
    assert re.search(wrong.contract, contract)
    assert re.search(wrong.actual, actual)


@pytest.mark.parametrize("kind", ODD_MEMORY)
def test_a_batch_s_memory_that_a_pointer_does_not_tell(kind: str) -> None:
    """The same of every tensor of `sparse_attn`."""
    change, actual = ODD_MEMORY[kind]
    batch = make_batch(dataclasses.replace(DIMS, rope_dim=16), (Request(9, 2, key=1),), ratio=4)
    names = inspect.signature(dsv4_kernels.sparse_attn).parameters
    given = dict(zip(names, batch.args(), strict=False))
    tensors = [name for name, value in given.items() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 14
    for name in tensors:
        wrong = {**given, name: change(given[name])}
        said = refusal(lambda wrong=wrong: dsv4_kernels.sparse_attn(**wrong, **batch.options()))
        assert said[:2] == ("sparse_attn", name)
        assert said[2].endswith("in plain memory")
        assert re.search(actual, said[3])


def test_a_tensor_under_a_transform_has_no_memory() -> None:
    arguments = valid("group_quant")
    said = refusal(lambda: torch.func.vmap(dsv4_kernels.group_quant)(arguments["o_r"][None]))
    assert said[:2] == ("group_quant", "o_r")
    assert (said[2].endswith(" in plain memory"), said[3]) == (True, "none")


def wrong_tensors() -> Iterator[Any]:
    """Each tensor of each op: dtype, rank, layout, type, device and every size it shares."""
    for op in INPUTS:
        tensors = INPUTS[op] | OUTPUTS[op]
        letters = shared_letters(op)
        for position, (name, (shape, dtype)) in enumerate(tensors.items()):
            contract = words(shape, dtype)

            def case(
                what: str,
                change: Callable[[Any], Any],
                actual: str,
                contract: str = contract,
                blamed: tuple[str, ...] = (name,),
                op: str = op,
                name: str = name,
            ) -> Any:
                wrong = Wrong(op, the(name, change), blamed, contract, actual)
                return pytest.param(wrong, id=f"{op}-{name}-{what}")

            other = NEIGHBOUR[dtype]
            yield case("dtype", lambda x, d=other: x.to(d), rf"\] {str(other)[6:]}$")
            yield case("rank above", lambda x: x.unsqueeze(0), r"^\[1, ")
            yield case("rank below", lambda x: x[0], rf"^\[.*\] {str(dtype)[6:]}$")
            yield case(
                "strides",
                every_other_stride,
                "^strides ",
                f"{contract}, contiguous( along all but the first axis)?$",
            )
            yield case("list", lambda x: x.tolist(), "^list$")
            if name in INPUTS[op] and (op, name) != ("grouped_o_proj", "live_slots"):
                yield case("None", lambda x: None, "^NoneType$")
            if len(tensors) > 1:
                # The first one sets the device, and then it is the second that differs.
                first, second, *_ = tensors
                yield case(
                    "device",
                    lambda x: x.to("meta"),
                    "^meta$" if position else "^cpu$",
                    f"^on {'cpu' if position else 'meta'} like `{first}`$",
                    (name if position else second,),
                )
            for axis, dim in enumerate(shape.split()):
                blamed = {owner for letter in dim.split("*") for owner in letters.get(letter, ())}
                if not blamed:
                    continue
                blamed |= {*letters.get("U", ())} if dim == "N" else set()  # U follows from N
                blamed |= {"groups"} if (op, dim) == ("pv", "H") else set()
                # Two sizes differ; which of them is wrong is a matter of who was looked at first.
                yield case(
                    f"size {dim}",
                    lambda x, axis=axis: longer(x, axis),
                    r"^\[.*\] \w+$|^[A-Z]+ = \d+|^2$",
                    r"^\[.*\]|a power of two|a multiple of 128|a divisor of H=7",
                    tuple(sorted(blamed)),
                )


@pytest.mark.parametrize("op", INPUTS)
def test_the_valid_call_holds_the_contract(op: str) -> None:
    with pytest.raises(Launched):
        getattr(dsv4_kernels, op)(**valid(op))


@pytest.mark.parametrize("op", INPUTS)
def test_the_calls_are_the_signatures(op: str) -> None:
    """No argument is left out of the tables above."""
    code = inspect.unwrap(getattr(dsv4_kernels, op)).__code__
    taken = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    assert taken - {"tiles", "executor", "out_dtype"} == set(valid(op))
    assert "tiles" in taken


@pytest.mark.parametrize("wrong", list(wrong_tensors()))
def test_wrong_tensor(wrong: Wrong) -> None:
    check(wrong)


NOT_INTEGERS = (True, 2.0, None, "3", torch.tensor(3))


def wrong_integers() -> Iterator[Any]:
    """Each integer of each op: below, above, and of another type."""
    last_first = T - N
    bounds = [
        ("prefill_sparse_attn", "num_tokens", (-1, T + 1), f"in 0..{T}"),
        ("prefill_sparse_attn", "window", (-1, 2**30), f"in 0..{2**30 - 1}"),
        ("prefill_sparse_attn", "wave_tokens", (0, -128), ">= 1"),
        ("prefill_sparse_attn", "groups_per_launch", (0, -4), ">= 1"),
        ("prefill_sparse_attn", "waves_in_flight", (0, -1), ">= 1"),
        ("merge_norm", "groups", (0, -2), ">= 1"),
        ("merge_finish", "groups", (0, -2), ">= 1"),
        ("merge_norm", "rope_dim", (0, 8, 32), "in 16..16"),
    ]
    sharing = ("prefill_sparse_attn", "resolve_slots", "qk_softmax_pv", "merge_norm")
    for op in (*sharing, "merge_finish"):
        bounds += [(op, "sharers", (0, -1, 9), "in 1..8")]
    op = "resolve_slots"
    bounds += [
        (op, "num_tokens", (-1, T + 1), f"in 0..{T}"),
        (op, "window", (-1, 2**30), f"in 0..{2**30 - 1}"),
        (op, "first_token", (-1, last_first + 1), f"in 0..{last_first}"),
    ]
    for op, name, outside, contract in bounds:
        for value in (*outside, *NOT_INTEGERS):
            if value is None and name == "waves_in_flight":
                continue  # the plan's choice
            wrong = Wrong(
                op,
                the(name, lambda _, value=value: value),
                (name,),
                f"^an integer {re.escape(contract)}$",
                f"^{re.escape(repr(value))}$",
            )
            yield pytest.param(wrong, id=f"{op}-{name}-{value!r}")


@pytest.mark.parametrize("wrong", list(wrong_integers()))
def test_wrong_integer(wrong: Wrong) -> None:
    check(wrong)


def sized(op: str, **sizes: int) -> Callable[[Arguments], Arguments]:
    """All inputs of the op anew, with some letters changed everywhere (for a segment's zeros)."""

    def change(arguments: Arguments) -> Arguments:
        changed: Arguments = {}
        for name, (shape, dtype) in INPUTS[op].items():
            extent = list(arguments[name].shape)
            for axis, dim in enumerate(shape.split()):
                factors = dim.split("*")
                if set(factors) & set(sizes):
                    every = dict(G=DIMS.groups, R=DIMS.o_lora_rank) | sizes
                    extent[axis] = _product(dim, every)
            changed[name] = torch.zeros(extent, dtype=dtype)
        return changed

    return change


def on_meta(**shapes: tuple[int, ...]) -> Callable[[Arguments], Arguments]:
    """All tensors without memory, so that some can be too large for any."""

    def change(arguments: Arguments) -> Arguments:
        tensors = {k: v for k, v in arguments.items() if isinstance(v, torch.Tensor)}
        return {
            name: torch.empty(shapes.get(name, tensor.shape), dtype=tensor.dtype, device="meta")
            for name, tensor in tensors.items()
        }

    return change


def wrong_sizes() -> Iterator[Any]:
    """Sizes that agree with each other and yet are none that the kernels can take."""
    chain = "prefill_sparse_attn"
    yield Wrong(
        chain, sized(chain, G=4, J=24), ("wo_a",), "G a divisor of H=6, C=16", "^G = 4, J = 24$"
    )
    yield Wrong(
        chain, sized(chain, G=12, J=8), ("wo_a",), "G a divisor of H=6, C=16", "^G = 12, J = 8$"
    )
    yield Wrong(chain, sized(chain, J=47), ("wo_a",), r"J=\(H/G\)\*C", "^G = 2, J = 47$")
    yield Wrong(chain, sized(chain, G=0), ("wo_a",), "G a divisor of H=6", "^G = 0, J = 48$")
    yield Wrong(chain, sized(chain, H=0, J=0), ("q",), "H >= 1", "^H = 0$")
    yield Wrong(chain, sized(chain, R=0), ("wo_a",), rf"R in 1\.\.{MAX_RANK}", "^R = 0$")
    one_head = dataclasses.replace(DIMS, heads=1, groups=1, hidden=1)
    too_large = MAX_RANK + 1
    yield Wrong(
        chain,
        on_meta(wo_a=(1, too_large, 16), wo_b=(1, too_large)),
        ("wo_a",),
        rf"R in 1\.\.{MAX_RANK}",
        f"^R = {too_large}$",
        one_head,
    )
    for C in (8, 24):
        dims = dataclasses.replace(DIMS, head_dim=C)
        yield Wrong(chain, dict, ("q",), "C a power of two >= 16", f"^C = {C}$", dims)
    for P in (0, 2, 8, 24):
        change = sized(chain, P=P)
        yield Wrong(chain, change, ("freqs_cos",), "P a power of two >= 16", f"^P = {P}$")
    yield Wrong(chain, sized(chain, P=32), ("freqs_cos",), "P <= C=16", "^P = 32$")
    for pool in ("ori_kv", "cmp_kv"):
        two_heads = the(pool, lambda x: torch.stack([x, x], dim=2))
        contract = words(INPUTS[chain][pool][0], BF16)
        yield Wrong(chain, two_heads, (pool,), contract, r"^\[\d+, 4, 2, 16\] bfloat16$")

    for op in (chain, "resolve_slots"):
        yield Wrong(op, sized(op, K=0), ("cmp_sparse_indices",), "K >= 1", "^K = 0$")
        yield Wrong(op, sized(op, ori_B=0, cmp_B=0), ("ori_kv",), "B >= 1", "^B = 0$")
        pages = r"\[cmp_pages, B, C\] with B=4 as in `ori_kv`"
        yield Wrong(op, sized(op, cmp_B=5), ("cmp_kv",), pages, "^B = 5$")
        for pool in ("ori_kv", "cmp_kv"):
            too_large = on_meta(**{pool: (2**29, 4, 16)})
            yield Wrong(op, too_large, (pool,), r"< 2\*\*31 rows", f"^{2**31} rows$")
            apart = the(pool, lambda x: longer(x, 1)[:, :-1])
            yield Wrong(op, apart, (pool,), "^contiguous, rows of 64$", "^rows 80 apart$")
        ragged = dict(ori_kv=(4, 3, 16), cmp_kv=(4, 3, 16))
        for table in ("ori_block_table", "cmp_block_table"):
            entries = 2**24 // 3 + 1
            too_large = on_meta(**ragged, **{table: (entries,)})
            got = f"^{entries} pages of B=3$"
            yield Wrong(op, too_large, (table,), r"2\*\*24 slots", got)
    op = "resolve_slots"
    yield Wrong(op, sized(op, N=T + 1), ("cmp_sparse_indices",), f"N <= T={T}", "^6 rows$")
    both = on_meta(ori_kv=(2**28, 4, 16), cmp_kv=(2**28 - 1, 4, 16))
    yield Wrong(op, both, ("cmp_kv",), r"< 2\*\*31 rows with the others", r"^\d+ rows$")
    blocks = ("qk_softmax_pv", "merge_norm", "merge_finish")
    for op in ("resolve_slots", *blocks, "qk", "softmax", "pv"):
        yield Wrong(op, lambda x: {"sharers": 3}, ("sharers",), "a power of two in 1..8", "^3$")
    for op in (*blocks, "softmax"):
        contract = r"\[U=2\] for N=3 tokens by 2"
        yield Wrong(op, lambda x: {"sharers": 2}, ("live_blocks",), contract, "^U = 3$")
    yield Wrong("resolve_slots", lambda x: {"tail": 32}, ("tail",), "^16 or 128$", "^32$")
    op = "gather_kv"
    for pool in ("ori", "cmp"):
        none = sized(op, **{f"{pool}_B": 0})
        yield Wrong(op, none, (f"{pool}_kv",), "B >= 1", "^B = 0$")
        too_large = on_meta(**{f"{pool}_kv": (2**29, 4, 16)})
        yield Wrong(op, too_large, (f"{pool}_kv",), r"< 2\*\*31 rows", f"^{2**31} rows$")
    yield Wrong(op, sized(op, KP=136), ("rows",), r"128, or one of \(144, 160, 192\)", "^KP = 136$")
    yield Wrong(op, sized(op, KR=7), ("runs",), "KP/16", "^KR = 7$")
    C24 = sized("gather_kv", C=24)
    yield Wrong("gather_kv", lambda x: C24(x) | {"kv": None}, ("kv_overlay",), "C a power", "24$")

    op = "qk_softmax_pv"
    yield Wrong(op, sized(op, KP=96), ("kv",), "KP a multiple of 128", "^KP = 96$")
    yield Wrong(op, sized(op, KP=133), ("kv",), "KP a multiple of 128", "^KP = 133$")
    for C in (8, 24):
        yield Wrong(op, sized(op, C=C), ("q",), "C a power of two >= 16", f"^C = {C}$")
    for scale in (True, "0.25", 1j, torch.tensor(0.25)):
        change = the("softmax_scale", lambda _, scale=scale: scale)
        yield Wrong(op, change, ("softmax_scale",), "^a number$", f"^{re.escape(repr(scale))}$")

    for op, blamed in (("qk", "kv"), ("pv", "kv"), ("softmax", "scores")):
        for KP in (96, 133, 176, 272):
            change = sized(op, KP=KP)
            yield Wrong(op, change, (blamed,), "KP a multiple of 128", f"^KP = {KP}$")
    for C in (8, 24):
        yield Wrong("qk", sized("qk", C=C), ("q",), "C a power of two >= 16", f"^C = {C}$")
        yield Wrong("pv", sized("pv", C=C), ("kv",), "C a power of two >= 16", f"^C = {C}$")
    for scale in (None, True, "0.25", 1j, torch.tensor(0.25)):
        change = the("softmax_scale", lambda _, scale=scale: scale)
        got = f"^{re.escape(repr(scale))}$"
        yield Wrong("softmax", change, ("softmax_scale",), "^a number$", got)
    for groups in (4, 12):
        change = the("groups", lambda _, groups=groups: groups)
        yield Wrong("pv", change, ("groups",), "^a divisor of H=6$", f"^{groups}$")
    wide = dataclasses.replace(DIMS, head_dim=64)
    for P in (24, 48):
        change = the("rope_dim", lambda _, P=P: P)
        yield Wrong("pv", change, ("rope_dim",), "P a power of two", f"^P = {P}$", wide)
    for P in (0, 8, 128):
        change = the("rope_dim", lambda _, P=P: P)
        yield Wrong("pv", change, ("rope_dim",), "an integer in 16..64", f"^{P}$", wide)
    op = "finish"
    for P in (0, 2, 8, 24):
        yield Wrong(op, sized(op, P=P), ("o_rope",), "P a power of two >= 16", f"^P = {P}$")
    for sizes in (dict(G=4), dict(J=47), dict(H=0), dict(J=3 * 7), dict(G=12), dict(J=3 * 24)):
        G, j = sizes.get("G", DIMS.groups), sizes.get("J", J)
        got = f"^G = {G}, J = {j}$"
        yield Wrong(op, sized(op, **sizes), ("o_heads",), r"\(H/G\)\*C", got)
    yield Wrong("proj_a_heads", sized("proj_a_heads", J=0), ("o_heads",), "J >= 1", "^J = 0$")

    for op in ("merge_norm", "merge_finish"):
        yield Wrong(op, lambda _: dict(groups=4), ("groups",), "^a divisor of H=6$", "^4$")
        yield Wrong(op, lambda _: dict(groups=12), ("groups",), "^a divisor of H=6$", "^12$")
        yield Wrong(op, sized(op, C=24), ("o",), "C a power of two", "^C = 24$")
        yield Wrong(op, sized(op, NB=0), ("m",), "NB >= 1", "^NB = 0$")
    for P in (0, 2, 8, 24):
        change = sized(op, P=P)
        yield Wrong(op, change, ("freqs_cos",), "P a power of two >= 16", f"^P = {P}$")
    yield Wrong(op, sized(op, P=32), ("freqs_cos",), "P <= C=16", "^P = 32$")
    op = "merge_norm"
    wide = dataclasses.replace(DIMS, head_dim=64)
    for P in (24, 48):
        change = the("rope_dim", lambda _, P=P: P)
        yield Wrong(op, change, ("rope_dim",), "P a power of two", f"^P = {P}$", wide)

    op = "inverse_rope"
    for P in (0, 2, 8, 24):
        yield Wrong(op, sized(op, P=P), ("o_rope",), "P a power of two >= 16", f"^P = {P}$")
    for sizes in (dict(G=4), dict(J=47), dict(H=0), dict(J=3 * 7), dict(G=12)):
        G, j = sizes.get("G", DIMS.groups), sizes.get("J", J)
        change = sized(op, **sizes)
        yield Wrong(op, change, ("o_packed",), r"\(H/G\)\*C", f"^G = {G}, J = {j}$")

    tails = ("merge_norm", "inverse_rope", "merge_finish")
    for op in (*tails, "proj_a", "proj_a_heads", "group_quant", "proj_b"):
        for groups in (range(-1, 1), range(0, 3), range(2, 1), range(0, 2, 2), (0, 1), 1):
            change = the("group_range", lambda _, groups=groups: groups)
            inside, got = r"^a range of groups inside 0\.\.2$", f"^{re.escape(repr(groups))}$"
            yield Wrong(op, change, ("group_range",), inside, got)
    for schedule in ("row", None, 3, ["decoupled"]):
        change = the("schedule", lambda _, schedule=schedule: schedule)
        one_of, got = "^one of decoupled, row_barrier$", f"^{re.escape(repr(schedule))}$"
        yield Wrong(chain, change, ("schedule",), one_of, got)
    for attention in ("lane", 0, ["fused"]):
        change = the("attention", lambda _, attention=attention: attention)
        got = f"^{re.escape(repr(attention))}$"
        yield Wrong(
            chain, change, ("attention",), "^one of fused, lanes, separate_tail, one_kernel$", got
        )
    for executor in ("streams", 3):
        yield Wrong(
            chain, lambda _, executor=executor: dict(executor=executor), ("executor",),
            "^callable with nodes and waves$", f"^{re.escape(repr(executor))}$",
        )  # fmt: skip
    for G, R in ((2, 0), (2, MAX_RANK // 2 + 1)):
        change = sized("proj_b_dequant", G=G, R=R)
        got = f"^G\\*R = {G * R}$"
        yield Wrong("proj_b_dequant", change, ("codes",), rf"G\*R in 1\.\.{MAX_RANK}", got)

    yield Wrong("proj_a", sized("proj_a", J=0), ("o_packed",), "J >= 1", "^J = 0$")
    for R in (0, MAX_RANK + 1):
        change = sized("proj_b", R=R)
        yield Wrong("proj_b", change, ("codes",), rf"R in 1\.\.{MAX_RANK}", f"^R = {R}$")


@pytest.mark.parametrize(
    "wrong", list(wrong_sizes()), ids=lambda wrong: f"{wrong.op}-{wrong.actual}"
)
def test_wrong_sizes(wrong: Wrong) -> None:
    check(wrong)


def test_a_message_in_full() -> None:
    arguments = valid("proj_a")
    arguments["wo_a"] = arguments["wo_a"][:, :, :40]
    with pytest.raises(ContractError) as caught:
        dsv4_kernels.proj_a(**arguments)
    assert str(caught.value) == (
        "proj_a: `wo_a` must be [G=2, R, J=48] bfloat16, got [2, 10, 40] bfloat16"
    )
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("pool", ["ori_kv", "cmp_kv"])
def test_a_pool_may_have_a_head_dimension(pool: str) -> None:
    arguments = valid("prefill_sparse_attn")
    arguments[pool] = arguments[pool].unsqueeze(2)
    with pytest.raises(Launched):
        dsv4_kernels.prefill_sparse_attn(**arguments)
    arguments[pool] = every_other_stride(arguments[pool])
    with pytest.raises(ContractError, match=f"`{pool}` must be .* contiguous"):
        dsv4_kernels.prefill_sparse_attn(**arguments)


@pytest.mark.parametrize("num_tokens", [0, T])
@pytest.mark.parametrize("first_token", [0, T - N])
def test_the_bounds_are_inside(num_tokens: int, first_token: int) -> None:
    arguments = valid("resolve_slots") | dict(num_tokens=num_tokens, first_token=first_token)
    for window in (0, 2**30 - 1):
        with pytest.raises(Launched):
            dsv4_kernels.resolve_slots(**arguments | dict(window=window))


def test_empty_pools_and_tables_hold_the_contract() -> None:
    for op in ("prefill_sparse_attn", "resolve_slots", "gather_kv"):
        arguments = valid(op)
        for name in ("ori_kv", "cmp_kv", "ori_block_table", "cmp_block_table"):
            if name in arguments:
                arguments[name] = arguments[name][:0]
        with pytest.raises(Launched):
            getattr(dsv4_kernels, op)(**arguments)
