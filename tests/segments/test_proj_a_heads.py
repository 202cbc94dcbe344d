"""proj_a_heads: proj_a's bits from heads that lie token by token."""

import pytest
import torch

from against import check_segment
from dsv4_kernels import proj_a, proj_a_heads


def draw(generator, device, N=3, G=2, J=128, R=40):
    return {
        "o_heads": torch.randn(N, G, J, generator=generator).bfloat16().to(device),
        "wo_a": (J**-0.5 * torch.randn(G, R, J, generator=generator)).bfloat16().to(device),
    }


@pytest.mark.parametrize(
    ("N", "G", "J", "R"), [(0, 2, 64, 16), (1, 1, 64, 16), (130, 2, 300, 40), (3, 8, 4096, 130)]
)
def test_against_reference(N, G, J, R, generator, device, poison):
    check_segment("proj_a_heads", draw(generator, device, N=N, G=G, J=J, R=R), poison)


def test_the_bits_are_proj_as(generator, device):
    inputs = draw(generator, device, N=131, G=4)
    packed = inputs["o_heads"].transpose(0, 1).contiguous()
    assert torch.equal(proj_a_heads(**inputs), proj_a(packed, inputs["wo_a"]))


def test_other_groups_stay(generator, device):
    inputs = draw(generator, device, G=3)
    whole = proj_a_heads(**inputs)
    part = torch.full_like(whole, 7.0)
    proj_a_heads(**inputs, group_range=range(1, 2), o_r=part)
    assert torch.equal(part[:, 1], whole[:, 1])
    assert (part[:, [0, 2]] == 7).all()
