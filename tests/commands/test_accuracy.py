"""The accuracy study: what it measures, and that the stored results are what it measures."""

import dataclasses
from pathlib import Path

import pytest
import torch

from adversary import SMALL
from dsv4_kernels.__main__ import main
from dsv4_kernels.commands.study.accuracy.activations import DRAWN, gaussian
from dsv4_kernels.commands.study.accuracy.budget import budget
from dsv4_kernels.commands.study.accuracy.granularity import SCHEMES, errors
from dsv4_kernels.commands.study.accuracy.study import Study, draw_weights
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs.prefill import PrefillInputs, make_inputs
from dsv4_kernels.weights import quantise_rows
from reference import ROUNDING_POINTS
from reference.bounds import relative_l2
from reference.group_quant import dequantise

STORED = Path(__file__).parents[2] / "bench" / "results" / "accuracy.json"
ROW, GROUP, BLOCK, FP8 = SCHEMES


@pytest.fixture
def stored() -> Study:
    return Study.from_json(STORED.read_text())


def test_the_stored_gaussian_errors_are_measured_again(stored):
    dims = PRESETS["FLASH"]
    generator = torch.Generator().manual_seed(stored.seed)
    weights = draw_weights(dims, generator)
    o_r = gaussian(stored.tokens, dims.groups, dims.o_lora_rank, generator)
    for scheme, e in errors(o_r, weights).items():
        want = dataclasses.asdict(stored.granularity["FLASH"]["Gaussian"][scheme])
        assert dataclasses.asdict(e) == pytest.approx(want, rel=1e-4), scheme


@pytest.mark.parametrize("activations", DRAWN)
def test_stored_errors_are_those_of_other_draws(activations, stored, generator):
    """Within 25 %: the largest of 8192 heavy-tailed numbers is largely chance."""
    o_r = DRAWN[activations](32, 8, 1024, generator)
    found = errors(o_r, torch.randn(256, 8 * 1024, generator=generator))
    for scheme, e in stored.granularity["FLASH"][activations].items():
        assert found[scheme].all == pytest.approx(e.all, rel=0.25), scheme
    assert found[ROW].all > found[GROUP].all > found[BLOCK].all


def test_the_seeds_figures_are_reproduced(stored):
    assert [*stored.granularity] == ["FLASH", "PRO"]
    assert stored.reproduces_seed


def test_a_figure_beside_the_seeds_is_said_to_be_off(stored):
    found = stored.granularity["FLASH"]["Gaussian"]
    for by, outside in [(0.0, 0.0), (5e-4, 5e-4), (-5e-4, -5e-4)]:
        found[GROUP] = dataclasses.replace(found[GROUP], all=0.78e-2 + by)
        assert stored.from_seed_figure("FLASH", GROUP) == pytest.approx(outside)
        assert stored.reproduces_seed == (by == 0.0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_errors_are_those_of_the_product(scheme, generator):
    o_r = torch.randn(7, 3, 200, generator=generator)
    wo_b = torch.randn(50, 600, generator=generator)
    rounded = dequantise(*SCHEMES[scheme](o_r)).double()
    exact = o_r.double()
    w = wo_b.double().view(50, 3, 200)
    partials = torch.einsum("tgr,dgr->tgd", rounded, w), torch.einsum("tgr,dgr->tgd", exact, w)
    got, want = (p.sum(1) for p in partials)
    of_tokens = (got - want).norm(dim=1) / want.norm(dim=1)
    of_groups = (partials[0] - partials[1]).norm(dim=2) / partials[1].norm(dim=2)
    e = errors(o_r, wo_b)[scheme]
    assert e.all == pytest.approx(relative_l2(got, want), rel=1e-4)
    assert e.token_low == pytest.approx(float(of_tokens.min()), rel=1e-4)
    assert e.token_high == pytest.approx(float(of_tokens.max()), rel=1e-4)
    assert e.worst_group == pytest.approx(float(of_groups.max()), rel=1e-4)


def test_a_group_is_insulated_from_a_larger_one(generator):
    o_r = torch.randn(4, 3, 128, generator=generator)
    wo_b = torch.randn(50, 3 * 128, generator=generator)
    before = errors(o_r, wo_b)
    o_r[:, 1] *= 100
    after = errors(o_r, wo_b)
    assert after[ROW].worst_group > 10 * before[ROW].worst_group
    assert after[GROUP].worst_group == pytest.approx(before[GROUP].worst_group, rel=1e-3)


def small_chunk(generator, seed) -> tuple[PrefillInputs, torch.Tensor]:
    """Inputs, and the weights that their wo_b was quantised from."""
    weights = draw_weights(SMALL, generator)
    wo_b, wo_b_scale = quantise_rows(weights)
    inputs = make_inputs(SMALL, tokens=20, start=100, seed=seed)
    return dataclasses.replace(inputs, wo_b=wo_b, wo_b_scale=wo_b_scale), weights


def test_the_budget_adds_up(generator, seed):
    inputs, weights = small_chunk(generator, seed)
    found = budget(inputs, weights)
    assert found.in_squares == pytest.approx(found.all, rel=0.1)
    assert min(found.alone.values()) > 0
    for point in ROUNDING_POINTS:
        others = sum(found.alone[other] ** 2 for other in ROUNDING_POINTS if other != point) ** 0.5
        assert found.without[point] == pytest.approx(others, rel=0.1)


def test_weights_that_int8_holds_cost_nothing(generator, seed):
    inputs, _ = small_chunk(generator, seed)
    exact = inputs.wo_b * inputs.wo_b_scale[:, None]
    found = budget(inputs, exact)
    assert found.alone["wo_b"] < 1e-12
    assert found.without["wo_b"] == pytest.approx(found.all, rel=1e-9)
    assert found.alone["codes"] > 1e-3


def test_the_command_measures_prints_and_keeps(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(PRESETS, "SMALL", SMALL)
    kept = tmp_path / "study.json"
    call = ["accuracy", "--preset", "SMALL", "--tokens", "5", "--markdown"]
    assert main([*call, "--json", str(kept)]) == 1, "groups of 40 are not the seed's"
    printed = capsys.readouterr()
    assert "off the seed's figures" in printed.err
    study = Study.from_json(kept.read_text())
    assert study.to_json() + "\n" == kept.read_text()
    assert len(study.granularity["SMALL"]) == len(DRAWN) + 1
    assert main(["accuracy", "--markdown", "--from", str(kept)]) == 1
    assert capsys.readouterr().out == printed.out

    assert main(["accuracy", "--from", str(STORED)]) == 0
    assert main(["accuracy", "--tokens", "0"]) == 2


def test_the_picture_is_drawn(stored, tmp_path):
    pytest.importorskip("matplotlib")
    files = tmp_path / "first.png", tmp_path / "second.png"
    for file in files:
        assert main(["accuracy", "--from", str(STORED), "--png", str(file)]) == 0
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert files[0].read_bytes() == files[1].read_bytes()
