"""Launches for some groups only: theirs is written to the last element, the others' not touched."""

import pytest
import torch

from against import run_kernel
from poison import is_sentinel

G, N, R, J, D = 4, 5, 40, 48, 72
GROUP_AXIS = {"o_r": 1, "codes": 1, "scale": 0, "partial": 0}  # [N, G, R], [G, N], [G, N, D]


def draw(name, generator, device):
    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    def integers(*shape):
        return torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)

    inputs = {
        "proj_a": lambda: {
            "o_packed": normal(G, N, J).bfloat16(), "wo_a": normal(G, R, J).bfloat16()
        },
        "group_quant": lambda: {"o_r": normal(N, G, R)},
        "proj_b": lambda: {"codes": integers(N, G, R), "wo_b": integers(D, G * R)},
    }  # fmt: skip
    return {key: value.to(device) for key, value in inputs[name]().items()}


@pytest.mark.parametrize("name", ["proj_a", "group_quant", "proj_b"])
@pytest.mark.parametrize("groups", [range(0, 1), range(1, 3), range(3, 4), range(0, 4)])
def test_a_range_writes_its_groups_and_no_other(name, groups, generator, device, poison):
    inputs = draw(name, generator, device)
    whole = run_kernel(name, inputs, poison)
    part = run_kernel(name, inputs, poison, group_range=groups)
    own = torch.tensor([g in groups for g in range(G)], device=device)
    for buffer, got in part.items():
        by_group = got.movedim(GROUP_AXIS[buffer], 0)
        assert torch.equal(by_group[own], whole[buffer].movedim(GROUP_AXIS[buffer], 0)[own])
        assert is_sentinel(by_group[~own]).all()
        assert not is_sentinel(whole[buffer]).any()


@pytest.mark.parametrize("name", ["proj_a", "group_quant", "proj_b"])
def test_an_empty_range_launches_nothing(name, generator, device, poison):
    for got in run_kernel(
        name, draw(name, generator, device), poison, group_range=range(2, 2)
    ).values():
        assert is_sentinel(got).all()


@pytest.mark.parametrize("name", ["proj_a", "group_quant", "proj_b"])
def test_ranges_fill_one_buffer_in_any_order(name, generator, device, poison):
    inputs = draw(name, generator, device)
    whole = run_kernel(name, inputs, poison)
    filled = {}
    for groups in (range(2, 4), range(0, 1), range(1, 2)):
        filled = run_kernel(name, inputs, poison, group_range=groups, **filled)
    assert all(torch.equal(filled[buffer], whole[buffer]) for buffer in whole)
