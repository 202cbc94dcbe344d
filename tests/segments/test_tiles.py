"""Tiles that a kernel may not run with are refused, for every segment and number, in one place."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl

import dsv4_kernels
from dsv4_kernels import ContractError, MissingDependency
from dsv4_kernels.buffers import BUFFERS, shapes
from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target, cuda_target
from dsv4_kernels.device.npu import MEMORY
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments import SEGMENTS, segments_on
from dsv4_kernels.segments.group_quant import GroupQuantTiles
from dsv4_kernels.segments.merge_finish import MergeFinishTiles
from dsv4_kernels.segments.merge_norm import MergeNormTiles
from dsv4_kernels.segments.proj_a import ProjATiles
from dsv4_kernels.segments.qk_softmax_pv import QkSoftmaxPvTiles
from dsv4_kernels.segments.row_quant import RowQuantTiles
from dsv4_kernels.segments.tiles import MOST_ELEMENTS, Tiles

FLASH = PRESETS["FLASH"]
SIZES = FLASH.letters() | dict(
    N=128,
    T=128,
    K=640,
    KP=640,
    NB=5,
    ori_pages=1,
    ori_entries=1,
    cmp_pages=2,
    cmp_entries=2,
    U=128,
    X=1,
    KR=40,
)
NUMBERS: dict[str, Any] = dict(
    num_tokens=128,
    window=128,
    first_token=0,
    sharers=1,
    groups=FLASH.groups,
    rope_dim=FLASH.rope_dim,
    softmax_scale=1.0,
)

# The lowest and highest of a number, and what it must divide: written down a second time.
LOW = {
    **{(name, "block_t"): 16 for name in ("proj_a", "proj_a_heads", "proj_b", "proj_b_dequant")},
    **{(name, "block_d"): 16 for name in ("proj_b", "proj_b_dequant")},
    **{(name, "b_k_tile"): 32 for name in ("proj_b", "proj_b_dequant")},
    **{(name, "block_r"): 16 for name in ("proj_a", "proj_a_heads", "qk", "pv")},
    **{(name, "a_k_tile"): 16 for name in ("proj_a", "proj_a_heads")},
    ("pv", "accumulator"): 256,
    ("softmax", "columns"): 256,
    ("qk_softmax_pv", "block_h"): 8,
    ("gather_kv", "block_k"): 16,
}
DIVIDES = {("gather_kv", "block_k"): 128}
ANY_INTEGER = ("num_stages", "heads_per_task")


def numbers_of(tiles: type[Tiles]) -> list[str]:
    return [field.name for field in dataclasses.fields(tiles)]


ALL = [(name, number) for name, s in SEGMENTS.items() for number in numbers_of(s.tiles)]


def call(name: str, tiles: Any) -> Any:
    """The public function on tensors without memory: a check is all it comes to."""
    segment = SEGMENTS[name]
    tensors = {
        buffer: torch.empty(extent, dtype=BUFFERS[buffer].dtype, device="meta")  # type: ignore[arg-type]
        for buffer, extent in shapes((*segment.reads, *segment.updates), SIZES).items()
    }
    numbers = {number: NUMBERS[number] for number in segment.numbers if number in NUMBERS}
    return getattr(dsv4_kernels, name)(**tensors, **numbers, tiles=tiles)


def refusal(name: str, tiles: Any) -> tuple[str, str]:
    """What the message says of the contract and of what came."""
    message = ""
    try:
        call(name, tiles)
    except ContractError as error:
        message = str(error)
    except MissingDependency:  # the way to a launch, which meta tensors have not
        pytest.fail(f"{name} was to be launched with {tiles}")
    said = re.fullmatch(rf"{name}: `tiles` must be (.+), got (.+)", message)
    assert said, message
    return said[1], said[2]


def wrong_values(name: str, number: str) -> Iterator[Any]:
    low, high = LOW.get((name, number), 1), 32 if number == "num_warps" else MOST_ELEMENTS
    yield from (0, -low, low // 2, 2 * high)
    yield from (float(2 * low), True, "32", np.float32(128), torch.tensor(128))
    if number != "heads_per_task":
        yield None
    if number not in ANY_INTEGER:
        yield from (3 * low, 192)
    if divides := DIVIDES.get((name, number)):
        yield 2 * divides


@pytest.mark.parametrize(("name", "number"), ALL)
def test_a_wrong_number_is_refused_with_its_rule(name: str, number: str) -> None:
    own = SEGMENTS[name].tiles()
    for value in wrong_values(name, number):
        tiles = dataclasses.replace(own, **{number: value})
        contract, came = refusal(name, tiles)
        assert contract.startswith(f"of a {number} that is "), contract
        assert came == f"{number} = {value!r}"
        if number != "heads_per_task":
            assert re.search(r"in \d+\.\.\d+", contract), contract


@pytest.mark.parametrize(
    ("name", "number", "value", "rule"),
    [
        ("gather_kv", "block_k", 96, "a power of two in 16..1048576 that divides 128"),
        ("gather_kv", "block_k", 256, "a power of two in 16..1048576 that divides 128"),
        ("gather_kv", "block_k", 8, "a power of two in 16..1048576 that divides 128"),
        ("proj_a", "a_k_tile", 0, "a power of two in 16..1048576"),
        ("proj_a", "a_k_tile", 192, "a power of two in 16..1048576"),
        ("proj_a", "a_k_tile", 256.0, "a power of two in 16..1048576"),
        ("merge_norm", "block_h", 0, "a power of two in 1..1048576"),
        ("qk_softmax_pv", "heads_per_task", 48, "a multiple of block_h = 32"),
        ("proj_a", "num_warps", 64, "a power of two in 1..32"),
        ("proj_a", "num_stages", 0, "an integer in 1..64"),
    ],
)
def test_a_message_in_full(name: str, number: str, value: Any, rule: str) -> None:
    tiles = dataclasses.replace(SEGMENTS[name].tiles(), **{number: value})
    assert refusal(name, tiles) == (f"of a {number} that is {rule}", f"{number} = {value!r}")


@pytest.mark.parametrize("name", SEGMENTS)
def test_tiles_of_another_segment_are_refused(name: str) -> None:
    own = SEGMENTS[name].tiles
    for other in (*(s.tiles for n, s in SEGMENTS.items() if n != name), dict, int):
        assert refusal(name, other()) == (own.__name__, other.__name__)


def test_a_tile_that_triton_cannot_make_is_refused_by_both_sides() -> None:
    assert MOST_ELEMENTS == tl.core.TRITON_MAX_TENSOR_NUMEL
    most = MOST_ELEMENTS
    for name, sides, product in (
        ("proj_a", dict(block_t=2048, block_r=1024), "block_t * block_r"),
        ("proj_a", dict(block_t=2048, a_k_tile=1024), "block_t * a_k_tile"),
        ("proj_a", dict(block_r=8192, a_k_tile=256), "block_r * a_k_tile"),
        ("proj_b", dict(block_t=2048, block_d=1024), "block_t * block_d"),
        ("proj_b", dict(block_t=2048, b_k_tile=1024), "block_t * b_k_tile"),
        ("proj_b", dict(block_d=2048, b_k_tile=1024), "block_d * b_k_tile"),
        ("proj_b_dequant", dict(block_t=2048, block_d=1024), "block_t * block_d"),
        ("proj_b_dequant", dict(block_t=2048, b_k_tile=1024), "block_t * b_k_tile"),
        ("proj_b_dequant", dict(block_d=2048, b_k_tile=1024), "block_d * b_k_tile"),
        ("group_quant", dict(block_t=1024, block_r=2048), "block_t * block_r"),
        ("row_quant", dict(block_t=1024, block_r=2048), "block_t * block_r"),
        ("dequant_sum", dict(block_t=1024, block_d=2048), "block_t * block_d"),
        ("qk_softmax_pv", dict(block_h=4096), "block_h * C"),
        ("merge_norm", dict(block_h=4096), "block_h * C"),
        ("merge_finish", dict(block_h=4096), "block_h * C"),
        ("inverse_rope", dict(block_h=2**15), "block_h * P"),
    ):
        tiles = dataclasses.replace(SEGMENTS[name].tiles(), **sides)
        contract, came = refusal(name, tiles)
        assert contract == f"of {product} <= {most}"
        left, right = map(int, came.split(" * "))
        assert left * right == 2 * most
    QkSoftmaxPvTiles(block_h=2048).checked(Contract("qk_softmax_pv", C=512))
    with pytest.raises(ContractError, match=r"block_h \* 128 <= 1048576, got 16384 \* 128"):
        QkSoftmaxPvTiles(block_h=16384).checked(Contract("qk_softmax_pv", C=16))


@pytest.mark.parametrize("name", SEGMENTS)
def test_the_own_tiles_hold_their_rules(name: str) -> None:
    tiles = SEGMENTS[name].tiles
    for own in (tiles(), tiles.cuda()):
        assert own.checked(Contract(name, **SIZES)) == own


def test_integers_of_numpy_become_pythons() -> None:
    checked = ProjATiles(a_k_tile=np.int64(128)).checked(Contract("proj_a"))
    assert type(checked.a_k_tile) is int
    assert checked == ProjATiles(a_k_tile=128)


# -- what a part has


def launched_on(target: Target, name: str, tiles: Tiles) -> None:
    SEGMENTS[name]._launch(_contract(name), target, tiles)


def _contract(name: str) -> Contract:
    contract = Contract(name, **SIZES, num_tokens=128, window=128, first_token=0)
    contract.sizes["softmax_scale"] = 1.0
    contract.sizes |= dict(q_stride=64 * 512, freqs_cos_stride=64, freqs_sin_stride=64)
    contract.sizes |= dict.fromkeys(("ori_kv_stride", "cmp_kv_stride"), 128 * 512)
    contract.groups = range(FLASH.groups)
    return contract


def test_tiles_that_the_part_has_no_room_for_are_refused_with_both_numbers() -> None:
    part = Target("npu", "Ascend910B3", 20, 40, MEMORY["Ascend910"])
    for name, tiles, memory, needed, available in (
        ("proj_a", ProjATiles(a_k_tile=1024), "L1", 2**20, 2**19),
        ("proj_a", ProjATiles(block_r=512, a_k_tile=128), "L0C", 2**18, 2**17),
        ("group_quant", GroupQuantTiles(block_r=512), "UB", 328704, 196608),
        ("merge_norm", MergeNormTiles(block_h=16), "UB", 296960, 196608),
        ("merge_finish", MergeFinishTiles(block_h=16), "UB", 333824, 196608),
    ):
        said = f"of at most {available} bytes of {memory} on Ascend910B3, got {needed} bytes"
        with pytest.raises(ContractError, match=f"{name}: `tiles` must be {said}"):
            launched_on(part, name, tiles)
        launched_on(dataclasses.replace(part, memory=None), name, tiles)  # the gate's: it compiles
        launched_on(cuda_target("sm_90"), name, tiles)


@pytest.mark.parametrize("name", segments_on("npu"))
def test_there_is_room_for_the_own_tiles(name: str) -> None:
    part = Target("npu", "Ascend910B3", 20, 40, MEMORY["Ascend910"])
    launched_on(part, name, SEGMENTS[name].tiles())


# -- of a chain


def chain(tiles: Any) -> None:
    dims = dataclasses.replace(FLASH, heads=8, groups=1, head_dim=16, rope_dim=16, hidden=16)
    inputs = make_inputs(dims, tokens=2)
    dsv4_kernels.prefill_sparse_attn(*inputs.args(), window=inputs.window, tiles=tiles)


@pytest.mark.parametrize(
    ("tiles", "sentence"),
    [
        ({"proj_c": ProjATiles()}, "`tiles` must be one of resolve_slots, .*, got 'proj_c'"),
        ({"proj_b": ProjATiles()}, "`tiles` must be ProjBTiles, got ProjATiles"),
        ({"group_quant": RowQuantTiles()}, "`tiles` must be GroupQuantTiles, got RowQuantTiles"),
        ({"proj_a": ProjATiles(a_k_tile=192)}, "of a a_k_tile that is .*, got a_k_tile = 192"),
        (ProjATiles(), "`tiles` must be a mapping of segments' names, got ProjATiles"),
    ],
    ids=("no segment", "another's", "another's of the same base", "no power of two", "no mapping"),
)
def test_a_chain_refuses_them_before_its_first_launch(tiles, sentence, monkeypatch) -> None:
    monkeypatch.setattr(
        "dsv4_kernels.segments.segment.Launch.__call__", lambda *_: pytest.fail("ran")
    )
    with pytest.raises(ContractError, match=sentence):
        chain(tiles)


def test_a_segment_with_nothing_to_do_refuses_them_too() -> None:
    with pytest.raises(ContractError, match="block_t = 3"):
        dsv4_kernels.group_quant(torch.empty(0, 2, 8), tiles=GroupQuantTiles(block_t=3))
