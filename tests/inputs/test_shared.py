"""Indices laid out for tokens that share their KV."""

import pytest
import torch

from adversary import SMALL
from dsv4_kernels import prefill_sparse_attn
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.inputs.shared import share


@pytest.mark.parametrize("sharers", [2, 4, 8])
@pytest.mark.parametrize(("layer", "start"), [("SWA", 0), ("SWA", 200), ("CSA", 40), ("HCA", 700)])
def test_every_token_names_what_it_named(layer, start, sharers):
    """In the same order, and a column names one row for all tokens of a tile."""
    inputs = make_inputs(SMALL, layer=layer, tokens=21, capacity=23, start=start)
    shared = share(inputs, sharers)
    K = shared.cmp_sparse_indices.shape[1]
    assert (shared.cmp_sparse_lens == K).all()
    for t, own in enumerate(shared.cmp_sparse_indices):
        row, n = inputs.cmp_sparse_indices[t], inputs.cmp_sparse_lens[t]
        named = own[own >= 0]
        assert torch.equal(named.sort().values, row[:n].sort().values)
        if layer != "CSA":  # an indexer's picks have an order of their own
            assert torch.equal(named, row[:n])
    for tile in shared.cmp_sparse_indices.split(sharers):
        named = [{*column.tolist()} - {-1} for column in tile.T]
        assert all(len(rows) <= 1 for rows in named)


def test_the_windows_of_a_tile_are_its_tokens_more():
    inputs = make_inputs(SMALL, layer="HCA", tokens=21, start=700)
    K = inputs.cmp_sparse_indices.shape[1]
    assert share(inputs, 8).cmp_sparse_indices.shape == (21, K + 7)


def test_the_promise_is_kept(device):
    inputs = share(make_inputs(SMALL, layer="HCA", tokens=21, start=700), 8).to(device)
    want = prefill_sparse_attn(*inputs.args(), window=inputs.window, attention="lanes")
    for sharers in (2, 4, 8):
        got = prefill_sparse_attn(
            *inputs.args(), window=inputs.window, attention="lanes", sharers=sharers
        )
        assert torch.equal(got, want)
