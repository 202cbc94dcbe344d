"""Tiles for CUDA change no byte: on whatever device is here, against its own ones."""

import pytest
import torch

from against import FORMS
from dsv4_kernels import prefill_sparse_attn
from dsv4_kernels.dims import PRESETS, Dims
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments import SEGMENTS
from poison import is_sentinel

# Two tasks of 64 heads, the second half empty; no width that a tile of the GEMMs divides.
UNEVEN = Dims(
    heads=96, head_dim=64, rope_dim=16, groups=6, o_lora_rank=72, hidden=200, window=32,
    index_topk=101, page_rows=16,
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS.values(), ids=[*FORMS])
@pytest.mark.parametrize(
    ("dims", "tokens"), [(PRESETS["FLASH"], 3), (UNEVEN, 70)], ids=["FLASH", "uneven"]
)
def test_cuda_tiles_change_no_byte(form, dims, tokens, seed, device, poison):
    inputs = make_inputs(dims, tokens=tokens, start=300, seed=seed, device=device)
    runs = []
    for tiles in ({}, {name: segment.tiles.cuda() for name, segment in SEGMENTS.items()}):
        with poison.allocations():
            out = prefill_sparse_attn(*inputs.args(), window=inputs.window, **form, tiles=tiles)
        assert not is_sentinel(out).any()
        runs.append(out)
    assert torch.equal(*runs)


def test_only_resolve_slots_shares_its_tiles_with_ascend():
    same = [name for name, s in SEGMENTS.items() if s.tiles.cuda() == s.tiles()]
    assert same == ["resolve_slots"]  # 128 columns are a column a thread of 4 warps
