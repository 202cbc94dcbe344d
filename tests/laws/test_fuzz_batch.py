"""Batches drawn at random: the contract's rows to the byte, the oracle, and no place that matters.

`make test` draws the same few on every run, of the page sizes that other tests compile for; `make
fuzz N=20000` draws others, and of more.
"""

import dataclasses
import os

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batches import (
    PAGES,
    check,
    check_rows,
    drawn_batch,
    healed,
    hostile,
    near,
    run,
    same,
    slices_of_wider,
)
from dsv4_kernels import device as devices
from dsv4_kernels.chains.attention import SHARING

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")  # None: `make test`
ALL_PAGES = PAGES if EXAMPLES is None else (*PAGES, (64, 5), (128, 2))


@settings(
    max_examples=int(EXAMPLES or 24),
    deadline=None,  # the first example of a kind compiles
    derandomize=EXAMPLES is None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
@given(
    seed=st.integers(0, 2**63 - 1),
    wave_tokens=st.sampled_from([128, 128, 5, 1]),
    sharers=st.sampled_from([2, 4, 8]),
    attention=st.sampled_from(SHARING["cuda" if devices.best().type == "cuda" else "npu"]),
)
def test_any_batch(seed: int, wave_tokens: int, sharers: int, attention: str) -> None:
    """As a server makes it; as slices of wider tensors; then with integers of any bits; and with KV
    moved once for tokens that share it, where there are no lists."""
    generator, device = torch.Generator().manual_seed(seed), devices.best()
    batch = drawn_batch(generator, step=8 if device.type == "cuda" else 1, pages=ALL_PAGES)
    got = check(batch, device)
    apart = dataclasses.replace(batch, **slices_of_wider(batch))
    assert same(run(apart, device, wave_tokens=wave_tokens), got)
    wild = healed(hostile(batch, generator))
    check_rows(wild, device, wave_tokens=wave_tokens)
    if batch.cmp_indices is None and batch.ori_indices is None:
        form = dict(attention=attention, wave_tokens=wave_tokens)
        for each in (batch, wild):  # forms are further from each other: they round P otherwise
            near(run(each, device, sharers=sharers, **form), check_rows(each, device, **form))
