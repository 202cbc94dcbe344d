"""The demo holds what it shows: a chunk, a decode step and a mixed one, and a planted error."""

import dataclasses
import itertools
import re
from types import SimpleNamespace

import pytest
import torch

from adversary import SMALL
from dsv4_kernels.__main__ import main
from dsv4_kernels.commands.study import cases, demo
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs.requests import decode_step, mixed_step
from reference.bounds import Bound, judge

KINDS = ("", "--decode", "--batch")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(PRESETS, "FLASH", SMALL)
    monkeypatch.setenv("COLUMNS", "80")


def shown(capsys, *options):
    """Exit code and what was printed."""
    code = main(["demo", "--start", "150", *" ".join(options).split()])
    return code, capsys.readouterr().out


@pytest.mark.parametrize("layer", ["CSA", "HCA", "SWA"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_demo_holds(kind, layer, seed, capsys, monkeypatch):
    """In two waves, the second not whole."""
    monkeypatch.setattr(demo, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    code, printed = shown(capsys, kind, "--layer", layer, f"--seed {seed % 2**20} --tokens 150")
    assert code == 0
    assert re.search(r"^dequant_sum .* 2000.0 ms ", printed, re.M)  # a second each
    assert "in one go: 1000.0 ms (CPU execution, not an NPU's)\n" in printed
    ((done, of),) = re.findall(r" (\d+)/(\d+) \d+:", printed)
    assert done == of
    assert printed.endswith("within tolerance\n")
    assert "[red]" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    if kind:
        drawn = (mixed_step if kind == "--batch" else decode_step)(150, start=150, mtp=1, seed=0)
        assert f"150 tokens of {len(drawn)} requests" in printed
    names = re.findall(r"^(\w+) .* ms ", printed, re.M)
    assert names[0] == ("token_map" if kind else "resolve_slots")
    assert names[-1] == "dequant_sum"
    handed_on = re.findall(r"^(\w+) +[\d.]+% +\d+% ", printed, re.M)
    assert handed_on == ["o_packed", "o_r", "codes", "attn_out"]


@pytest.mark.parametrize("mtp", [0, 3])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_demo_of_other_drafts(kind, mtp, capsys):
    code, printed = shown(capsys, kind, f"--mtp {mtp} --tokens 21")
    assert code == 0, printed
    mixed = kind == "--batch"
    drawn = (mixed_step if mixed else decode_step)(21, start=150, mtp=mtp, seed=0)
    padded = sum(request.length == 0 for request in drawn)
    what = f"decodes of {1 + mtp} first, then prompts" if mixed else f"{padded} of them padding"
    words = f"FLASH CSA, 21 tokens of {len(drawn)} requests, {what}; positions to 150"
    assert " ".join(printed.split()).startswith(words)


@pytest.mark.parametrize("kind", KINDS)
def test_the_demo_of_no_token(kind, capsys):
    code, printed = shown(capsys, kind, "--tokens 0")
    assert code == 0
    assert "segment " not in printed


def flipped(buffers):
    codes = buffers["codes"].view(-1)
    codes[codes.numel() // 3] += 1 if codes[codes.numel() // 3] < 0 else -1


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_code_fails_its_segment(kind, monkeypatch, capsys):
    """One step off, in the buffer that the kernel has just written."""
    name = "sparse_attn" if kind else "prefill_sparse_attn"
    chain = getattr(cases, name)

    def wrong(*args, executor=None, **options):
        def planted(nodes, waves):
            def off(work):
                return lambda buffers: (work(buffers), flipped(buffers))

            assert executor is not None
            found = [n for n in nodes if "codes" in n.writes]
            assert len(found) == 1
            executor([dataclasses.replace(n, work=off(n.work)) if n in found else n for n in nodes],
                     waves)  # fmt: skip

        return chain(*args, executor=executor and planted, **options)

    monkeypatch.setattr(cases, name, wrong)
    code, printed = shown(capsys, kind, "--tokens 20")
    assert code == 1
    assert "group_quant codes: BROKEN" in printed
    assert re.search(r"^codes +[\d.]+% +inf%", printed, re.M)
    assert printed.endswith("FAILED\n")


@pytest.mark.parametrize("kind", KINDS)
def test_a_code_that_changes_on_its_way_fails_the_chain(kind, monkeypatch, capsys):
    """Every segment holds by itself; what is handed on does not."""

    def wrong(waves, whole=demo.whole):
        buffers = whole(waves)
        flipped(buffers)
        return buffers

    monkeypatch.setattr(demo, "whole", wrong)
    code, printed = shown(capsys, kind, "--tokens 20")
    assert code == 1
    assert "BROKEN" not in printed
    assert re.search(r"^codes +[\d.]+% +inf%", printed, re.M)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_differs_fails_the_demo(kind, monkeypatch, capsys):
    """Of what is checked from what is launched in one go."""
    name = "sparse_attn" if kind else "prefill_sparse_attn"

    def wrong(*args, chain=getattr(cases, name), **options):
        out = chain(*args, **options)
        return -out if "executor" in options else out

    monkeypatch.setattr(cases, name, wrong)
    code, printed = shown(capsys, kind, "--tokens 4")
    assert code == 1
    assert "BROKEN" not in printed
    assert printed.endswith("FAILED\n")


def test_a_segment_s_worst_verdict_is_shown():
    holds = judge("kv", torch.ones(1), torch.zeros(1), Bound(2.0, ""))
    nearer = judge("kv", torch.ones(1), torch.zeros(1), Bound(1.5, ""))
    unbounded = judge("kv", torch.ones(1), torch.zeros(1), Bound(torch.nan, ""))
    assert demo.Checked(verdicts=[holds, nearer, holds]).worst is nearer
    assert demo.Checked(verdicts=[holds, unbounded, nearer]).worst is unbounded


@pytest.mark.parametrize("kind", KINDS)
def test_a_segment_that_fails_by_itself_fails_the_demo(kind, monkeypatch, capsys):
    """Whatever the chain makes of it."""

    def wrong(segment, *args, compare=demo.compare):
        verdicts = compare(segment, *args)
        return [dataclasses.replace(v, holds=v.holds and v.buffer != "kv") for v in verdicts]

    monkeypatch.setattr(demo, "compare", wrong)
    code, printed = shown(capsys, kind, "--tokens 4")
    assert code == 1
    assert "gather_kv kv: BROKEN" in printed
