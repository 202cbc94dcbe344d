"""The launches of `sparse_attn`, compiled for Ascend: they keep the gate's claims."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dsv4_kernels.__main__ import main
from dsv4_kernels.device import cuda_target, route
from dsv4_kernels.dims import LAYER_RATIOS, PRESETS
from dsv4_kernels.gates import batches, chunk
from dsv4_kernels.gates.ascend import compiler
from dsv4_kernels.gates.ascend.gate import hold
from dsv4_kernels.gates.ascend.launches import part_target
from dsv4_kernels.gates.batches import BATCHES, Batch, batches_of
from dsv4_kernels.gates.chunk import record_batch
from dsv4_kernels.segments import SEGMENTS, segments_on
from dsv4_kernels.segments.proj_a import ProjATiles

# All ranks and kinds of layers, with a list of slots, with none, and without slots. The command has
# the whole table for each part.
HELD = (
    ("Ascend910B3", Batch(8, 8)),
    ("Ascend910_9392", Batch(16, 64)),
    ("Ascend910B3", Batch(64, 1)),
    ("Ascend910_9392", Batch(64, 64, "SWA")),
    ("Ascend910_9392", Batch(128, 8, "HCA")),
    ("Ascend910B3", Batch(64, 512, requests=4)),
    ("Ascend910B3", Batch(64, 512, "SWA", requests=4, sharers=8)),
    ("Ascend910_9392", Batch(128, 512, "HCA", requests=4, sharers=2)),
    ("Ascend910B3", Batch(64, 512, "HCA", requests=4, sharers=4)),
    ("Ascend910B3", Batch(64, 512, "HCA", requests=4, sharers=8)),
)


@pytest.mark.parametrize(
    ("part", "batch"), HELD, ids=lambda value: getattr(value, "name", str(value))
)
def test_a_batch_keeps_its_claims(part, batch):
    kernels = batch.record(part_target(part), compiler.driver(part), {}, [*SEGMENTS])
    own = {*segments_on("npu")} - {"resolve_slots"}
    resolvers = {"tile_map", "shared_requests"} if batch.sharers > 1 else {"resolve_requests"}
    assert {k.segment for k in kernels} == {"token_map", *resolvers, *own}
    assert any(k.label == "proj_b_dequant fp32" for k in kernels)
    for kernel in kernels:
        row = hold(kernel, batch.name, part)
        assert not row.breaches, (row.segment, row.breaches)
        assert row.counts is not None
        if batch.tokens == 8 and row.segment in ("proj_a", "proj_b"):
            # The weights, and 8 rows of activations for 256 or 128 of them.
            assert 1 < row.counts.moved / row.minimum_bytes < 1.07


def test_the_batches_are_of_every_rank_for_few_tokens_and_many():
    decode = {(batch.heads, batch.tokens) for batch in BATCHES if batch.requests is None}
    assert decode == {(heads, tokens) for heads in (8, 16, 64, 128) for tokens in (8, 64)}
    assert {batch.layer for batch in BATCHES if batch.requests is None} == {*LAYER_RATIOS}
    packed = {(b.heads, b.layer, b.sharers) for b in BATCHES if b.requests == 4 and b.tokens == 512}
    by_token, shared = {(64, "CSA", 1), (128, "HCA", 1)}, {(64, "SWA", 8), (64, "HCA", 8)}
    assert packed == by_token | shared | {(128, "HCA", 8)}
    assert BATCHES[-1].name == "prefill HCA, 128 heads, T=512, 8 a tile"
    assert len({batch.name for batch in BATCHES}) == len(BATCHES) == 8 + 2 + 5
    assert [batch.dims.heads for batch in BATCHES] == [batch.heads for batch in BATCHES]
    assert {batch.heads for batch in batches_of(["PRO"])} == {128}
    assert {*batches_of(["FLASH"])} | {*batches_of(["PRO"])} == {*BATCHES}


@pytest.mark.parametrize(
    ("target", "attention", "shared"),
    [(part_target("Ascend910B3"), {"qk_softmax_pv", "qk"}, {"qk_softmax_pv", "qk"}),
     (cuda_target("sm_90"), {"qk_softmax_pv", "qk", "attend_rows"}, {"qk"})],
    ids=["npu", "cuda"],
)  # fmt: skip
def test_a_batch_is_asked_for_in_every_form_that_its_family_has(
    target, attention, shared, monkeypatch
):
    """With shared KV in those that share it; in both schedules, with outputs of both dtypes."""
    asked = []

    def executor(nodes, waves):
        asked.append(({node.name for node in nodes}, waves[0]["attn_out"].dtype))

    def record(target, driver, run, segments):
        with route("meta", target, driver):
            run(executor)

    monkeypatch.setattr(chunk, "record", record)
    for sharers, forms in ((1, attention), (8, shared)):
        asked.clear()
        record_batch(
            target, None, PRESETS["FLASH"], tokens=64, requests=4, layer="HCA", sharers=sharers
        )
        names = set().union(*(names for names, _ in asked))
        assert names & {"qk_softmax_pv", "qk", "attend_rows"} == forms
        assert ("proj_b_dequant" in names) == ("qk_softmax_pv" in forms)  # the first form's
        assert [dtype for _, dtype in asked] == [torch.bfloat16, torch.float32] * (len(asked) // 2)


def said(capsys, monkeypatch, *options):
    """Exit code and output of the command, for one small batch."""
    monkeypatch.setattr(batches, "BATCHES", (Batch(8, 8),))
    code = main(["ascend", "--batch", "--part", "Ascend910B3", *options])
    return code, capsys.readouterr()


def test_the_command_has_a_row_for_a_batch(capsys, monkeypatch):
    code, words = said(capsys, monkeypatch, "--segment", "proj_a", "proj_b")
    assert code == 0
    lines = words.out.splitlines()
    (row,) = (line for line in lines if line.startswith("decode CSA, 8 heads, T=8"))
    kernels, retries, proj_a, proj_b, state = row.split("T=8")[1].split()
    assert (kernels, retries, state) == ("4", "0", "ok")  # with the two resolvers
    assert 1 < float(proj_a[:-1]) < 1.07
    assert 1 < float(proj_b[:-1]) < 1.07
    assert max(map(len, lines)) <= 80


def test_a_breach_in_a_batch_is_the_commands(capsys, monkeypatch):
    options = ("--segment", "group_quant", "--tile", "group_quant.block_r=512", "--json")
    code, words = said(capsys, monkeypatch, *options)
    assert code == 1
    rows = json.loads(words.out)["segments"]
    assert {row["segment"] for row in rows} == {"token_map", "resolve_requests", "group_quant"}
    broken = [row for row in rows if row["breaches"]]
    assert [row["preset"] for row in broken] == ["decode CSA, 8 heads, T=8"]
    assert "breach group_quant decode CSA, 8 heads, T=8 Ascend910B3: UB overflow" in words.err


@pytest.mark.parametrize("option", [["--execute"], ["--layers"], ["--save", "there"]])
def test_a_batch_is_only_compiled(option, capsys):
    assert main(["ascend", "--batch", *option]) == 2
    assert "`--batch` goes without" in capsys.readouterr().err


def test_what_lanes_move_of_a_packed_prefill():
    """With KV by token and shared by 8, as gates/README.md says."""
    words = " ".join((Path(batches.__file__).parent / "README.md").read_text().split())
    part = "Ascend910B3"
    moved, gathered = {}, {}
    for layer in ("HCA", "SWA"):
        for sharers in (1, 8):
            batch = Batch(64, 512, layer, requests=4, sharers=sharers)
            lanes = ["gather_kv", "qk", "softmax", "pv", "finish"]
            kernels = batch.record(part_target(part), compiler.driver(part), {}, lanes)
            rows = [hold(k, batch.name, part) for k in kernels if k.segment != "token_map"]
            counts = {row.segment: row.counts for row in rows if row.counts is not None}
            assert len(counts) == len(rows) == (6 if sharers == 1 else 7)
            moved[layer, sharers] = round(sum(c.moved for c in counts.values()) / 2**20)
            gathered[layer, sharers] = counts["gather_kv"].dma
    of_hca = f"{moved['HCA', 8]} MiB before proj_a instead of {moved['HCA', 1]} in an HCA layer"
    dmas = f"{gathered['HCA', 8]} DMAs in the gather instead of {gathered['HCA', 1]}"
    of_swa = f"{moved['SWA', 8]} instead of {moved['SWA', 1]} in an SWA layer"
    assert f"{of_hca}, with {dmas}, and {of_swa}" in words


def test_narrower_tiles_of_one_group_move_more_than_a_tenth():
    """Of 64 columns proj_a would have 16 of 20 cores busy at 8 tokens, not 8, and read the tokens'
    rows twice as often."""
    target, driver = part_target("Ascend910B3"), compiler.driver("Ascend910B3")
    dims = PRESETS["FLASH"].of_rank(8)
    found = {}
    for block_r in (128, 64):
        tiles = {"proj_a": ProjATiles(block_t=16, block_r=block_r)}
        kernels = record_batch(target, driver, dims, tokens=8, tiles=tiles, segments=("proj_a",))
        [kernel] = [k for k in kernels if k.segment == "proj_a"]
        row = hold(kernel, "FLASH", "Ascend910B3")
        assert row.counts is not None
        found[kernel.launch.grid] = row.counts.moved / row.minimum_bytes
    assert found == {8: pytest.approx(1.054, abs=1e-3), 16: pytest.approx(1.116, abs=1e-3)}
