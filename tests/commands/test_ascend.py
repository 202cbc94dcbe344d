"""What ``ascend`` compiles and prints: verdicts that are made up here, so nothing is compiled."""

import dataclasses
import json

import pytest
from tables import rows

from dsv4_kernels.__main__ import main
from dsv4_kernels.commands import ascend
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates import batches
from dsv4_kernels.gates.ascend.against_cpu import Executed
from dsv4_kernels.gates.ascend.counts import Counts
from dsv4_kernels.gates.ascend.gate import AscendRow
from dsv4_kernels.gates.ascend.memory import MemoryPlan
from dsv4_kernels.gates.batches import Batch
from dsv4_kernels.segments import segments_on
from dsv4_kernels.segments.proj_a import ProjATiles

MIB = 2**20
PARTS = ("Ascend910B3", "Ascend910_9392")  # an A2 and an A3, unless others are named
PLAN = MemoryPlan(
    core="MIX",
    used={"UB": 2560, "L1": 0, "L0C": 4096},
    limits={"UB": 196608, "L1": 524288, "L0C": 131072},
    doubled=("UB 8xf32", "L1 16xbf16"),
    single_loads=(),
    workspace=3072,
    one_vector_core=False,
    cube_cores=20,
    vector_cores=40,
)
COUNTS = Counts(
    gm_to_l1=MIB, gm_to_ub=2 * MIB, ub_to_gm=3 * MIB, l0c_to_gm=4 * MIB, dma=1234,
    macs=5_670_000_000, vector=6789, scalar_loads=4321, scalar_loops=7,
)  # fmt: skip
EXECUTED = Executed({"o": 1e-7}, {"race": 3, "stray": 2}, 3, "a", 98765, 4, 1.25)
PROJ_A = AscendRow(
    "proj_a", "proj_a[0:4]", "", "", (), PLAN, None, COUNTS, 8, 5 * MIB, ("once",), code="a"
)
LEAST = dataclasses.replace(PROJ_A, minimum_bytes=10 * MIB)
BROKEN = AscendRow("proj_b", "proj_b", "", "", ("too large", "no room"))


@pytest.fixture
def asked(monkeypatch):
    """What the command wants compiled, each answered by two rows, the second broken."""
    asked = []

    def rows_of(job):
        asked.append(job)
        names = dict(preset=getattr(job[0], "name", job[0]), part=job[1])
        return [dataclasses.replace(row, **names) for row in (PROJ_A, BROKEN)]

    def facts(part, preset):
        asked.append((part, preset))
        return [{"A_K_TILE": 128, "L1 bytes": 7, "share": 0.5}, {"A_K_TILE": 256, "L1 bytes": 9,
                "share": 1 / 3}]  # fmt: skip

    monkeypatch.setattr(ascend, "_rows_of", rows_of)
    monkeypatch.setattr(ascend, "_batch_rows", lambda job: [*rows_of(job), LEAST])
    monkeypatch.setattr(ascend, "in_parallel", map)
    monkeypatch.setattr(ascend, "a_k_tile_facts", facts)
    monkeypatch.setenv("COLUMNS", "120")
    return asked


def test_every_preset_is_compiled_for_every_part(asked, capsys):
    """All segments; the facts of proj_a are the first's."""
    assert main(["ascend", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    chunks = [(preset, part) for preset in PRESETS for part in PARTS]
    assert asked == [
        *((*chunk, segments_on("npu"), {}, None) for chunk in chunks), ("Ascend910B3", "FLASH"),
    ]  # fmt: skip
    assert [(r["preset"], r["part"], r["segment"]) for r in printed["segments"]] == [
        (*chunk, segment) for chunk in chunks for segment in ("proj_a", "proj_b")
    ]


def test_a_job_has_what_was_asked_for(asked, tmp_path, capsys):
    there = tmp_path / "new" / "folder"
    code = main(
        ["ascend", "--preset", "PRO", "--part", "Ascend910B1", "--segment", "qk", "pv",
         "--tile", "proj_a.a_k_tile=128", "--save", str(there)]
    )  # fmt: skip
    assert code == 1
    tiles = {"proj_a": ProjATiles(a_k_tile=128)}
    assert asked == [
        ("PRO", "Ascend910B1", ["qk", "pv"], tiles, str(there)), ("Ascend910B1", "PRO"),
    ]  # fmt: skip
    assert there.is_dir()


def test_the_tables_have_what_was_found(asked, monkeypatch, capsys):
    """Of each part its plan and what executing found; of the first what is moved and done."""
    calls = []

    def execute_chunk(part, dims, **options):
        calls.append((part, dims, options))
        return [("proj_a[0:4]", EXECUTED)]

    monkeypatch.setattr(ascend, "execute_chunk", execute_chunk)
    call = ["ascend", "--preset", "FLASH", "--execute", "--compilations", "2", "--verbose"]
    assert main(call) == 1
    options = dict(segments=["proj_a", "proj_b"], tiles={}, compilations=2)
    assert calls == [(part, PRESETS["FLASH"], options) for part in PARTS]
    printed = capsys.readouterr().out
    plan = "MIX 2.5 - 4.0 3 1 breach UB 8xf32, L1 16xbf16"
    executed = "o 1e-07 3 2 98,765 4 1.2"
    assert rows(printed, "proj_a[0:4]") == [
        plan, executed, plan, executed,
        "1 2 3 4 10 5",  # MiB, and the minimum
        "8 1,234 5.67 6,789 4,321 7",  # launches, instructions
    ]  # fmt: skip
    assert rows(printed, "proj_b") == ["breach", "not executed"] * 2
    words = " ".join(printed.split())
    for part in PARTS:
        room = "cores, and KiB per core of UB 192, L1 512, L0C 128"
        assert f"compiled for FLASH, {part}: {room}" in words
        assert f"FLASH, {part}: the final IR on a model of the cores, not on an NPU" in words
        for breach in ("proj_b FLASH {}: too large", "proj_b FLASH {}: no room",
                       "proj_a[0:4] FLASH {}: executed: 3 x race"):  # fmt: skip
            assert f"breach {breach.format(part)}\n" in printed
    assert "A_K_TILE of proj_a, FLASH, Ascend910B3: the compiled code" in words
    assert rows(printed, "A_K_TILE") == ["128 256"]
    assert rows(printed, "share") == ["0.5 0.3333"]


def test_a_batch_has_a_row_of_what_its_kernels_need(asked, monkeypatch, capsys):
    """For every part: the most that a kernel of proj_a moves by its minimum; none is of proj_b."""
    own = (Batch(64, 8), Batch(128, 512, "HCA", requests=4, sharers=8))
    monkeypatch.setattr(batches, "BATCHES", own)
    assert main(["ascend", "--batch"]) == 1
    assert asked == [(batch, part, segments_on("npu"), {}) for part in PARTS for batch in own]
    printed = capsys.readouterr().out
    for batch in own:
        assert rows(printed, batch.name) == ["3 2 2.00x - breach"] * 2
        for part in PARTS:
            assert f"breach proj_b {batch.name} {part}: too large\n" in printed
    tables = [line for line in printed.splitlines() if not line.startswith("breach")]
    assert max(map(len, tables)) <= 80
