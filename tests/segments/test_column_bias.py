"""column_bias: 0 where a slot is live, NEG elsewhere, and the count of live slots."""

import numpy as np
import pytest
import torch
from test_gather_kv import dead_tokens_that_name_live_rows, slots, wave

from adversary import adversarial_inputs, live_row
from against import check_segment
from dsv4_kernels.segments.column_bias import ColumnBiasTiles

NEG = -3.4028234663852886e38


@pytest.mark.parametrize(
    ("T", "K", "num_tokens"),
    [(9, 133, 8), (1, 1, 1), (5, 128, 0), (6, 129, 6), (3, 257, 1), (0, 5, 0)],
)
def test_bytes(T, K, num_tokens, generator, device, poison):
    inputs = adversarial_inputs(T=T, K=K, num_tokens=num_tokens, generator=generator, device=device)
    got = check_segment("column_bias", slots(inputs), poison)
    for t in range(T):
        live = [live_row(inputs, t, k) is not None for k in range(K)]
        live += [False] * (got["bias"].shape[1] - K)
        want = torch.where(torch.tensor(live), 0.0, NEG)
        assert torch.equal(got["bias"][t].cpu(), want)
        assert int(got["live_slots"][t]) == sum(live)


@pytest.mark.parametrize(("ori_entries", "cmp_entries"), [(0, 3), (2, 0), (0, 0)])
def test_empty_tables_and_pools(ori_entries, cmp_entries, generator, device, poison):
    inputs = adversarial_inputs(
        ori_entries=ori_entries, cmp_entries=cmp_entries, generator=generator, device=device
    )
    check_segment("column_bias", slots(inputs), poison)


def test_a_page_size_that_is_no_power_of_two(generator, device, poison):
    import dataclasses

    from adversary import SMALL

    dims = dataclasses.replace(SMALL, page_rows=12)
    inputs = adversarial_inputs(dims, cmp_entries=9, generator=generator, device=device)
    check_segment("column_bias", slots(inputs), poison)


@pytest.mark.parametrize("block_k", [1, np.int64(32)])
def test_tiles_change_no_byte(block_k, generator, device, poison):
    inputs = adversarial_inputs(T=3, K=133, generator=generator, device=device)
    check_segment("column_bias", slots(inputs), poison, tiles=ColumnBiasTiles(block_k=block_k))


def test_a_wave_counts_from_its_first_token(generator, device, poison):
    inputs = adversarial_inputs(T=9, num_tokens=7, generator=generator, device=device)
    live = check_segment("column_bias", wave(inputs, 4), poison)["live_slots"]
    assert (live[3:] == 0).all()
    assert (live[:3] > 0).any()


def test_dead_tokens_are_dead_whatever_they_name(generator, device, poison):
    dead = dead_tokens_that_name_live_rows(generator, device)
    assert (check_segment("column_bias", dead, poison)["live_slots"][2:] == 0).all()
