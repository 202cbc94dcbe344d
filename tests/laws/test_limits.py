"""Sizes at which an int32 offset would be wrong, and whole chains at full length: `make limits`.

Tensors that a kernel only reads are left unwritten but for what is looked at: untouched memory
reads as zeros and takes no room. Offsets count elements, so 2**31 of them are the limit to pass.
"""

import pytest
import torch

import reference
from dsv4_kernels import (
    PrefillSparseAttn,
    dequant_sum,
    gather_kv,
    merge_norm,
    prefill_sparse_attn,
    proj_b,
    qk_softmax_pv,
    resolve_slots,
)
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments.proj_b import ProjBTiles
from reference.bounds import CHAIN_REL_L2, ORACLE_REL_L2, relative_l2
from reference.compare import compare
from reference.proj_b import proj_b as proj_b_reference

pytestmark = pytest.mark.limits

LIMIT = 2**31
C, B = 512, 128


def gathered(ori_kv, ori_block_table, kv_overlay, cmp_kv, *slots, **numbers):
    """kv of these slots."""
    rows, _, runs, live_blocks, _ = resolve_slots(
        ori_kv, ori_block_table, kv_overlay, cmp_kv, *slots, **numbers
    )
    return gather_kv(ori_kv, kv_overlay, cmp_kv, rows, runs, live_blocks)


def test_gathered_kv(generator, device):
    """T = 8192, K = 640: 2.7 G elements, the last fifth of them behind the limit."""
    T, K = 8192, 640
    overlay = torch.randn(T, C, generator=generator).bfloat16().to(device)
    raw = torch.randint(128, 128 + T, (T, K), generator=generator, dtype=torch.int32).to(device)
    pool, table = overlay.new_empty(0, B, C), raw.new_empty(0)
    lens = torch.full((T,), K, dtype=torch.int32, device=device)
    kv = gathered(pool, table, overlay, pool, table, raw, lens, T)
    first_beyond = LIMIT // (K * C)
    for t in (0, first_beyond - 1, first_beyond, first_beyond + 1, T - 1):
        assert torch.equal(kv[t], overlay[raw[t].long() - 128]), t


def test_rows_of_a_pool(generator, device):
    pages = LIMIT // (B * C) + 5
    pool = torch.empty(pages, B, C, dtype=torch.bfloat16, device=device)
    named = [0, LIMIT // (B * C) - 1, LIMIT // (B * C), pages - 1]
    for page in named:
        pool[page] = torch.randn(B, C, generator=generator).bfloat16()
    table = torch.tensor(named, dtype=torch.int32, device=device)
    overlay, empty = pool.new_zeros(1, C), table[:0]
    lens = torch.tensor([len(named) * B], dtype=torch.int32, device=device)
    slots = torch.arange(len(named) * B, dtype=torch.int32, device=device)
    compressed = gathered(pool[:0], empty, overlay, pool, table, 129 + slots[None], lens, 1)
    ring = gathered(pool, table, overlay, pool[:0], empty, slots[None], lens, 1, window=2**20)
    for kv in (compressed, ring):
        assert torch.equal(kv[0].view(len(named), B, C), pool[named])


def test_attention(generator, device):
    """q, kv and o all pass the limit."""
    N, H = LIMIT // (B * C) + 2, 128
    q = torch.empty(N, H, C, dtype=torch.bfloat16, device=device)
    kv = torch.empty(N, B, C, dtype=torch.bfloat16, device=device)
    bias = torch.zeros(N, B, device=device)
    live_blocks = torch.ones(N, dtype=torch.int32, device=device)
    looked_at = [0, N // 2, N - 2, N - 1]
    q[looked_at] = torch.randn(4, H, C, generator=generator).bfloat16().to(device)
    kv[looked_at] = torch.randn(4, B, C, generator=generator).bfloat16().to(device)
    m, l, o = (buffer[looked_at] for buffer in qk_softmax_pv(q, kv, bias, live_blocks))
    inputs = {"q": q[looked_at], "kv": kv[looked_at], "bias": bias[looked_at]}
    inputs["live_blocks"] = live_blocks[looked_at]
    for verdict in compare("qk_softmax_pv", inputs, {"m": m, "l": l, "o": o}):
        assert verdict.holds, verdict


def test_merging(generator, device):
    H, G, P = 64, 8, 64
    N = LIMIT // (H * C) + 2
    o = torch.empty(N, 1, H, C, device=device)
    m, l = torch.zeros(2, N, 1, H, device=device)
    looked_at = [0, N - 2, N - 1]
    o[looked_at] = torch.randn(3, 1, H, C, generator=generator).to(device)
    l += 2.0
    live = torch.ones(N, dtype=torch.int32, device=device)
    sink = torch.randn(H, generator=generator).to(device)
    packed, rope = merge_norm(m, l, o, live, live, sink, groups=G, rope_dim=P)
    rows = {"m": m[looked_at], "l": l[looked_at], "o": o[looked_at]}
    rows |= {"live_blocks": live[looked_at], "live_slots": live[looked_at]}
    got = {"o_packed": packed[:, looked_at], "o_rope": rope[looked_at]}
    for verdict in compare(
        "merge_norm", {**rows, "attn_sink": sink, "groups": G, "rope_dim": P}, got
    ):
        assert verdict.holds, verdict


def test_partials(generator, device):
    """Written by proj_b, read by dequant_sum."""
    G, D = 8, 4096
    N = LIMIT // (G * D) + 2
    codes = torch.randint(-127, 128, (N, G, 1), generator=generator).to(torch.int8).to(device)
    wo_b = torch.randint(-127, 128, (D, G), generator=generator).to(torch.int8).to(device)
    partial = proj_b(codes, wo_b, tiles=ProjBTiles(b_k_tile=32))  # R is 1: no use for 512
    scale = (torch.rand(G, N, generator=generator) + 0.1).to(device)
    wo_b_scale = (torch.rand(D, generator=generator) + 0.1).to(device)
    looked_at = [0, 1, N // 2, N - 2, N - 1]
    want = proj_b_reference(codes[looked_at].cpu(), wo_b.cpu())
    assert torch.equal(partial[:, looked_at].cpu(), want)
    live_slots = torch.ones(N, dtype=torch.int32, device=device)
    out = dequant_sum(partial, scale, live_slots, wo_b_scale)[looked_at]
    inputs = {
        "partial": partial[:, looked_at], "scale": scale[:, looked_at],
        "live_slots": live_slots[looked_at], "wo_b_scale": wo_b_scale,
    }  # fmt: skip
    for verdict in compare("dequant_sum", inputs, {"attn_out": out}):
        assert verdict.holds, verdict


@pytest.mark.parametrize(
    ("preset", "tokens", "start"),
    [("FLASH", 8192, 4000), ("FLASH", 128, 2**20 - 128), ("PRO", 128, 5000)],
    ids=["8192 tokens", "last positions", "PRO"],
)
def test_whole_chains(preset, tokens, start, device, seed):
    inputs = make_inputs(PRESETS[preset], tokens=tokens, start=start, seed=seed, device=device)
    out = prefill_sparse_attn(*inputs.args(), window=inputs.window)
    assert out.isfinite().all()
    step = max(1, tokens // 16)
    rows = [*range(0, tokens, step), tokens - 1]
    on_cpu = inputs.rows(rows).to("cpu")
    want = reference.prefill_sparse_attn(*on_cpu.args(), window=inputs.window)
    assert relative_l2(out[rows], want) <= CHAIN_REL_L2


def test_hca_at_a_million_tokens_in_lanes(device, seed):
    """K = 8320, rows of 65 blocks by pieces; the workspace of the wave is within 512 MiB."""
    dims = PRESETS["FLASH"]
    inputs = make_inputs(dims, layer="HCA", tokens=128, start=2**20 - 128, seed=seed, device=device)
    plan = PrefillSparseAttn(
        *inputs.args(), window=inputs.window, attention="lanes", wave_tokens=32
    )
    assert plan.workspace_bytes <= 512 * 2**20
    rows = [0, 31, 32, 127]
    out = plan.run(*inputs.args())[rows]
    on_cpu = inputs.rows(rows).to("cpu")
    exact = reference.oracle(*on_cpu.args(), window=inputs.window)
    assert relative_l2(out, exact) <= ORACLE_REL_L2
