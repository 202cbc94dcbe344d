"""The generated inputs and RoPE tables, decoded by hand."""

import dataclasses
import math

import pytest
import torch

from dsv4_kernels.dims import PRESETS, Dims
from dsv4_kernels.inputs import prefill as inputs_module
from dsv4_kernels.inputs.prefill import PrefillInputs, make_inputs
from dsv4_kernels.inputs.rope import inverse_frequencies, rope_tables, yarn_ramp_bounds
from dsv4_kernels.weights import rows as rows_module

# The window is no multiple of the page, so the last page of the ring is partly foreign.
SMALL = Dims(
    heads=6,
    head_dim=16,
    rope_dim=8,
    groups=2,
    o_lora_rank=10,
    hidden=12,
    window=11,
    index_topk=7,
    page_rows=4,
)
RATIO = {"SWA": 0, "CSA": 4, "HCA": 128}
STARTS = (0, 5, SMALL.window - 1, SMALL.window, 3 * SMALL.window + 7)
ARGUMENTS = [
    "q",
    "ori_kv",
    "ori_block_table",
    "kv_overlay",
    "cmp_kv",
    "cmp_block_table",
    "cmp_sparse_indices",
    "cmp_sparse_lens",
    "attn_sink",
    "num_tokens",
    "freqs_cos",
    "freqs_sin",
    "wo_a",
    "wo_b",
    "wo_b_scale",
]


def tensors(inputs: PrefillInputs) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(inputs).items() if isinstance(value, torch.Tensor)}


def decode(inputs: PrefillInputs, start: int, t: int) -> tuple[list[int], list[int]]:
    """Positions and compressed slots that row t names, in the order of its columns."""
    window, capacity = inputs.window, inputs.kv_overlay.shape[0]
    ring: dict[int, int] = {}
    for position in range(start):  # what the chunks before have written
        ring[position % window] = position
    positions, slots = [], []
    for raw in inputs.cmp_sparse_indices[t, : int(inputs.cmp_sparse_lens[t])].tolist():
        assert raw >= 0, "a hole inside the usable prefix"
        if raw >= window + capacity:
            slots.append(raw - window - capacity)
        else:
            assert not slots, "a window row behind a compressed slot"
            positions.append(ring[raw] if raw < window else start + raw - window)
    return positions, slots


@pytest.mark.parametrize("layer", RATIO)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("tokens", "capacity"), [(1, 1), (9, 13), (30, 30)])
def test_window_names_the_last_positions(
    layer: str, start: int, tokens: int, capacity: int, seed: int
) -> None:
    inputs = make_inputs(
        SMALL, layer=layer, tokens=tokens, capacity=capacity, start=start, seed=seed
    )
    assert inputs.num_tokens == tokens
    for t in range(tokens):
        p = start + t
        positions, _ = decode(inputs, start, t)
        assert positions == list(range(max(0, p - SMALL.window + 1), p + 1))


@pytest.mark.parametrize("block_elements", [1, 1 << 24])
@pytest.mark.parametrize("start", STARTS)
def test_csa_picks_are_causal_unique_and_complete(
    start: int, block_elements: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_module, "BLOCK_ELEMENTS", block_elements)
    tokens = 60
    inputs = make_inputs(SMALL, tokens=tokens, capacity=64, start=start, seed=seed)
    assert inputs.cmp_sparse_indices.shape == (64, SMALL.index_columns)
    full_rows = []
    for t in range(tokens):
        seen = (start + t + 1) // 4
        _, slots = decode(inputs, start, t)
        assert set(slots) <= set(range(seen))
        assert len(set(slots)) == len(slots) == min(SMALL.index_topk, seen)
        if seen > SMALL.index_topk:
            full_rows.append(slots)
    last_seen = (start + tokens) // 4
    assert last_seen > SMALL.index_topk
    assert all(slots != sorted(slots) for slots in full_rows[-4:])  # by score; 1 in 7! by chance
    assert len({tuple(slots) for slots in full_rows}) == len(full_rows)
    assert {slot for slots in full_rows for slot in slots} >= set(range(last_seen - 1))


@pytest.mark.parametrize("start", [0, 126, 127, 128, 500])
def test_hca_takes_every_finished_slot(start: int, seed: int) -> None:
    tokens, capacity = 140, 150
    inputs = make_inputs(
        SMALL, layer="HCA", tokens=tokens, capacity=capacity, start=start, seed=seed
    )
    columns = SMALL.window + (start + capacity) // 128
    assert inputs.cmp_sparse_indices.shape == (capacity, columns)
    for t in range(tokens):
        _, slots = decode(inputs, start, t)
        assert slots == list(range((start + t + 1) // 128))


def test_swa_has_no_compressed_part(seed: int) -> None:
    inputs = make_inputs(SMALL, layer="SWA", tokens=20, start=9, seed=seed)
    assert inputs.cmp_sparse_indices.shape == (20, SMALL.window)
    assert inputs.cmp_kv.shape == (0, SMALL.page_rows, SMALL.head_dim)
    assert inputs.cmp_block_table.shape == (0,)
    assert all(decode(inputs, 9, t)[1] == [] for t in range(20))


@pytest.mark.parametrize("layer", RATIO)
@pytest.mark.parametrize("start", STARTS)
def test_lens_count_the_used_columns(layer: str, start: int, seed: int) -> None:
    inputs = make_inputs(SMALL, layer=layer, tokens=140, start=start, seed=seed)
    assert inputs.cmp_sparse_lens.dtype == inputs.cmp_sparse_indices.dtype == torch.int32
    for t in range(140):
        p = start + t
        slots = (p + 1) // RATIO[layer] if layer != "SWA" else 0
        used = min(p + 1, SMALL.window) + (
            min(slots, SMALL.index_topk) if layer == "CSA" else slots
        )
        assert int(inputs.cmp_sparse_lens[t]) == used
        assert (inputs.cmp_sparse_indices[t, used:] == -1).all()


@pytest.mark.parametrize("page_rows", [1, 4, 11, 64])
@pytest.mark.parametrize("trial", range(20))
def test_block_tables_permute_the_pool(page_rows: int, trial: int, seed: int) -> None:
    # At 64 rows a page the tables have one entry, which the identity would hit in 1 of 4 trials.
    dims = dataclasses.replace(SMALL, page_rows=page_rows)
    start, tokens = 90 + trial, 30
    inputs = make_inputs(dims, tokens=tokens, start=start, seed=seed)
    for table, pool, rows in (
        (inputs.ori_block_table, inputs.ori_kv, dims.window),
        (inputs.cmp_block_table, inputs.cmp_kv, (start + tokens) // 4),
    ):
        entries = table.tolist()
        assert table.dtype == torch.int32
        assert len(entries) == math.ceil(rows / page_rows)
        assert len(set(entries)) == len(entries) < pool.shape[0]
        assert set(entries) < set(range(pool.shape[0]))
        assert entries != list(range(len(entries)))
        assert pool.shape[1:] == (page_rows, dims.head_dim)


def test_one_page_tables_differ_by_seed() -> None:
    dims = dataclasses.replace(SMALL, page_rows=64)
    entries = {int(make_inputs(dims, tokens=4, seed=s).ori_block_table[0]) for s in range(40)}
    assert entries == {1, 2, 3}


def test_young_sequence_has_an_empty_table_and_a_pool(seed: int) -> None:
    inputs = make_inputs(SMALL, tokens=3, seed=seed)
    assert inputs.cmp_block_table.shape == (0,)
    assert inputs.cmp_kv.shape[0] > 0
    assert inputs.cmp_sparse_lens.tolist() == [1, 2, 3]


@pytest.mark.parametrize(("tokens", "capacity"), [(0, 0), (0, 5), (1, 5)])
def test_few_tokens(tokens: int, capacity: int, seed: int) -> None:
    inputs = make_inputs(SMALL, tokens=tokens, capacity=capacity, start=50, seed=seed)
    assert inputs.num_tokens == tokens
    assert inputs.q.shape == (capacity, SMALL.heads, SMALL.head_dim)
    assert inputs.cmp_sparse_indices.shape == (capacity, SMALL.index_columns)


def test_shapes_and_dtypes(seed: int) -> None:
    inputs = make_inputs(SMALL, tokens=6, capacity=8, start=40, seed=seed)
    h, c, p, g, r, d, j = 6, 16, 8, 2, 10, 12, 48
    expected = {
        "q": ((8, h, c), torch.bfloat16),
        "ori_kv": ((3 + 3, 4, c), torch.bfloat16),
        "ori_block_table": ((3,), torch.int32),
        "kv_overlay": ((8, c), torch.bfloat16),
        "cmp_kv": ((3 + 3, 4, c), torch.bfloat16),  # 46 tokens make 11 slots
        "cmp_block_table": ((3,), torch.int32),
        "cmp_sparse_indices": ((8, 18), torch.int32),
        "cmp_sparse_lens": ((8,), torch.int32),
        "attn_sink": ((h,), torch.float32),
        "freqs_cos": ((8, p), torch.bfloat16),
        "freqs_sin": ((8, p), torch.bfloat16),
        "wo_a": ((g, r, j), torch.bfloat16),
        "wo_b": ((d, g * r), torch.int8),
        "wo_b_scale": ((d,), torch.float32),
    }
    found = {name: (tuple(x.shape), x.dtype) for name, x in tensors(inputs).items()}
    assert found == expected
    assert all(x.is_contiguous() for x in tensors(inputs).values())


def test_arguments_are_those_of_the_entry_point(seed: int) -> None:
    inputs = make_inputs(SMALL, tokens=2, seed=seed)
    assert [field.name for field in dataclasses.fields(inputs)] == [*ARGUMENTS, "window"]
    positional = inputs.args()
    assert len(positional) == len(ARGUMENTS)
    assert all(
        value is getattr(inputs, name) for value, name in zip(positional, ARGUMENTS, strict=True)
    )
    assert inputs.window == SMALL.window


@pytest.mark.parametrize("block_elements", [1000, 1 << 24])
def test_values_have_the_size_of_the_models(
    block_elements: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (inputs_module, rows_module):
        monkeypatch.setattr(module, "BLOCK_ELEMENTS", block_elements)
    dims = dataclasses.replace(SMALL, heads=40, groups=4, hidden=256, page_rows=16)
    inputs = make_inputs(dims, tokens=64, start=500, seed=seed)

    def assert_normal(values: torch.Tensor, std: float) -> None:
        # Five standard errors of a mean and of a standard deviation over n draws.
        n = values.numel()
        assert abs(float(values.double().mean())) < 5 * std / n**0.5
        assert abs(float(values.double().std()) / std - 1) < 5 / (2 * n) ** 0.5

    for name in ("q", "ori_kv", "kv_overlay", "cmp_kv"):
        assert_normal(getattr(inputs, name), 1.0)
    assert_normal(inputs.wo_a, dims.group_inputs**-0.5)
    columns = dims.groups * dims.o_lora_rank
    assert_normal(inputs.wo_b * inputs.wo_b_scale[:, None], columns**-0.5)
    assert (inputs.wo_b.abs().amax(dim=1) == 127).all()
    assert (inputs.wo_b_scale > 0).all()
    sinkless = inputs.attn_sink.isneginf().nonzero().flatten().tolist()
    assert sinkless == [0, 16, 32]
    assert_normal(inputs.attn_sink[inputs.attn_sink.isfinite()], 1.0)


def test_a_lone_head_has_a_sink(seed: int) -> None:
    dims = dataclasses.replace(SMALL, heads=1, groups=1)
    assert make_inputs(dims, tokens=1, seed=seed).attn_sink.isfinite().all()


def test_a_seed_reproduces_every_bit(seed: int) -> None:
    first, second, other = (
        tensors(make_inputs(SMALL, tokens=20, start=70, seed=s)) for s in (seed, seed, seed + 1)
    )
    not_drawn = {"cmp_sparse_lens", "freqs_cos", "freqs_sin"}
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert torch.equal(value, other[name]) == (name in not_drawn), name


def test_chunks_of_one_seed_share_the_weights(seed: int) -> None:
    first = make_inputs(SMALL, tokens=20, start=70, seed=seed)
    second = make_inputs(SMALL, layer="HCA", tokens=3, capacity=5, seed=seed)
    for name in ("attn_sink", "wo_a", "wo_b", "wo_b_scale"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_device_is_that_of_every_tensor(seed: int) -> None:
    inputs = make_inputs(SMALL, tokens=4, seed=seed, device="meta")
    assert {x.device.type for x in tensors(inputs).values()} == {"meta"}


@pytest.mark.parametrize("layer", RATIO)
def test_a_million_tokens_of_context(layer: str, seed: int) -> None:
    dims = dataclasses.replace(SMALL, page_rows=128)
    tokens = 6
    start = 1_048_576 - tokens
    inputs = make_inputs(dims, layer=layer, tokens=tokens, start=start, seed=seed)
    last_positions, last_slots = decode(inputs, start, tokens - 1)
    assert last_positions == list(range(1_048_576 - SMALL.window, 1_048_576))
    if layer == "CSA":
        assert len(last_slots) == SMALL.index_topk
        assert 65_536 < max(last_slots) < 262_144
        assert inputs.cmp_block_table.shape == (2048,)
    elif layer == "HCA":
        assert last_slots == list(range(8192))
        assert inputs.cmp_block_table.shape == (64,)
    expected = rope_tables(
        torch.arange(start, start + tokens),
        compress_ratio=RATIO[layer],
        rope_dim=SMALL.rope_dim,
    )
    assert torch.equal(inputs.freqs_cos, expected[0])
    assert torch.equal(inputs.freqs_sin, expected[1])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"layer": "MLA"}, "layer"),
        ({"start": -1}, "start"),
        ({"tokens": 9, "capacity": 8}, "tokens"),
        ({"tokens": -1, "capacity": 8}, "tokens"),
        ({"tokens": 8, "start": 2**24 - 7}, "start"),
        ({"dims": dataclasses.replace(SMALL, groups=4)}, "groups"),
    ],
)
def test_impossible_requests_are_refused(arguments: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make_inputs(**{"dims": SMALL, **arguments})


def test_presets_are_the_published_dimensions() -> None:
    flash, pro = PRESETS["FLASH"], PRESETS["PRO"]
    assert dataclasses.astuple(flash) == (64, 512, 64, 8, 1024, 4096, 128, 512, 128)
    assert dataclasses.astuple(pro) == (128, 512, 64, 16, 1024, 7168, 128, 1024, 128)
    for dims, columns in ((flash, 640), (pro, 1152)):
        assert (dims.heads_per_group, dims.group_inputs) == (8, 4096)
        assert dims.index_columns == columns


def frequency_by_hand(ratio: int, pair: int) -> float:
    """Spec of the tables, fp64, with the ramp's ends written out: pairs 15 and 25 of 32."""
    if ratio == 0:
        return math.exp(-2 * pair / 64 * math.log(1e4))
    frequency = math.exp(-2 * pair / 64 * math.log(1.6e5))
    interpolated = min(1.0, max(0.0, (pair - 15) / 10))
    return frequency * (1 - interpolated) + frequency / 16 * interpolated


@pytest.mark.parametrize("ratio", RATIO.values())
def test_frequencies_follow_the_formula(ratio: int) -> None:
    expected = torch.tensor([frequency_by_hand(ratio, i) for i in range(32)], dtype=torch.float64)
    found = inverse_frequencies(ratio)
    assert found.dtype == torch.float32
    # Fewer than eight fp32 roundings of 2**-24 each lie between the two.
    assert ((found.double() / expected - 1).abs() < 8 * 2.0**-24).all()


RAMPS = {
    # P / 2 * log(65536 / (2 pi * turns)) / log(160000), at 32 turns rounded down, at 1 turn up.
    2: (0, 1), 8: (1, 4), 16: (3, 7), 32: (7, 13), 64: (15, 25), 128: (30, 50), 512: (123, 198),
    8192: (1978, 3163),
}  # fmt: skip


@pytest.mark.parametrize("rope_dim", RAMPS)
def test_ramp_bounds(rope_dim: int) -> None:
    assert yarn_ramp_bounds(rope_dim) == RAMPS[rope_dim]


@pytest.mark.parametrize("rope_dim", [8, 32, 128])
@pytest.mark.parametrize("ratio", [4, 128])
def test_frequencies_of_other_widths_follow_the_formula(ratio: int, rope_dim: int) -> None:
    low, high = RAMPS[rope_dim]
    pairs = torch.arange(rope_dim // 2, dtype=torch.float64)
    plain = torch.exp(-2 * pairs / rope_dim * math.log(1.6e5))
    interpolated = ((pairs - low) / (high - low)).clamp(0, 1)
    expected = plain * (1 - interpolated) + plain / 16 * interpolated
    found = inverse_frequencies(ratio, rope_dim).double()
    assert ((found / expected - 1).abs() < 8 * 2.0**-24).all()


def test_yarn_interpolates_slow_pairs_only() -> None:
    plain = 1.0 / 1.6e5 ** (torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    kept = inverse_frequencies(4).double() / plain
    assert torch.allclose(kept[:16], torch.ones(16, dtype=torch.float64), rtol=1e-6, atol=0)
    assert torch.allclose(kept[25:], torch.full((7,), 1 / 16).double(), rtol=1e-6, atol=0)
    assert (kept[15:25] > kept[16:26]).all()


@pytest.mark.parametrize("ratio", RATIO.values())
def test_tables_of_near_positions_follow_the_formula(ratio: int) -> None:
    positions = range(0, 300, 7)
    angles = torch.tensor(
        [[p * frequency_by_hand(ratio, i) for i in range(32)] for p in positions],
        dtype=torch.float64,
    )
    tables = rope_tables(torch.tensor(list(positions)), compress_ratio=ratio)
    for table, exact in zip(tables, (angles.cos(), angles.sin()), strict=True):
        assert table.dtype == torch.bfloat16
        assert table.shape == (len(positions), 64)
        assert torch.equal(table[:, :32], table[:, 32:])
        # Half a bf16 spacing is at most 2**-8 of the value; the angle is off by at most nine fp32
        # roundings, the cosine by one more.
        bound = exact.abs() * 2.0**-8 + angles * 9 * 2.0**-24 + 2.0**-23
        assert ((table[:, :32].double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("ratio", RATIO.values())
def test_angles_of_far_positions_are_fp32(ratio: int) -> None:
    positions = torch.tensor([65_535, 65_536, 131_071, 777_777, 1_048_575])
    frequencies = inverse_frequencies(ratio)
    # The product of two fp32 numbers is exact in fp64, so this rounds once, as fp32 does.
    exact = positions.double()[:, None] * frequencies.double()
    angles = exact.float().double()
    tables = rope_tables(positions, compress_ratio=ratio)
    for table, expected in zip(tables, (angles.cos(), angles.sin()), strict=True):
        bound = expected.abs() * 2.0**-8 + 2.0**-22
        assert ((table[:, :32].double() - expected).abs() <= bound).all()
    # The rounding shows: angles that were never rounded would give another table.
    never_rounded = exact.cos()
    bound = never_rounded.abs() * 2.0**-8 + 2.0**-22
    assert ((tables[0][:, :32].double() - never_rounded).abs() > bound).any()


@pytest.mark.parametrize(("ratio", "rope_dim"), [(1, 64), (64, 64), (0, 7), (4, 0)])
def test_tables_refuse_what_no_layer_has(ratio: int, rope_dim: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        rope_tables(torch.arange(3), compress_ratio=ratio, rope_dim=rope_dim)


@pytest.mark.parametrize("layer", RATIO)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_defaults_of_the_caller_change_no_bit(layer, dtype):
    """Neither a default dtype nor a default device, in drawing what is always the same bits."""
    want = make_inputs(SMALL, layer=layer, tokens=5, start=20, seed=3)
    torch.set_default_dtype(dtype)
    torch.set_default_device("meta")
    try:
        got = make_inputs(SMALL, layer=layer, tokens=5, start=20, seed=3)
    except RuntimeError as error:  # what meta tensors cannot do
        got = error
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert isinstance(got, PrefillInputs), got
    for name in ARGUMENTS:
        a, b = getattr(got, name), getattr(want, name)
        if isinstance(b, torch.Tensor):
            assert a.dtype == b.dtype, name
            assert a.device == b.device, name
            assert a.equal(b), name
        else:
            assert a == b, name
