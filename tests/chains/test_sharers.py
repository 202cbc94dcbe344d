"""Neighbouring tokens that share their KV: the caller's promise, and what it must not change."""

import dataclasses

import pytest
import torch

from adversary import SMALL
from against import chain
from dsv4_kernels import ContractError
from dsv4_kernels.contract import Contract
from dsv4_kernels.device import cuda_target
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments.qk_softmax_pv import SEGMENT


def on_this(device):
    if device.type == "cuda":
        pytest.skip("sharers is 1 on CUDA")


def sharing(X, generator, device, seed, T=21):
    """A column names the same row for all tokens of a tile, or is dead for some of them."""
    inputs = make_inputs(SMALL, tokens=T, start=200, seed=seed, device=device)
    indices = inputs.cmp_sparse_indices.clone()
    for u in range(0, T, X):
        indices[u : u + X] = indices[u].clone()
    indices[torch.rand(indices.shape, generator=generator).to(device) < 0.3] = -1
    return dataclasses.replace(
        inputs,
        cmp_sparse_indices=indices,
        cmp_sparse_lens=torch.full_like(inputs.cmp_sparse_lens, indices.shape[1]),
    )


@pytest.mark.parametrize("attention", ["fused", "lanes"])
@pytest.mark.parametrize("sharers", [2, 4, 8])
def test_sharing_changes_no_byte(sharers, attention, generator, device, seed):
    """A last tile of a chunk that is not full; tiles on both sides of a wave's end."""
    on_this(device)
    inputs = sharing(sharers, generator, device, seed)
    want = chain(inputs, attention=attention)
    for wave_tokens in (8, 16, 128):
        options = dict(attention=attention, sharers=sharers, wave_tokens=wave_tokens)
        assert torch.equal(chain(inputs, **options), want)


def test_a_broken_promise_is_finite(generator, device, seed):
    """Tokens that share nothing: wrong rows, but rows of the pools."""
    on_this(device)
    inputs = make_inputs(SMALL, tokens=9, start=200, seed=seed, device=device)
    got = chain(inputs, sharers=8)
    assert got.isfinite().all()
    assert not torch.equal(got, chain(inputs))


def test_a_tile_belongs_to_one_wave(device, seed):
    inputs = make_inputs(SMALL, tokens=9, start=200, seed=seed, device=device)
    message = "`wave_tokens` must be a multiple of sharers=8, got 12"
    with pytest.raises(ContractError, match=message):
        chain(inputs, sharers=8, wave_tokens=12)


def test_cuda_has_no_room_for_kv_that_stays():
    contract = Contract("qk_softmax_pv")
    contract.sizes |= dict(U=1, N=2, NB=1, H=64, C=512, X=2, softmax_scale=1, q_stride=64 * 512)
    with pytest.raises(ContractError, match=r"`sharers` must be 1 on CUDA, .*, got 2"):
        SEGMENT.launch(contract, cuda_target("sm_90"), SEGMENT.tiles.cuda())
