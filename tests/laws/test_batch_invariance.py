"""A token's bytes are its own: alone, in any chunk, at any place in it, in every repetition."""

import dataclasses

import pytest
import torch

from adversary import SMALL, adversarial_inputs
from against import FORMS, chain
from dsv4_kernels.buffers import PER_TOKEN
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs.prefill import PrefillInputs, make_inputs

every_form = pytest.mark.parametrize("form", FORMS.values(), ids=[*FORMS])


def chunk_of(inputs: PrefillInputs, start: int, first: int, last: int) -> PrefillInputs:
    """Tokens first .. last-1 as a chunk of their own: those before them have moved to the ring."""
    window, T = inputs.window, inputs.kv_overlay.shape[0]
    ring, B = inputs.ori_kv.clone(), inputs.ori_kv.shape[1]
    for t in range(first):
        row = (start + t) % window
        ring[inputs.ori_block_table[row // B], row % B] = inputs.kv_overlay[t]
    cut = inputs.rows(slice(first, last))
    raw = cut.cmp_sparse_indices
    before = (raw >= window) & (raw < window + first)
    inside = (raw >= window + first) & (raw < window + T)
    behind = raw >= window + T
    raw[before] = (start + raw[before] - window) % window
    raw[inside] -= first
    raw[behind] -= T - (last - first)
    overlay = inputs.kv_overlay[first:last].clone()
    return dataclasses.replace(cut, ori_kv=ring, kv_overlay=overlay, num_tokens=last - first)


@every_form
@pytest.mark.parametrize("layer", ["SWA", "CSA", "HCA"])
@pytest.mark.parametrize(
    "lengths", [[1] * 40, [17, 23], [1, 39], [13, 13, 13, 1]], ids=["alone", "2", "1 + 39", "3 + 1"]
)
def test_a_sequence_may_be_cut_anywhere(lengths, layer, form, device, seed):
    """Longer than the window of 24, so that chunks write over the ring of those before."""
    start = 50
    inputs = make_inputs(SMALL, layer=layer, tokens=40, start=start, seed=seed, device=device)
    whole = chain(inputs, **form)
    last = 0
    for length in lengths:
        first, last = last, last + length
        cut = chain(chunk_of(inputs, start, first, last), **form)
        assert torch.equal(cut, whole[first:last]), (first, last)


@every_form
@pytest.mark.parametrize("T", [9, 140])
def test_the_place_in_a_chunk_does_not_matter(T, form, generator, device):
    """140 rows are more than a tile of any kernel and more than a wave."""
    inputs = adversarial_inputs(T=T, num_tokens=T, generator=generator, device=device)
    whole = chain(inputs, **form)
    for _ in range(3):
        order = torch.randperm(T, generator=generator).to(device)
        got = chain(inputs.rows(order), **form)
        assert torch.equal(got, whole[order])


@every_form
def test_the_neighbours_do_not_matter(form, generator, device, seed):
    """Every other token becomes a stranger, of another magnitude and with other slots."""
    inputs = make_inputs(SMALL, tokens=12, start=50, seed=seed, device=device)
    whole = chain(inputs, **form)
    for t in range(12):
        others = torch.arange(12, device=device) != t
        order = torch.randperm(12, generator=generator).to(device)
        strangers = inputs.rows(order)
        strangers.q.mul_(30)
        for name in PER_TOKEN:
            getattr(strangers, name)[t] = getattr(inputs, name)[t]
        got = chain(strangers, **form)
        assert torch.equal(got[t], whole[t])
        assert not torch.equal(got[others], whole[others])


def test_alone_at_full_widths(device, seed):
    start = 5000
    inputs = make_inputs(PRESETS["FLASH"], tokens=4, start=start, seed=seed, device=device)
    alone = chunk_of(inputs, start, 2, 3)
    for form in FORMS.values():
        assert torch.equal(chain(alone, **form)[0], chain(inputs, **form)[2])


@every_form
def test_groups_per_launch_and_waves_do_not_matter(form, generator, device):
    dims = dataclasses.replace(SMALL, heads=16, head_dim=32, groups=8)
    inputs = adversarial_inputs(dims, T=11, generator=generator, device=device)
    whole = chain(inputs, **form, groups_per_launch=8)
    for groups in range(1, 10):
        got = chain(inputs, **form, groups_per_launch=groups, wave_tokens=1 + groups)
        assert torch.equal(got, whole), groups


@every_form
def test_same_bytes_on_every_run(form, generator, device):
    inputs = adversarial_inputs(T=9, generator=generator, device=device)
    first = chain(inputs, **form)
    assert all(torch.equal(chain(inputs, **form), first) for _ in range(5))
