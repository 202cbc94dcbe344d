"""The Ascend compiler's plan against the segments' claims, for FLASH and PRO, A2 and A3."""

import dataclasses
import json

import pytest
import torch

from dsv4_kernels import segments
from dsv4_kernels.__main__ import main
from dsv4_kernels.backends import front_half
from dsv4_kernels.device import route
from dsv4_kernels.device.npu import MEMORY
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates.ascend import compiler
from dsv4_kernels.gates.ascend.gate import a_k_tile_facts, count_launches, hold
from dsv4_kernels.gates.ascend.launches import PARTS, compile_chunk, part_target
from dsv4_kernels.gates.ascend.memory import read_plan
from dsv4_kernels.segments.group_quant import GroupQuantTiles, group_quant
from dsv4_kernels.segments.proj_a import ProjATiles, proj_a

SEGMENTS = segments.segments_on("npu")
# What the number of columns and who shares them can change.
OF_ATTENTION = SEGMENTS[: SEGMENTS.index("proj_a")]
PARTS_HELD = ("Ascend910B3", "Ascend910_9392")  # an A2 and an A3
CORES = {
    **dict.fromkeys(("proj_a", "proj_a_heads", "proj_b", "qk", "pv"), "AIC"),
    **dict.fromkeys(("qk_softmax_pv", "proj_b_dequant"), "MIX"),
}


def kernels(groups: int) -> list[str]:
    """What the default chain, four groups a launch, and its forms launch: each code once."""
    parts = ["dequant_sum"]  # of all groups, else the first, those between, the last
    if groups > 4:
        parts = ["dequant_sum[0:4]", f"dequant_sum[{groups - 4}:{groups}]"]
    precise = [f"{parts[-1]} fp32", "proj_b_dequant fp32"]
    between = ["dequant_sum[4:8]"] if groups > 8 else []
    return [*(set(SEGMENTS) - {"dequant_sum"}), *parts, *between, *precise]


@pytest.fixture(scope="module", params=[(p, t) for p in PRESETS for t in PARTS_HELD], ids="-".join)
def chunk(request):
    """(preset, part, its compiled segments)."""
    preset, part = request.param
    return preset, part, compile_chunk(part, PRESETS[preset])


def test_every_segment_keeps_its_claims(chunk):
    preset, part, compiled = chunk
    assert sorted(c.label for c in compiled) == sorted(kernels(PRESETS[preset].groups))
    for c in compiled:
        row = hold(c, preset, part)
        assert not row.breaches, (c.segment, row.breaches)
        assert row.retries == ()
        assert row.plan is not None
        assert row.plan.core == CORES.get(c.segment, "AIV")


def test_the_launches_are_those_of_the_default_chain(chunk):
    """By chunks of four groups, which begin at groups of their own; what is not, once."""
    groups = PRESETS[chunk[0]].groups
    tails = ("merge_finish", "merge_norm", "inverse_rope")
    for c in chunk[2]:
        by_groups = c.segment in (*tails, "proj_a", "group_quant", "proj_b")
        assert len(c.launches) == (groups // 4 if by_groups else max(1, len(c.launches)))
        starts = [launch.arguments.get("first_group") for launch in c.launches]
        if by_groups:
            assert starts == [*range(0, groups, 4)]
        assert c.minimum_bytes > 0
    summed = [c for c in chunk[2] if c.segment == "dequant_sum" and not c.label.endswith("fp32")]
    starts = [x.arguments["first_group"] for c in summed for x in c.launches]
    assert starts == [*range(0, groups, 4)]


def test_an_output_in_fp32_is_the_only_difference_of_its_kernels(chunk):
    by_label = {c.label: c for c in chunk[2]}
    precise = [label for label in by_label if label.endswith(" fp32")]
    assert len(precise) == 2
    dims = PRESETS[chunk[0]]
    for label in precise:
        wide, own = by_label[label], by_label[label.removesuffix(" fp32")]
        assert wide.launch.arguments["attn_out_ptr"].dtype is torch.float32
        assert own.launch.arguments["attn_out_ptr"].dtype is torch.bfloat16
        more = count_launches(wide).ub_to_gm - count_launches(own).ub_to_gm
        assert more == wide.minimum_bytes - own.minimum_bytes == 128 * dims.hidden * 2


def test_the_loads_of_every_matmul_are_doubled(chunk):
    for c in chunk[2]:
        if c.segment in CORES:
            plan = hold(c, *chunk[:2]).plan
            assert plan is not None
            assert plan.single_loads == ()
            assert sum(buffer.startswith("L1") for buffer in plan.doubled) >= 2


def test_both_vector_cores_of_a_pair_work(chunk):
    mix = next(c for c in chunk[2] if c.segment == "qk_softmax_pv")
    assert "limit_sub_block_id0" not in mix.launch.hivm
    assert "get_sub_block_idx" in mix.launch.hivm


def test_scale_and_bias_are_two_instructions_and_no_zero_tile(chunk):
    """The seed's point: scores * scale, then one broadcast add."""
    mix = next(c for c in chunk[2] if c.segment == "qk_softmax_pv")
    vector = mix.launch.hivm.split("_mix_aiv(")[1]
    assert vector.count("call @vmuls_vs_1d_float") == 1
    assert vector.count("call @vadd_2d_float") == 1
    assert "call @broadcast" not in vector  # neither the bias nor a zero is laid out as a tile
    assert vector.index("@vmuls_vs_1d_float") < vector.index("@vadd_2d_float")
    add = next(line for line in vector.splitlines() if "call @vadd_2d_float" in line)
    bias = add.split("(")[1].split(",")[1].strip()
    made = next(line for line in vector.splitlines() if f"{bias} = " in line)
    assert "memref<1x128xf32" in made  # one row, broadcast by the instruction itself


@pytest.mark.parametrize("sharers", [2, 4, 8])
def test_kv_that_tokens_share_is_loaded_once(sharers):
    """Every claim holds, and a tile's KV is gathered and loaded into L1 once."""
    dims = PRESETS["FLASH"]
    compiled = compile_chunk(
        "Ascend910B3", dims, columns=1280, sharers=sharers, segments=OF_ATTENTION
    )
    rows = {c.segment: hold(c, "FLASH", "Ascend910B3") for c in compiled}
    assert not any(row.breaches for row in rows.values())
    of = {name: row.counts for name, row in rows.items() if row.counts is not None}
    kv = 128 // sharers * 1280 * dims.head_dim * 2
    assert of["gather_kv"].gm_to_ub == of["gather_kv"].ub_to_gm == kv
    q, p = 128 * 10 * dims.heads * dims.head_dim * 2, 128 * 1280 * dims.heads * 2
    assert of["qk_softmax_pv"].gm_to_l1 == kv + q + p


@pytest.mark.parametrize("part", PARTS_HELD)
@pytest.mark.parametrize(("columns", "sharers"), [(128, 1), (135, 8), (150, 4), (192, 8)])
@pytest.mark.parametrize("preset", PRESETS)
def test_short_rows_keep_their_claims(preset, columns, sharers, part):
    """A block, and one with a tail of 16, 32 and 64 columns. KV is loaded once for all rows of a
    task, q once for all columns."""
    dims = PRESETS[preset]
    compiled = compile_chunk(part, dims, columns=columns, sharers=sharers, segments=OF_ATTENTION)
    rows = {c.segment: hold(c, preset, part) for c in compiled}
    assert not any(row.breaches for row in rows.values()), [row.breaches for row in rows.values()]
    of = {name: row.counts for name, row in rows.items() if row.counts is not None}
    KP = {128: 128, 135: 144, 150: 160, 192: 192}[columns]
    tasks = 128 // sharers * max(sharers * dims.heads // 512, 1)
    kv = tasks * KP * dims.head_dim * 2
    assert of["qk"].gm_to_l1 == kv + 128 * dims.heads * dims.head_dim * 2
    assert of["qk"].l0c_to_gm == 128 * dims.heads * KP * 4
    assert of["pv"].gm_to_l1 == kv + 128 * dims.heads * KP * 2


def test_an_oversized_tile_is_a_breach_with_both_numbers(capsys):
    tiles = {"group_quant": GroupQuantTiles(block_r=512)}
    segments = ("proj_a", "group_quant", "proj_b")
    compiled = compile_chunk("Ascend910B3", PRESETS["FLASH"], tiles=tiles, segments=segments)
    row = hold(next(c for c in compiled if c.segment == "group_quant"), "FLASH", "Ascend910B3")
    assert len(row.breaches) == 1
    breach = row.breaches[0]
    needed, available = (int(word) for word in breach.split() if word.isdigit())
    assert breach.startswith("UB overflow")
    assert needed > available == 192 * 1024
    others = [c for c in compiled if c.segment != "group_quant"]
    assert len(others) == 2
    assert all(not hold(c, "FLASH", "Ascend910B3").breaches for c in others)


def test_a_tile_that_only_fits_without_double_buffering_is_a_breach():
    tiles = {"proj_a": ProjATiles(a_k_tile=1024)}  # 2 x 256 KiB doubled is twice L1
    (compiled,) = compile_chunk("Ascend910B3", PRESETS["FLASH"], tiles=tiles, segments=("proj_a",))
    row = hold(compiled, "FLASH", "Ascend910B3")
    assert row.breaches


def test_the_command_prints_json_and_exits_by_the_verdict(capsys):
    assert main(["ascend", "--json", "--preset", "FLASH", "--part", "Ascend910B3"]) == 0
    printed = json.loads(capsys.readouterr().out)
    rows = printed["segments"]
    assert [fact["A_K_TILE"] for fact in printed["a_k_tile"]] == [128, 256, 512]
    assert sorted(row["label"] for row in rows) == sorted(kernels(8))
    assert all(row["breaches"] == [] for row in rows)
    arguments = ["--preset", "FLASH", "--part", "Ascend910B3", "--segment", "group_quant"]
    assert main(["ascend", "--json", *arguments, "--tile", "group_quant.block_r=512"]) == 1
    (row,) = json.loads(capsys.readouterr().out)["segments"]
    assert "bytes needed" in row["breaches"][0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--part", "Ascend777"], "unknown part 'Ascend777': known are Ascend910B1"),
        (["--segment", "proj_c"], "unknown segment 'proj_c': known are resolve_slots"),
        (["--tile", "proj_a.block_x=3"], "unknown tile of proj_a 'block_x': known are block_t"),
        (["--tile", "proj_a.block_t=many"], "must end in a whole number above 0"),
        (["--tile", "proj_a.block_t=0"], "must end in a whole number above 0"),
    ],
)
def test_an_unknown_name_is_one_sentence(arguments, sentence, capsys):
    assert main(["ascend", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_save_keeps_every_stage(tmp_path, capsys):
    arguments = ["--preset", "FLASH", "--part", "Ascend910B3", "--segment", "proj_b"]
    assert main(["ascend", "--json", *arguments, "--save", str(tmp_path)]) == 0
    kept = sorted(path.name for path in (tmp_path / "FLASH" / "Ascend910B3").iterdir())
    assert kept == ["proj_b.hivm.mlir", "proj_b.ttadapter.mlir", "proj_b.ttir.mlir"]
    assert "mma_tile" in (tmp_path / "FLASH" / "Ascend910B3" / "proj_b.hivm.mlir").read_text()


@pytest.mark.parametrize("part", PARTS)
def test_parts_have_the_cores_and_memories_that_the_compiler_knows(part):
    driver = compiler.driver(part)
    driver.launches.clear()
    o_r = torch.empty(1, 1, 8, device="meta")
    with route("meta", part_target(part), driver):
        group_quant(o_r)
    plan = read_plan(driver.launches[0].hivm)
    assert (plan.cube_cores, plan.vector_cores) == (PARTS[part], 2 * PARTS[part])
    target = part_target(part)
    assert (target.cube_programs, target.vector_programs) == (plan.cube_cores, plan.vector_cores)
    (room,) = [memory for prefix, memory in MEMORY.items() if part.startswith(prefix)]
    assert plan.limits == {"UB": room.ub, "L1": room.l1, "L0C": room.l0c}


def test_what_all_parts_have_in_common_is_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    make, made = front_half.ascend.ttir_to_linalg, []

    def told(*args, **options):
        made.append(make(*args, **options))
        return made[-1]

    monkeypatch.setattr(front_half.ascend, "ttir_to_linalg", told)
    front_half.linalg_of.cache_clear()
    for part in PARTS_HELD:
        driver = compiler.driver(part)
        driver.launches.clear()
        with route("meta", part_target(part), driver):
            group_quant(torch.empty(1, 1, 104, device="meta"))  # as nobody asked for before
        assert driver.launches[0].stages["ttadapter"] == made[0]
    assert len(made) == 1


def test_a_k_tile_facts(generator, device):
    facts = {fact["A_K_TILE"]: fact for fact in a_k_tile_facts("Ascend910B3", "FLASH")}
    assert [facts[k]["K iterations"] for k in (128, 256, 512)] == [32, 16, 8]
    assert [facts[k]["share of 512 B lines used"] for k in (128, 256, 512)] == [0.5, 1.0, 1.0]
    assert [facts[k]["L1 bytes"] for k in (128, 256, 512)] == [128 * 1024, 256 * 1024, 512 * 1024]
    assert all(facts[k]["loads doubled"] and facts[k]["retries"] == 0 for k in facts)
    for k, fact in facts.items():
        assert fact["bytes per weight row"] == 2 * k
        steps = 4096 // k  # of each of 64 tiles; two launches of 20 programs
        assert fact["matmul calls per program"] == 64 * steps / 40
        assert fact["instructions per KiB loaded"] == (3 * steps + 1) / (steps * k / 2)
    o_packed = torch.randn(2, 9, 1024, generator=generator).bfloat16().to(device)
    wo_a = torch.randn(2, 40, 1024, generator=generator).bfloat16().to(device)
    tiles = [dataclasses.replace(ProjATiles(), a_k_tile=k) for k in facts]
    first, *others = [proj_a(o_packed, wo_a, tiles=t) for t in tiles]
    assert all(torch.equal(first, other) for other in others)
