"""Attention in lanes: the chain's laws, and how near to the exact result beside the fused form."""

import dataclasses

import pytest
import torch

import reference
from adversary import SMALL, adversarial_inputs, healed
from against import chain, check_hand_overs
from dsv4_kernels.buffers import ARGUMENTS
from dsv4_kernels.chains.prefill import ATTENTIONS, SCHEDULES, wave_nodes
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs.prefill import make_inputs
from reference.bounds import ORACLE_REL_L2, relative_l2
from reference.oracle import attend

LANES = dict(attention="lanes")


@pytest.mark.parametrize("layer", ["SWA", "CSA", "HCA"])
def test_against_reference_and_oracle(layer, device, seed):
    inputs = make_inputs(SMALL, layer=layer, tokens=37, start=300, seed=seed, device=device)
    out = check_hand_overs(inputs, **LANES)
    exact = reference.oracle(*inputs.to("cpu").args(), window=inputs.window)
    assert relative_l2(out, exact) <= ORACLE_REL_L2


@pytest.mark.parametrize("K", [1, 129, 150, 180, 193, 1152, 2177])
def test_any_number_of_columns(K, generator, device):
    """129, 150 and 180 are a block and a tail; 2177 are 18 blocks: a row by pieces."""
    inputs = adversarial_inputs(
        T=6, K=K, cmp_entries=80, num_tokens=6, generator=generator, device=device
    )
    check_hand_overs(inputs, **LANES)


@pytest.mark.parametrize("num_tokens", [0, 1, 127])
def test_num_tokens(num_tokens, device, seed):
    inputs = make_inputs(SMALL, tokens=num_tokens, capacity=128, start=77, seed=seed, device=device)
    out = check_hand_overs(inputs, **LANES)
    assert (out[num_tokens:] == 0).all()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_node_takes_what_others_made(schedule, attention):
    made: set[str] = set(ARGUMENTS)
    for node in wave_nodes(PRESETS["FLASH"], 128, schedule=schedule, attention=attention):
        assert made >= {*node.reads, *node.updates}, node.name
        made |= {*node.writes}
    assert "attn_out" in made


@pytest.mark.parametrize("preset", PRESETS)
def test_full_widths(preset, device, seed):
    inputs = make_inputs(PRESETS[preset], tokens=3, start=5000, seed=seed, device=device)
    check_hand_overs(inputs, **LANES)


def test_the_forms_differ_by_rounding_alone(device, seed):
    inputs = make_inputs(SMALL, tokens=37, start=300, seed=seed, device=device)
    fused, lanes = chain(inputs), chain(inputs, **LANES)
    assert not torch.equal(fused, lanes)
    assert relative_l2(lanes, fused) <= ORACLE_REL_L2  # codes flip, P being rounded elsewhere


@pytest.mark.parametrize("schedule", ["decoupled", "row_barrier"])
@pytest.mark.parametrize("wave_tokens", [1, 7, 128])
def test_waves_and_groups_change_no_byte(wave_tokens, schedule, generator, device):
    inputs = adversarial_inputs(T=11, generator=generator, device=device)
    options = dict(LANES, schedule=schedule)
    whole = chain(inputs, **options)
    cut = chain(inputs, **options, wave_tokens=wave_tokens, groups_per_launch=1)
    assert torch.equal(cut, whole)


def test_dead_memory_of_nan_changes_no_byte(generator, device, poison):
    inputs = adversarial_inputs(generator=generator, device=device)
    with poison.allocations():
        out = chain(inputs, **LANES)
    assert torch.equal(out, chain(healed(inputs), **LANES))
    assert (out[inputs.num_tokens :] == 0).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_lanes_are_as_near_to_the_exact_result_as_the_fused_form(preset, device, seed):
    """Attention's output by itself, where the forms differ, on the generator's inputs."""
    dims = PRESETS[preset]
    inputs = make_inputs(dims, tokens=4, start=5000, seed=seed, device=device)
    exact, _ = attend(*inputs.to("cpu").args()[:12], window=inputs.window)
    errors = {}
    for attention in ("fused", "lanes"):
        kept = {}

        def executor(nodes, waves, kept=kept):
            for node in nodes:
                node.run(waves)
            kept.update(waves[0])

        chain(inputs, attention=attention, executor=executor)
        heads = kept["o_heads"] if attention == "lanes" else kept["o_packed"].transpose(0, 1)
        errors[attention] = relative_l2(heads.reshape(exact.shape), exact)
    assert 1e-3 < errors["fused"] < 3e-3
    assert errors["lanes"] < 1.1 * errors["fused"]
    assert errors["fused"] < 1.1 * errors["lanes"]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["q", "kv_overlay", "freqs_cos"])
def test_a_live_nan_reaches_its_rows_and_only_them(where, bad, device, seed):
    inputs = make_inputs(SMALL, tokens=12, start=50, seed=seed, device=device)
    want = chain(inputs, **LANES)
    hurt = dataclasses.replace(inputs, **{where: getattr(inputs, where).clone()})
    getattr(hurt, where)[11, ..., 0] = bad  # the last token's own row, which no other one sees
    got = chain(hurt, **LANES)
    assert not got[11].isfinite().all()
    assert torch.equal(got[:11], want[:11])
