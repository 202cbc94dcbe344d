"""Tiles for CUDA change no byte: on whatever device is here, against its own ones."""

import pytest
import torch

from against import FORMS
from dsv4_kernels import prefill_sparse_attn
from dsv4_kernels.dims import PRESETS, Dims
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments import SEGMENTS
from dsv4_kernels.segments.pv import PvTiles
from dsv4_kernels.segments.qk import QkTiles
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


@pytest.mark.parametrize(("heads", "columns"), [(8, 640), (16, 128), (64, 144)])
def test_lanes_have_the_rows_that_wgmma_takes(heads, columns):
    """However few a rank's heads are, of long rows and of short ones."""
    sizes = dict(X=1, H=heads, C=512, P=64, KP=columns)
    qk, pv = QkTiles.cuda(), PvTiles.cuda()
    assert [qk.rows(sizes), *qk.short_rows(sizes)] == [64] * 3
    assert [pv.widths(sizes)[0], *pv.short_widths(sizes)[:2]] == [64] * 3
