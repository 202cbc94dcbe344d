"""Batches drawn at random: the contract's rows to the byte, the oracle, and no place that matters.

`make test` draws the same few on every run; `make fuzz N=20000` draws others.
"""

import dataclasses
import os

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batches import check, check_rows, drawn_batch, healed, hostile, run, same, slices_of_wider
from dsv4_kernels import device as devices

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")  # None: `make test`


@settings(
    max_examples=int(EXAMPLES or 24),
    deadline=None,  # the first example of a kind compiles
    derandomize=EXAMPLES is None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
@given(seed=st.integers(0, 2**63 - 1), wave_tokens=st.sampled_from([128, 128, 5, 1]))
def test_any_batch(seed: int, wave_tokens: int) -> None:
    """As a server makes it; as slices of wider tensors; then with integers of any bits."""
    generator, device = torch.Generator().manual_seed(seed), devices.best()
    batch = drawn_batch(generator, step=8 if device.type == "cuda" else 1)
    got = check(batch, device)
    apart = dataclasses.replace(batch, **slices_of_wider(batch))
    assert same(run(apart, device, wave_tokens=wave_tokens), got)
    check_rows(healed(hostile(batch, generator)), device, wave_tokens=wave_tokens)
