"""Every size of every segment as 0: a contract error, or an empty or whole result; never less."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import dsv4_kernels
from against import OUTPUTS
from dsv4_kernels import ContractError
from dsv4_kernels.buffers import BUFFERS, shapes
from dsv4_kernels.segments import SEGMENTS
from poison import is_sentinel

SIZES = dict(
    N=2, T=3, H=2, C=16, P=16, G=1, R=8, D=8, J=32, K=5, KP=128, NB=1, ori_B=4, cmp_B=4,
    ori_pages=1, ori_entries=1, cmp_pages=1, cmp_entries=1,
)  # fmt: skip
NUMBERS: dict[str, Any] = dict(
    num_tokens=3, window=4, first_token=0, groups=1, rope_dim=16, sharers=1, softmax_scale=0.25
)

# Where a size of 0 must be a contract error: a loop that never runs leaves no sum behind, a scale
# of nothing is none, an index has no page.
REFUSED = {
    "resolve_slots": {"ori_B", "cmp_B", "K", "T"},
    "gather_kv": {"ori_B", "cmp_B", "C", "KR"},
    "qk_softmax_pv": {"C", "U"},
    "attend_rows": {"C", "P", "U", "ori_B", "cmp_B"},
    "merge_norm": {"C", "NB", "U"},
    "merge_finish": {"C", "NB", "P", "U"},
    "qk": {"C", "U"},
    "softmax": {"U"},
    "pv": {"C", "U"},
    "finish": {"H", "P"},
    "proj_a_heads": {"J"},
    "inverse_rope": {"H", "P"},
    "proj_a": {"J"},
    "group_quant": {"R"},
    "proj_b": {"R"},
    "dequant_sum": {"G"},
    "row_quant": {"G", "R"},
    "proj_b_dequant": {"G", "R"},
}


def letters(name: str) -> list[str]:
    shapes_ = (BUFFERS[b].shape for b in SEGMENTS[name].reads + SEGMENTS[name].updates)
    return sorted({letter for shape in shapes_ for letter in shape.replace("*", " ").split()})


@pytest.mark.parametrize(
    ("name", "letter"), [(name, letter) for name in REFUSED for letter in letters(name)]
)
def test_nothing_along_an_axis(name: str, letter: str, device, poison) -> None:
    segment = SEGMENTS[name]
    extents = shapes(segment.reads + segment.updates, SIZES | {letter: 0})
    tensors = {
        buffer: torch.zeros(extent, dtype=BUFFERS[buffer].dtype, device=device)  # type: ignore[arg-type]
        for buffer, extent in extents.items()
    }
    if "live_blocks" in tensors:
        tensors["live_blocks"].fill_(1)
    numbers = {number: NUMBERS[number] for number in segment.numbers if number in NUMBERS}
    run = getattr(dsv4_kernels, name)
    if letter in REFUSED[name]:
        with pytest.raises(ContractError, match=rf"{name}: .*(0|rows|J = 32)$"):
            run(**tensors, **numbers)
        return
    with poison.allocations():
        made = run(**tensors, **numbers)
    for buffer, value in zip(
        OUTPUTS[name], made if isinstance(made, tuple) else (made,), strict=True
    ):
        written = value
        if (name, buffer) in (("merge_norm", "o_packed"), ("pv", "o_heads")):  # rope is to come
            C = SIZES["C"]
            written = torch.cat([head[..., : -SIZES["P"]] for head in value.split(C, dim=-1)])
        of_blocks = name == "resolve_slots" and buffer in ("rows", "runs", "bias")
        if of_blocks or (name, letter) == ("pv", "KP"):
            assert is_sentinel(written).all(), buffer  # no block is live
            continue
        assert not is_sentinel(written).any(), buffer
