"""What stands between a kernel's outputs and the judge."""

from __future__ import annotations

import pytest
import torch

from reference.compare import _on_cpu, expected


class Elsewhere(torch.Tensor):
    """As an accelerator's: `cpu` copies, and leaves out what lies between the rows."""

    is_cpu = False

    def cpu(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.as_subclass(torch.Tensor).clone()


@pytest.mark.parametrize(
    ("shape", "strides"),
    [((3, 4), (10, 1)), ((2, 3, 4), (50, 4, 1)), ((3, 4), (4, 1)), ((1,), (7,))],
)
def test_strides_survive_the_way_to_the_cpu(shape, strides, generator):
    there = torch.randn(100, generator=generator).as_strided(shape, strides, 5)
    here = _on_cpu(there.as_subclass(Elsewhere))
    assert type(here) is torch.Tensor
    assert here.untyped_storage().data_ptr() != there.untyped_storage().data_ptr()
    assert torch.equal(here, there)
    assert here.stride() == strides
    assert _on_cpu(there).data_ptr() == there.data_ptr()


def test_every_output_is_compared():
    with pytest.raises(ValueError, match="argument"):
        expected("group_quant", {"o_r": torch.ones(1, 1, 4)}, ("codes", "scale", "o_r"))
