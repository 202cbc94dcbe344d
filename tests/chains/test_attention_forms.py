"""Attention beside the fused form, in lanes and in one kernel: the chain's laws, and how near to
the exact result."""

import dataclasses

import pytest
import torch

import reference
from adversary import SMALL, adversarial_inputs, healed
from against import chain, check_hand_overs, full_widths
from dsv4_kernels import device as devices
from dsv4_kernels.buffers import ARGUMENTS
from dsv4_kernels.chains.attention import forms_on
from dsv4_kernels.chains.prefill import ATTENTIONS, SCHEDULES, wave_nodes
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs.prefill import make_inputs
from reference.bounds import ORACLE_REL_L2, relative_l2
from reference.oracle import attend

LANES = dict(attention="lanes")
OTHERS = forms_on(devices.best().type)[1:]
every_other = pytest.mark.parametrize("attention", OTHERS)


@every_other
@pytest.mark.parametrize("layer", ["SWA", "CSA", "HCA"])
def test_against_reference_and_oracle(attention, layer, device, seed):
    inputs = make_inputs(SMALL, layer=layer, tokens=37, start=300, seed=seed, device=device)
    out = check_hand_overs(inputs, attention=attention)
    exact = reference.oracle(*inputs.to("cpu").args(), window=inputs.window)
    assert relative_l2(out, exact) <= ORACLE_REL_L2


@every_other
@pytest.mark.parametrize("K", [1, 129, 133, 150, 180, 193, 1152, 2177])
def test_any_number_of_columns(attention, K, generator, device):
    """129 to 180 are a block and a tail in lanes; 2177 are 18 blocks: a row by pieces."""
    inputs = adversarial_inputs(
        T=6, K=K, cmp_entries=80, num_tokens=6, generator=generator, device=device
    )
    check_hand_overs(inputs, attention=attention)


@every_other
@pytest.mark.parametrize("num_tokens", [0, 1, 127])
def test_num_tokens(attention, num_tokens, device, seed):
    inputs = make_inputs(SMALL, tokens=num_tokens, capacity=128, start=77, seed=seed, device=device)
    out = check_hand_overs(inputs, attention=attention)
    assert (out[num_tokens:] == 0).all()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_node_takes_what_others_made(schedule, attention):
    made: set[str] = set(ARGUMENTS)
    for node in wave_nodes(PRESETS["FLASH"], 128, schedule=schedule, attention=attention):
        assert made >= {*node.reads, *node.updates}, node.name
        made |= {*node.writes}
    assert "attn_out" in made


@every_other
@pytest.mark.parametrize("preset", PRESETS)
def test_full_widths(attention, preset, device):
    check_hand_overs(full_widths(preset, device), attention=attention)


def test_the_forms_differ_by_rounding_alone(device, seed):
    inputs = make_inputs(SMALL, tokens=37, start=300, seed=seed, device=device)
    fused, lanes = chain(inputs), chain(inputs, **LANES)
    assert not torch.equal(fused, lanes)
    assert relative_l2(lanes, fused) <= ORACLE_REL_L2  # codes flip, P being rounded elsewhere


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_tail_in_two_segments_changes_no_byte(schedule, generator, device):
    inputs = adversarial_inputs(T=11, generator=generator, device=device)
    one = chain(inputs, schedule=schedule, attention="fused", groups_per_launch=1)
    two = chain(inputs, schedule=schedule, attention="separate_tail")
    assert torch.equal(two, one)


@every_other
@pytest.mark.parametrize("schedule", ["decoupled", "row_barrier"])
@pytest.mark.parametrize("wave_tokens", [1, 7, 128])
def test_waves_and_groups_change_no_byte(attention, wave_tokens, schedule, generator, device):
    inputs = adversarial_inputs(T=11, generator=generator, device=device)
    options = dict(attention=attention, schedule=schedule)
    whole = chain(inputs, **options)
    cut = chain(inputs, **options, wave_tokens=wave_tokens, groups_per_launch=1)
    assert torch.equal(cut, whole)


@every_other
def test_dead_memory_of_nan_changes_no_byte(attention, generator, device, poison):
    inputs = adversarial_inputs(generator=generator, device=device)
    with poison.allocations():
        out = chain(inputs, attention=attention)
    assert torch.equal(out, chain(healed(inputs), attention=attention))
    assert (out[inputs.num_tokens :] == 0).all()


@every_other
@pytest.mark.parametrize("preset", PRESETS)
def test_they_are_as_near_to_the_exact_result_as_the_fused_form(attention, preset, device):
    """Attention's output by itself, where the forms differ, on the generator's inputs."""
    inputs = full_widths(preset, device)
    exact, _ = attend(*inputs.to("cpu").args()[:12], window=inputs.window)
    errors = {}
    for form in ("fused", attention):
        kept = {}

        def executor(nodes, waves, kept=kept):
            for node in nodes:
                node.run(waves)
            kept.update(waves[0])

        chain(inputs, attention=form, executor=executor)
        heads = kept["o_heads"] if form == "lanes" else kept["o_packed"].transpose(0, 1)
        errors[form] = relative_l2(heads.reshape(exact.shape), exact)
    assert 1e-3 < errors["fused"] < 3e-3
    assert 1e-3 < errors[attention] < 1.1 * errors["fused"]
    if attention == "lanes":
        assert errors["fused"] < 1.1 * errors[attention]


@every_other
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["q", "kv_overlay", "freqs_cos"])
def test_a_live_nan_reaches_its_rows_and_only_them(attention, where, bad, device, seed):
    inputs = make_inputs(SMALL, tokens=12, start=50, seed=seed, device=device)
    want = chain(inputs, attention=attention)
    hurt = dataclasses.replace(inputs, **{where: getattr(inputs, where).clone()})
    getattr(hurt, where)[11, ..., 0] = bad  # the last token's own row, which no other one sees
    got = chain(hurt, attention=attention)
    assert not got[11].isfinite().all()
    assert torch.equal(got[:11], want[:11])
