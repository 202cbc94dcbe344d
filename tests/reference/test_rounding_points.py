"""rounded_chain: each rounding point does what its name says."""

import dataclasses

import pytest
import torch

import reference
from adversary import SMALL, adversarial_inputs
from dsv4_kernels.inputs.prefill import PrefillInputs, make_inputs
from dsv4_kernels.weights import quantise_rows
from reference import ROUNDING_POINTS
from reference.bounds import CHAIN_REL_L2, relative_l2


@pytest.fixture
def weights(generator) -> torch.Tensor:
    return torch.randn(SMALL.hidden, SMALL.groups * SMALL.o_lora_rank, generator=generator)


@pytest.fixture
def inputs(weights, seed) -> PrefillInputs:
    inputs = make_inputs(SMALL, tokens=20, start=100, seed=seed)
    inputs.cmp_sparse_lens[[3, 7]] = torch.tensor([0, 1], dtype=torch.int32)
    wo_b, wo_b_scale = quantise_rows(weights)
    return dataclasses.replace(inputs, wo_b=wo_b, wo_b_scale=wo_b_scale)


def chain(inputs: PrefillInputs, weights: torch.Tensor, *points: str) -> torch.Tensor:
    return reference.rounded_chain(
        *inputs.args(), weights=weights, choices=[points], window=inputs.window
    )[0]


def oracle(inputs: PrefillInputs, weights: torch.Tensor) -> torch.Tensor:
    ones = torch.ones(len(weights))
    inputs = dataclasses.replace(inputs, wo_b=weights, wo_b_scale=ones)
    return reference.oracle(*inputs.args(), window=inputs.window)


def test_no_point_is_the_oracle(inputs, weights):
    assert relative_l2(chain(inputs, weights), oracle(inputs, weights)) < 1e-12


def test_every_point_is_the_segments_chain(inputs, weights):
    want = reference.prefill_segments(*inputs.args(), window=inputs.window)["attn_out"]
    assert relative_l2(chain(inputs, weights, *ROUNDING_POINTS), want) <= CHAIN_REL_L2


def test_dead_slots_and_rows_count_for_nothing(generator, weights):
    inputs = adversarial_inputs(T=9, generator=generator, device=torch.device("cpu"))
    assert relative_l2(chain(inputs, weights), oracle(inputs, weights)) < 1e-12


def test_the_roundings_before_o_r_are_the_segments(inputs, weights):
    """A point left out would show as 1.5e-3; the segments' fp32 flips a bf16 now and then."""
    o_r = reference.prefill_segments(*inputs.args(), window=inputs.window)["o_r"]
    want = o_r.double().flatten(1) @ weights.double().T
    assert relative_l2(chain(inputs, weights, "p", "o_packed"), want) < 3e-4
    assert relative_l2(chain(inputs, weights, "p"), want) > 1e-3
    assert relative_l2(chain(inputs, weights, "o_packed"), want) > 1e-3


def test_int8_weights_are_the_oracle_on_them(inputs, weights):
    int8 = reference.oracle(*inputs.args(), window=inputs.window)
    assert relative_l2(chain(inputs, weights, "wo_b"), int8) < 1e-6  # codes * scale in fp32


def test_the_output_is_rounded_once(inputs, weights):
    want = chain(inputs, weights).bfloat16().double()
    assert torch.equal(chain(inputs, weights, "attn_out"), want)


def test_choices_share_what_they_have_in_common(inputs, weights):
    choices = [("p",), (), ("codes", "p"), ROUNDING_POINTS]
    together = reference.rounded_chain(
        *inputs.args(), weights=weights, choices=choices, window=inputs.window
    )
    for got, points in zip(together, choices, strict=True):
        assert torch.equal(got, chain(inputs, weights, *points))


def test_a_point_that_is_none_is_refused(inputs, weights):
    with pytest.raises(ValueError, match="o_rope"):
        chain(inputs, weights, "p", "o_rope")
