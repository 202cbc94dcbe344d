"""Weights in memory to what the kernels take: by hand bit for bit, and what is refused."""

import re

import pytest
import torch

import checkpoints
from checkpoints import D, G, J, R, assert_by_hand, assert_slice
from dsv4_kernels import ContractError
from dsv4_kernels.weights import (
    OProj,
    from_bf16,
    from_fp8,
    from_int8,
    from_vllm_ascend,
    shard,
)
from dsv4_kernels.weights import rows as rows_module


def convert(tensors: checkpoints.Tensors, form: str) -> OProj:
    t, sink = tensors, tensors["sink"]
    if form in ("fp8", "fp8-fp32"):
        return from_fp8(t["wo_a"], t["wo_a_scale"], t["wo_b"], t["wo_b_scale"], G, attn_sink=sink)
    if form == "bf16":
        return from_bf16(t["wo_a"], t["wo_b"], G, attn_sink=sink)
    offset = t["wo_b_offset"]
    return from_int8(t["wo_a"], t["wo_b"], t["wo_b_scale"], G, weight_offset=offset, attn_sink=sink)


# One row, some rows that end inside a block of scales, all at once.
@pytest.mark.parametrize("elements", [1, 7 * J, 1 << 24])
@pytest.mark.parametrize("block", [8, 32, 128])
@pytest.mark.parametrize("form", ["fp8", "fp8-fp32", "bf16", "int8"])
def test_by_hand(form, block, elements, generator, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_ELEMENTS", elements)
    tensors = checkpoints.layer(generator, form, block)
    oproj = convert(tensors, form)
    assert_by_hand(oproj, tensors, block)
    assert all(x.is_contiguous() for x in vars(oproj).values() if isinstance(x, torch.Tensor))


def test_wo_a_of_powers_of_two_is_exact(generator):
    oproj = convert(checkpoints.layer(generator, "fp8", 32), "fp8")
    assert oproj.wo_a_error == 0
    assert 0 < oproj.wo_b_error < 0.1
    oproj = convert(checkpoints.layer(generator, "fp8-fp32", 32), "fp8-fp32")
    assert 0 < oproj.wo_a_error < 2.0**-8  # half a spacing of bf16
    assert convert(checkpoints.layer(generator, "int8", 32), "int8").wo_b_error == 0


def test_every_code_and_every_power_of_two():
    """All e4m3 codes but NaN under all exponents that leave them normal numbers of bf16."""
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[(codes & 0x7F) != 0x7F]
    exponents = torch.arange(10, 245, dtype=torch.uint8)  # 2**-9 * 2**-117 to 448 * 2**117
    wo_a = codes.repeat(len(exponents), 1).view(torch.float8_e4m3fn)
    scale = exponents[:, None].repeat(1, len(codes)).view(torch.float8_e8m0fnu)  # block of 1
    wo_b = torch.zeros(1, len(exponents)).to(torch.float8_e4m3fn)
    one = torch.full(wo_b.shape, 127, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    oproj = from_fp8(wo_a, scale, wo_b, one, 1)
    want = checkpoints.widened(wo_a, scale, 1)
    assert (oproj.wo_a[0].double().numpy() == want).all()
    assert oproj.wo_a_error == oproj.wo_b_error == 0


def test_what_bf16_cannot_hold_is_refused():
    """Finite in fp32, and yet nearer to 2**128 than to the largest bf16."""
    one = torch.ones(1, 1).to(torch.float8_e4m3fn)
    scale = torch.ones(1, 1)
    largest = torch.full((1, 1), float(torch.finfo(torch.bfloat16).max))
    assert from_fp8(one, largest, one, scale, 1).wo_a.item() == largest.item()
    with pytest.raises(ContractError, match="`wo_a` must be finite"):
        from_fp8(one, torch.full((1, 1), 3.4e38), one, scale, 1)


def test_zero_rows_are_zero_codes(generator):
    tensors = checkpoints.layer(generator, "bf16", 32)
    tensors["wo_b"][4] = 0
    oproj = convert(tensors, "bf16")
    assert (oproj.wo_b[4] == 0).all()
    assert oproj.wo_b_scale[4] > 0


def test_a_loaded_layer_of_vllm_ascend(generator):
    tensors = checkpoints.layer(generator, "int8", 32)
    oproj = from_vllm_ascend(
        tensors["wo_a"].view(G, R, J).transpose(1, 2).contiguous(),
        tensors["wo_b"].T.contiguous(),
        tensors["wo_b_scale"].flatten(),
        weight_offset=tensors["wo_b_offset"].flatten(),
        attn_sink=tensors["sink"],
    )
    assert_by_hand(oproj, tensors, 32)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("form", ["fp8", "bf16", "int8"])
def test_shards_are_slices_of_the_whole(form, size, generator):
    whole = convert(checkpoints.layer(generator, form, 32), form)
    for rank in range(size):
        part = shard(whole, rank, size)
        assert_slice(part, whole, rank, size)


def test_parts_of_the_output_add_up(generator):
    """Rank by rank in exact integers: what tensor parallelism sums is the whole."""
    whole = convert(checkpoints.layer(generator, "bf16", 32), "bf16")
    codes = torch.randint(-127, 128, (3, G * R), generator=generator)
    parts = torch.zeros(3, D, dtype=torch.int64)
    for rank in range(4):
        columns = slice(rank * G * R // 4, (rank + 1) * G * R // 4)
        parts += codes[:, columns] @ shard(whole, rank, 4).wo_b.long().T
    assert torch.equal(parts, codes @ whole.wo_b.long().T)


def test_to_a_device_and_without_sinks(generator):
    tensors = checkpoints.layer(generator, "bf16", 32)
    oproj = from_bf16(tensors["wo_a"], tensors["wo_b"], G)
    assert oproj.attn_sink is None
    assert shard(oproj, 1, 2).attn_sink is None
    moved = oproj.to("meta")
    assert {moved.wo_a.device.type, moved.wo_b.device.type, moved.wo_b_scale.device.type} == {
        "meta"
    }
    assert moved.wo_b_error == oproj.wo_b_error


NAN = torch.tensor(0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn)


def refusals():
    """Format, what is changed, and the message."""
    yield (
        "fp8",
        dict(wo_a=lambda x: x.float()),
        "from_fp8: `wo_a` must be [rows, columns] float8_e4m3fn, got [320, 96] float32",
    )
    yield (
        "fp8",
        dict(wo_a=lambda x: x[0]),
        "`wo_a` must be [rows, columns] float8_e4m3fn, got [96] float8_e4m3fn",
    )
    yield (
        "fp8",
        dict(wo_b=lambda x: x.bfloat16()),
        "`wo_b` must be [rows, columns] float8_e4m3fn, got",
    )
    yield "fp8", dict(wo_b=lambda x: x[:, :-1]), "`wo_b` must be [D, G*R=320], got [72, 319]"
    yield "fp8", dict(wo_a_scale=lambda x: x.T), "`wo_a_scale` must be one per square block"
    yield (
        "fp8",
        dict(wo_a_scale=lambda x: x[:-1]),
        "of wo_a's [320, 96]: float8_e8m0fnu or float32, got [9, 3] float8_e8m0fnu",
    )
    yield "fp8", dict(wo_a_scale=lambda x: x.float().bfloat16()), "got [10, 3] bfloat16"
    yield "fp8", dict(wo_b_scale=lambda x: x[:, :-1]), "`wo_b_scale` must be one per square block"
    yield (
        "fp8",
        dict(wo_a=lambda x: at(x, NAN)),
        "from_fp8: `wo_a` must be finite, got a NaN or an Inf",
    )
    yield (
        "fp8",
        dict(wo_b=lambda x: at(x, NAN)),
        "from_fp8: `wo_b` must be finite, got a NaN or an Inf",
    )
    yield "fp8", dict(sink=lambda x: x[:-1]), "`attn_sink` must be [H] with H a multiple of G = 8"
    yield "fp8", dict(sink=lambda x: x.double()), "float32 or bfloat16, got [16] float64"
    yield "fp8", dict(sink=lambda x: x[:, None]), "got [16, 1] float32"
    yield "fp8", dict(sink=lambda x: x.repeat(25)), "H/G a divisor of J = 96: float32"
    yield (
        "bf16",
        dict(wo_a=lambda x: x[:-1]),
        "`wo_a` must be [G*R, J] with G = 8, got [319, 96] bfloat16",
    )
    yield (
        "bf16",
        dict(wo_a=lambda x: x.half()),
        "`wo_a` must be [rows, columns] bfloat16, got [320, 96] float16",
    )
    yield (
        "bf16",
        dict(wo_b=lambda x: at(x, torch.tensor(float("inf")))),
        "from_bf16: `wo_b` must be finite",
    )
    yield (
        "bf16",
        dict(wo_b=lambda x: torch.cat([x, x[:, :1]], 1)),
        "`wo_b` must be [D, G*R=320], got [72, 321] bfloat16",
    )
    yield (
        "int8",
        dict(wo_b_offset=lambda x: at(x, torch.tensor(1.0))),
        "from_int8: `weight_offset` must be all zero, got 1 that are not",
    )
    yield (
        "int8",
        dict(wo_b_offset=lambda x: x[:-1]),
        "`weight_offset` must be [72] or [72, 1], got [71, 1] float32",
    )
    yield (
        "int8",
        dict(wo_b_scale=lambda x: x[:-1]),
        "`weight_scale` must be [72] or [72, 1] float32, got [71, 1] float32",
    )
    yield (
        "int8",
        dict(wo_b_scale=lambda x: x.bfloat16()),
        "`weight_scale` must be [72] or [72, 1] float32, got [72, 1] bfloat16",
    )
    yield (
        "int8",
        dict(wo_b_scale=lambda x: at(x, torch.tensor(float("nan")))),
        "`weight_scale` must be finite, got 1 that are not",
    )
    yield (
        "int8",
        dict(wo_b=lambda x: x.to(torch.uint8)),
        "`wo_b` must be [rows, columns] int8, got [72, 320] uint8",
    )


def at(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """One element replaced, not in the first rows."""
    tensor = tensor.clone()
    tensor[-2:-1, -1:] = value.to(tensor.dtype)
    return tensor


@pytest.mark.parametrize(("form", "change", "message"), list(refusals()))
def test_what_is_no_layer_is_refused(form, change, message, generator):
    tensors = checkpoints.layer(generator, form, 32)
    tensors |= {name: edit(tensors[name]) for name, edit in change.items()}
    with pytest.raises(ContractError, match=re.escape(message)):
        convert(tensors, form)


@pytest.mark.parametrize(("rank", "size", "message"), [
    (0, 3, "shard: `size` must be a divisor of G=8 groups, got 3"),
    (0, 16, "shard: `size` must be a divisor of G=8 groups, got 16"),
    (2, 2, "shard: `rank` must be an integer in 0..1, got 2"),
    (-1, 2, "shard: `rank` must be an integer in 0..1, got -1"),
    (0, 0, "shard: `size` must be an integer >= 1, got 0"),
])  # fmt: skip
def test_no_part_of_a_layer(rank, size, message, generator):
    whole = convert(checkpoints.layer(generator, "bf16", 32), "bf16")
    with pytest.raises(ContractError, match=re.escape(message)):
        shard(whole, rank, size)


def test_a_vllm_ascend_layer_that_is_none(generator):
    t = checkpoints.layer(generator, "int8", 32)
    wo_a, wo_b = t["wo_a"].view(G, R, J).transpose(1, 2), t["wo_b"].T
    for arguments, message in [
        ((t["wo_a"], wo_b), "from_vllm_ascend: `wo_a` must be [G, J, R] bfloat16, got [320, 96]"),
        ((wo_a, t["wo_b"]), "`wo_b` must be [G*R=320, D] int8, got [72, 320] int8"),
        ((wo_a, wo_b.float()), "`wo_b` must be [G*R=320, D] int8, got [320, 72] float32"),
    ]:
        with pytest.raises(ContractError, match=re.escape(message)):
            from_vllm_ascend(*arguments, t["wo_b_scale"])
    with pytest.raises(
        ContractError, match="`weight_offset` must be all zero, got 72 that are not"
    ):
        from_vllm_ascend(wo_a, wo_b, t["wo_b_scale"], weight_offset=torch.ones(D))


def test_an_oproj_is_what_the_kernels_take(generator):
    whole = convert(checkpoints.layer(generator, "bf16", 32), "bf16")
    for change, message in [
        (dict(wo_b=whole.wo_b[:, ::2]), "OProj: `wo_b` must be [D, G*R=320] int8"),
        (dict(wo_b_scale=whole.wo_b_scale[1:]), "`wo_b_scale` must be [D=72] float32"),
        (dict(wo_a=whole.wo_a.float()), "`wo_a` must be [G, R, J] bfloat16"),
        (dict(attn_sink=torch.zeros(9)), "`attn_sink` must be [H] with H a multiple of G=8"),
    ]:
        with pytest.raises(ContractError, match=re.escape(message)):
            OProj(**{**vars(whole), **change})
