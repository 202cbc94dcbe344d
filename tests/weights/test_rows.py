"""Symmetric INT8 by rows."""

import pytest
import torch

from dsv4_kernels.weights import quantise_rows
from dsv4_kernels.weights import rows as rows_module
from dsv4_kernels.weights.rows import row_blocks


def test_quantised_rows_are_within_half_a_step(seed: int) -> None:
    weights = torch.randn(50, 300, generator=torch.Generator().manual_seed(seed))
    weights[7] = 0
    weights[8] *= 1e-6
    codes, scale = quantise_rows(weights)
    assert codes.dtype == torch.int8
    assert (scale > 0).all()
    assert (codes[7] == 0).all()
    expected_scale = weights.abs().amax(dim=1) / 127
    expected_scale[7] = scale[7]
    assert torch.equal(scale, expected_scale)
    # Half a step, and what fp32 rounds off in w / scale: up to 127 steps times 2**-23.
    steps = (codes.double() * scale.double()[:, None] - weights.double()).abs()
    assert (steps <= scale.double()[:, None] * (0.5 + 127 * 2.0**-23)).all()
    extremes = codes[[r for r in range(50) if r != 7]]
    assert (extremes.to(torch.int16).abs().amax(dim=1) == 127).all()


def test_ties_go_to_even() -> None:
    ties = torch.arange(-126, 127).float() + 0.5
    codes, scale = quantise_rows(torch.cat([ties, torch.tensor([127.0])])[None])
    assert scale.item() == 1
    assert (codes[0, :-1] % 2 == 0).all()
    assert ((codes[0, :-1] - ties).abs() == 0.5).all()


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (1, 200), (7, 30), (9, 100), (3, 0)])
def test_blocks_cover_the_rows_in_order(rows, columns, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_ELEMENTS", 100)
    blocks = list(row_blocks(rows, columns))
    assert [row for block in blocks for row in range(block.start, block.stop)] == [*range(rows)]
    for block in blocks:
        assert block.stop - block.start == 1 or (block.stop - block.start) * columns <= 100
