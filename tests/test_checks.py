"""contract.py by itself: what each check lets through, and in full what it says of the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch

from dsv4_kernels.contract import Contract, ContractError, as_int

BF16, INT32 = torch.bfloat16, torch.int32
NUMBERS = ("one", "two", "three", "four", "five", "six")


def said(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    """What it is refused with; nothing where it is let through."""
    try:
        call(*args, **options)
    except ContractError as error:
        return str(error).removeprefix("op: ")
    except RuntimeError as error:  # torch's own: of another grammar
        return f"RuntimeError {error}"
    return ""


def rows(n: int, stride: int, H: int = 2, held: int | None = None) -> torch.Tensor:
    """q [n, H, 16], `stride` elements from a row to the next, in memory of just its span."""
    size = (n - 1) * stride + H * 16 if held is None else held
    return torch.zeros(max(size, 0), dtype=BF16).as_strided((n, H, 16), (stride, 16, 1))


# -- tensors


@pytest.mark.parametrize(
    ("n", "stride", "found"),
    [
        (4, 48, 48),
        (2, 48, 48),
        (2, 32, 32),
        (1, 40, 32),  # of one row the stride says nothing
        (1, 8, 32),
        (0, 40, 32),
    ],
)
def test_rows_lie_whole_blocks_apart(n: int, stride: int, found: int) -> None:
    contract = Contract("op")
    tensor = rows(n, stride, held=n * 48)
    assert contract.buffer("q", tensor) is tensor
    assert contract["q_stride"] == found


def test_rows_without_an_element_lie_side_by_side() -> None:
    contract = Contract("op")
    contract.buffer("q", rows(3, 40, H=0))
    assert contract["q_stride"] == 0


def test_rows_that_do_not() -> None:
    for stride in (40, 47, 56):
        got = f"`q` must be rows whole 16-element blocks apart, got {stride} elements"
        assert said(Contract("op").buffer, "q", rows(2, stride)) == got
    pages = torch.zeros(400, dtype=BF16).as_strided((3, 4, 16), (67, 16, 1))
    contract = Contract("op")
    contract.buffer("ori_kv", pages)  # of a pool by any number
    got = "`ori_kv` must be contiguous, rows of 64, got rows 67 apart"
    assert said(contract.require_packed, "ori_kv", 64) == got
    contract.sizes["ori_kv_stride"] = 128
    assert said(contract.require_packed, "ori_kv", 64).endswith("rows 128 apart")
    contract.sizes["ori_kv_stride"] = 64
    assert said(contract.require_packed, "ori_kv", 64) == ""


def test_what_lies_along_the_other_axes_is_contiguous() -> None:
    """The letters that only this tensor has are letters in what is said of it."""
    contract = Contract("op", C=16)
    shape = "`q` must be [N, H, C=16] bfloat16, contiguous along all but the first axis"
    assert said(contract.buffer, "q", rows(2, 16)) == f"{shape}, got strides [16, 16, 1]"
    wide = torch.zeros(2, 2, 32, dtype=BF16)[..., ::2]
    assert said(Contract("op", C=16).buffer, "q", wide) == f"{shape}, got strides [64, 32, 2]"
    got = "`wo_b_scale` must be [D] float32, contiguous, got strides [2]"
    assert said(Contract("op").buffer, "wo_b_scale", torch.zeros(6)[::2]) == got


def test_memory_is_held_up_to_the_last_element() -> None:
    """As torch counts it; FSDP and others free what a tensor still claims."""
    none = "`q` must be [N, H, C] bfloat16 in plain memory, got none"
    for tensor, elements in (
        (rows(3, 32), 96),
        (rows(3, 48), 128),  # what lies between the rows included
        (torch.zeros(128, dtype=BF16)[32:].view(3, 2, 16), 128),
    ):
        memory = tensor.untyped_storage()
        memory.resize_(2 * elements)
        assert said(Contract("op").buffer, "q", tensor) == ""
        memory.resize_(2 * elements - 1)
        assert said(Contract("op").buffer, "q", tensor) == none
        assert (
            said(Contract("op").plain, "q", tensor)
            == "`q` must be a tensor in plain memory, got none"
        )
    sparse = "`q` must be a tensor in plain memory, got sparse_coo layout"
    assert said(Contract("op").plain, "q", torch.zeros(3).to_sparse()) == sparse
    Contract("op").plain("q", "no tensor: another check's")


def test_a_literal_size_is_said_once() -> None:
    short = torch.zeros(2, 5)
    got = "`out` must be [3, D] float32, got [2, 5] float32"
    assert said(Contract("op").tensor, "out", short, "3 D", torch.float32) == got
    got = "`out` must be [G*R, 3, D=5] float32, got [2, 5] float32"
    assert said(Contract("op", D=5).tensor, "out", short, "G*R 3 D", torch.float32) == got
    got = "`out` must be [D, G*R] float32, got [2, 5] float32"  # a product binds no letter
    assert said(Contract("op").tensor, "out", short, "D G*R", torch.float32) == got
    contract = Contract("op")
    contract.tensor("out", short, "2 D", torch.float32)
    assert contract.sizes == {"D": 5}


def test_the_first_tensor_says_where_the_others_are() -> None:
    contract = Contract("op")
    contract.buffer("attn_sink", torch.zeros(2))
    contract.buffer("wo_b_scale", torch.zeros(3))
    meta = torch.zeros(2, device="meta")
    got = "`attn_sink` must be on cpu like `attn_sink`, got meta"
    assert said(contract.buffer, "attn_sink", meta) == got
    contract = Contract("op")
    contract.on(torch.device("cuda", 1), "q")
    got = "`attn_sink` must be on cuda:1 like `q`, got cpu"
    assert said(contract.buffer, "attn_sink", torch.zeros(2)) == got


def test_an_output_is_made_where_the_first_input_is() -> None:
    contract = Contract("op", rows="T")
    contract.buffer("freqs_cos", torch.zeros(3, 16, dtype=torch.float32, device="meta"))
    contract.sizes |= dict(G=2, J=32)
    made = contract.output("o_packed", None)
    assert (*made.shape, made.dtype, made.device.type) == (2, 3, 32, BF16, "meta")
    got = "`o_packed` must be [G=2, T=3, J=32] bfloat16, got [2, 3, 32] float32"
    assert said(contract.output, "o_packed", made.float()) == got


def test_a_leaf_may_not_be_written_and_what_follows_from_one_may() -> None:
    leaf = torch.zeros(2, requires_grad=True)
    got = "`out` must be a tensor that may be written, got a leaf that requires grad"
    assert said(Contract("op").may_be_written, "out", leaf) == got
    for other in (leaf * 1, leaf.detach()):
        assert said(Contract("op").may_be_written, "out", other) == ""


@pytest.mark.parametrize(
    ("first", "last", "overlap"),
    [
        (0, 8, False),
        (0, 9, True),
        (8, 12, True),
        (9, 11, True),
        (7, 13, True),
        (11, 16, True),
        (12, 16, False),
        (10, 10, False),  # nothing, in the midst of it
    ],
)
def test_an_output_shares_no_byte_with_an_input(first: int, last: int, overlap: bool) -> None:
    """fp32 elements 2..3 of a memory, by its bytes."""
    memory = torch.zeros(16, dtype=torch.int8)
    out, q = memory[8:12].view(torch.float32), memory[first:last]
    contract = Contract("op")
    for called, name in (({}, "q"), ({"q": "query"}, "query")):
        contract.called = called
        got = f"`out` must be memory apart from `{name}`, got an overlap" if overlap else ""
        assert said(contract.apart, "out", out, {"q": q}, {"q": q.nbytes}) == got
    meta = torch.zeros(4, device="meta")  # no address tells anything
    assert said(contract.apart, "out", meta, {"q": meta}, {"q": 16}) == ""


# -- numbers and names


@pytest.mark.parametrize(
    ("low", "high", "inside", "outside", "rule"),
    [
        (0, 5, (0, 1, 5, numpy.int64(5)), (-1, 6, numpy.int8(-1)), "in 0..5"),
        (1, None, (1, 2**40), (0, -1), ">= 1"),
        (3, 3, (3,), (2, 4), "in 3..3"),
    ],
)
def test_an_integer_and_its_bounds(
    low: int, high: Any, inside: Any, outside: Any, rule: str
) -> None:
    contract = Contract("op")
    for value in inside:
        number = contract.integer("n", value, low, high)
        assert (number, type(number)) == (value, int)
    for value in (*outside, True, 3.0, "3", None, torch.tensor(3)):
        got = f"`n` must be an integer {rule}, got {value!r}"
        assert said(contract.integer, "n", value, low, high) == got
        assert as_int(value) is None or value in outside


@pytest.mark.parametrize(
    ("low", "inside", "outside"), [((), (1, 2, 64), (0, 3, 96)), ((16,), (16, 32), (0, 8, 24))]
)
def test_a_power_of_two_from_its_lowest_on(low: Any, inside: Any, outside: Any) -> None:
    for size in inside:
        assert said(Contract("op", C=size).power_of_two, "C", "q", *low) == ""
    for size in outside:
        got = f"`q` must be C a power of two >= {(*low, 1)[0]}, got C = {size}"
        assert said(Contract("op", C=size).power_of_two, "C", "q", *low) == got


def test_a_name_is_one_of_those_known_in_their_order() -> None:
    contract = Contract("op")
    assert said(contract.one_of, "form", "a", ["b", "a"]) == ""
    for wrong in ("c", None, 3, ["a"]):
        got = f"`form` must be one of b, a, got {wrong!r}"
        assert said(contract.one_of, "form", wrong, {"b": 1, "a": 2}) == got


def test_a_range_of_groups_lies_inside() -> None:
    contract = Contract("op", G=3)
    assert contract.groups == range(0)
    for groups, found in ((None, range(3)), (range(3), range(3)), (range(1, 1), range(1, 1))):
        contract.group_range(groups)
        assert contract.groups == found
        assert contract.groups.start == found.start
    for groups in (range(-1, 2), range(4), range(2, 1), range(0, 3, 2), [0, 1], 2, ()):
        got = f"`group_range` must be a range of groups inside 0..3, got {groups!r}"
        assert said(contract.group_range, groups) == got


def test_arguments_by_place_and_by_name() -> None:
    take = Contract("op").by_name
    known = dict(three=30, two=20, one=10, more=40)
    assert take(("one", "two", "three"), (1,), {"two": 2}, known) == dict(one=1, two=2, three=30)
    assert [*take(NUMBERS, (1, 2), dict(zip(NUMBERS[2:], "abcd", strict=True)), {})] == [*NUMBERS]
    rule = "`args` must be 6 arguments, one to six, got"
    ordered = ", ".join(sorted(NUMBERS))
    for args, kwargs, got in (
        (range(7), {}, "7 by place"),
        (range(6), dict.fromkeys(NUMBERS), f"6 by place, twice: {ordered}"),
        (range(5), dict(six=6, seven=7), "5 by place, unknown: seven"),
        (range(6), dict(z=0, y=0, x=0, w=0, v=0), "6 by place, unknown: v, w, x, y, z"),
        (range(2), dict(six=6), "2 by place, missing: three, four, five"),
        (
            range(2), dict(two=2, ten=0),
            "2 by place, twice: two, unknown: ten, missing: three, four, five, six",
        ),
    ):  # fmt: skip
        assert said(take, NUMBERS, args, kwargs, {}) == f"{rule} {got}"
