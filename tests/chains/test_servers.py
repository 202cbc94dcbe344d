"""The examples for servers' engineers, as they stand, on tensors as these servers hold them."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from batches import check, same
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs.batch import Request, make_batch
from reference.batch import places

README = Path(__file__).resolve().parents[2] / "dsv4_kernels" / "chains" / "README.md"
RANK = PRESETS["FLASH"].of_rank(4)  # what is deployed: 16 heads, 2 groups
RATIOS = [0, 4, 128]

# A decode step with one draft token, a chunk of a prompt, and a graph's padding.
REQUESTS = (
    Request(301, 2, key=1), Request(2, 2, key=2), Request(590, 5, key=3), Request(0, 2),
    Request(0, 2),
)  # fmt: skip
CAPACITY = 16


def example(name):
    """The names that a block of the README defines, the one with this function."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    [block] = [block for block in blocks if f"def {name}(" in block]
    scope = {}
    exec(compile(block, str(README), "exec"), scope)
    return scope


def batch_of(ratio, seed, **options):
    """Lists with the visible slots first, then -1, as both indexers write them."""
    batch = make_batch(RANK, REQUESTS, ratio=ratio, capacity=CAPACITY, seed=seed, **options)
    if batch.cmp_indices is None:
        return batch
    found = places(batch.query_start_loc, batch.seq_lens, CAPACITY)
    lists = torch.full_like(batch.cmp_indices, -1)
    for t, (_, p) in enumerate(found):
        row = batch.cmp_indices[t]
        seen = row[(row >= 0) & (row < (p + 1) // 4)].unique()
        lists[t, : len(seen)] = seen.flip(0)
    return dataclasses.replace(batch, cmp_indices=lists)


def filled(table, lengths, B, ratio, entry):
    """A table with this entry wherever no page of a request is."""
    pages = [-(-(max(n, 0) // ratio) // B) for n in lengths.tolist()]
    used = torch.arange(table.shape[1]) < torch.tensor(pages)[:, None]
    return torch.where(used, table, entry).int()


def within(value, rows, columns):
    """The same as a slice of a longer and wider buffer that persists."""
    whole = torch.full((value.shape[0] + rows, value.shape[1] + columns), 7, dtype=value.dtype)
    whole[: value.shape[0], : value.shape[1]] = value
    return whole[: value.shape[0], : value.shape[1]]


def tables_of(batch, sizes, entry):
    made = []
    for pool, B, ratio in (("ori", sizes[0], 1), ("cmp", sizes[1], batch.compress_ratio)):
        table = getattr(batch, f"{pool}_block_table")
        if table is not None:
            table = filled(table, batch.seq_lens, B, ratio, entry)
        made.append(table)
    return made


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_call_inside_vllm_ascend(ratio, seed):
    """Pads are page 0, which is somebody's; pages have gaps; tables are slices of wider ones."""
    batch = batch_of(ratio, seed, page_sizes=(32, 32), gap=584)
    want = check(batch, torch.device("cpu"))
    swa, common = (None if t is None else within(t, 3, 5) for t in tables_of(batch, (32, 32), 0))
    assert swa is not None
    assert swa.stride(0) > swa.shape[1]
    assert batch.ori_kv.shape[1:] == (32, 1, 512)
    assert batch.ori_kv.stride() == (32 * 512 + 584, 512, 512, 1)
    lists = None if batch.cmp_indices is None else batch.cmp_indices.unsqueeze(1)
    loc, lens = torch.full((40,), 9, dtype=torch.int32), torch.full((40,), 9, dtype=torch.int32)
    loc[:6], lens[:5] = batch.query_start_loc, batch.seq_lens
    cos, sin = (getattr(batch, f"rope_{f}")[:, None, None] for f in ("cos", "sin"))
    assert (cos.shape, cos.dtype) == ((CAPACITY, 1, 1, 64), torch.float32)

    scope = example("forward_vllm_ascend")
    oproj = scope["load_vllm_ascend"](
        batch.wo_a.transpose(1, 2).contiguous(), batch.wo_b.T.contiguous(), batch.wo_b_scale,
        torch.zeros_like(batch.wo_b_scale), batch.attn_sink,
    )  # fmt: skip
    output = torch.full_like(want, torch.nan)
    scope["forward_vllm_ascend"](
        batch.q, batch.ori_kv, swa, batch.cmp_kv, common, lists, loc[:6], lens[:5], cos, sin,
        oproj, output, ratio,
    )  # fmt: skip
    assert same(output, want)


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_call_inside_sglang(ratio, seed):
    """Tables hold -1, lengths of padded requests are clamped, cos and sin are bf16."""
    batch = batch_of(ratio, seed, page_sizes=(128, 32))
    short = {name: getattr(batch, name).bfloat16() for name in ("rope_cos", "rope_sin")}
    batch = dataclasses.replace(batch, **short)
    want = check(batch, torch.device("cpu"))
    swa, cmp = tables_of(batch, (128, 32), -1)
    assert batch.ori_kv.is_contiguous()
    cos, sin = (short[f"rope_{f}"].view(CAPACITY, 1, 1, 64) for f in ("cos", "sin"))
    G, R, J = batch.wo_a.shape
    output = torch.full_like(want, torch.nan)
    example("forward_sglang")["forward_sglang"](
        batch.q, batch.ori_kv, swa, batch.cmp_kv, cmp, batch.cmp_indices, batch.query_start_loc,
        batch.seq_lens.clamp(min=1), batch.attn_sink, cos, sin, batch.wo_a.view(G * R, J),
        batch.wo_b, batch.wo_b_scale[:, None], G, output, ratio,
    )  # fmt: skip
    assert same(output, want)
    assert not output[9:].view(torch.int16).any()
