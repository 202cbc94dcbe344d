"""gather_kv: the rows it is told, byte by byte, in whatever runs; nothing outside of a pool."""

import dataclasses

import pytest
import torch

from adversary import SMALL, adversarial_inputs
from against import check_segment, run_kernel
from dsv4_kernels import ContractError, gather_kv
from dsv4_kernels.device import Target
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments import SEGMENTS
from dsv4_kernels.segments.gather_kv import GatherKvTiles
from poison import is_sentinel
from segments.test_resolve_slots import named_rows, slots

T, C = 6, 16


def pools(generator, device, ori=5, cmp=9):
    """Pages of one row: rows 0..4, 6..11 and 13..21 by number. NaN lies before and behind each."""

    def normal(rows, *shape):
        whole = torch.full((16 + rows + 16, *shape), torch.nan, dtype=torch.bfloat16)
        whole[16 : 16 + rows] = torch.randn(rows, *shape, generator=generator)
        return whole.to(device)[16 : 16 + rows]

    return {"ori_kv": normal(ori, 1, C), "kv_overlay": normal(T, C), "cmp_kv": normal(cmp, 1, C)}


def told(pools, rows, runs, live_blocks=1):
    """A call for one tile; columns that are not named are dead, in one piece."""
    KP = -(-len(rows) // 128) * 128
    numbers = {
        "rows": [[*rows, *[-1] * (KP - len(rows))]],
        "runs": [[*runs, *[16] * (KP // 16 - len(runs))]],
        "live_blocks": [live_blocks],
    }
    device = pools["kv_overlay"].device
    int32 = {k: torch.tensor(v, dtype=torch.int32, device=device) for k, v in numbers.items()}
    return pools | int32


@pytest.mark.parametrize(
    ("T", "K", "num_tokens"),
    [(9, 133, 8), (1, 1, 1), (5, 128, 0), (6, 129, 6), (3, 257, 1), (0, 5, 0)],
)
def test_bytes(T, K, num_tokens, generator, device, poison):
    """Behind resolve_slots, by the words of the raw contract."""
    inputs = adversarial_inputs(T=T, K=K, num_tokens=num_tokens, generator=generator, device=device)
    got = check_segment("gather_kv", resolved(inputs, poison), poison)["kv"]
    for t in range(T):
        for k, named in enumerate(named_rows(inputs, t)):
            want = 0 if named is None else getattr(inputs, named[0]).flatten(0, -2)[named[1]]
            assert torch.equal(got[t, k], torch.zeros_like(got[t, k]) + want), (t, k, named)


def resolved(inputs, poison, **changes):
    """What resolve_slots hands over."""
    made = run_kernel("resolve_slots", slots(inputs, **changes), poison)
    pools = {name: getattr(inputs, name) for name in ("ori_kv", "kv_overlay", "cmp_kv")}
    return pools | {name: made[name] for name in ("rows", "runs", "live_blocks")}


@pytest.mark.parametrize("K", [133, 160, 190])
@pytest.mark.parametrize("block_k", [16, 128])
def test_a_tail_behind_a_block(block_k, K, generator, device, poison):
    inputs = adversarial_inputs(T=9, K=K, num_tokens=8, generator=generator, device=device)
    told = resolved(inputs, poison, tail=16)
    check_segment("gather_kv", told, poison, tiles=GatherKvTiles(block_k=block_k))


@pytest.mark.parametrize("page_rows", [1, 12, 128])
def test_any_page_size(page_rows, generator, device, poison):
    dims = dataclasses.replace(SMALL, page_rows=page_rows)
    inputs = adversarial_inputs(
        dims, ori_entries=-(-24 // page_rows), generator=generator, device=device
    )
    check_segment("gather_kv", resolved(inputs, poison), poison)


@pytest.mark.parametrize(("ori_entries", "cmp_entries"), [(0, 3), (2, 0), (0, 0)])
def test_empty_pools(ori_entries, cmp_entries, generator, device, poison):
    inputs = adversarial_inputs(
        ori_entries=ori_entries, cmp_entries=cmp_entries, generator=generator, device=device
    )
    check_segment("gather_kv", resolved(inputs, poison), poison)


@pytest.mark.parametrize("block_k", [16, 32])
def test_tiles_change_no_byte(block_k, generator, device, poison):
    inputs = resolved(adversarial_inputs(generator=generator, device=device), poison)
    check_segment("gather_kv", inputs, poison, tiles=GatherKvTiles(block_k=block_k))


@pytest.mark.parametrize("first", range(1, 16))
def test_a_run_of_two_pieces_wherever_it_breaks(first, generator, device, poison):
    """Both pieces, the first from the compressed pool, the second from the ring."""
    compressed = 16 + 1 + T + 1
    rows = [*range(compressed, compressed + first), *range(16 - first)]
    inputs = told(pools(generator, device, ori=16, cmp=16), rows, [first])
    check_segment("gather_kv", inputs, poison)


@pytest.mark.parametrize(("mark", "means"), [(99, 16), (2**31 - 1, 16), (-7, 0)])
def test_a_mark_outside_of_a_run_is_the_nearest_inside(mark, means, generator, device, poison):
    """Sixteen rows at the pool's very end: what a longer piece held would lie beside it."""
    some = pools(generator, device, ori=16)
    want = run_kernel("gather_kv", told(some, range(16), [means]), poison)["kv"]
    got = run_kernel("gather_kv", told(some, range(16), [mark]), poison)["kv"]
    assert torch.equal(got, want)
    assert torch.equal(got[0, :16], some["ori_kv"][:, 0])


@pytest.mark.parametrize("live_blocks", [-3, 0, 1, 2, 5])
def test_only_live_blocks_are_touched(live_blocks, generator, device, poison):
    """A count beyond the columns is all of them."""
    inputs = told(pools(generator, device), [2] * 256, [0] * 16, live_blocks)
    got = run_kernel("gather_kv", inputs, poison)["kv"]
    end = 128 * min(max(live_blocks, 0), 2)
    assert not is_sentinel(got[:, :end]).any()
    assert is_sentinel(got[:, end:]).all()


@pytest.mark.parametrize("row", [-(2**31), -2, 5, 12, 22, 2**31 - 1])
@pytest.mark.parametrize("run", [0, 16, -7, 99])
def test_a_row_of_no_pool_is_dead(row, run, generator, device, poison):
    inputs = told(pools(generator, device), [row] * 16, [run])
    got = run_kernel("gather_kv", inputs, poison)["kv"]
    assert (got == 0).all()


def test_a_run_past_the_end_of_its_pool_is_dead(generator, device, poison):
    """Sixteen rows where the ring has five: no row beside it is read."""
    inputs = told(pools(generator, device), range(16), [16])
    assert (run_kernel("gather_kv", inputs, poison)["kv"] == 0).all()


def test_a_pool_of_more_elements_than_int32_counts(device, seed, poison):
    """4 GiB of addresses, of which one page is ever touched."""
    inputs = make_inputs(SMALL, tokens=1, start=100, seed=seed, device=device)
    B, C = SMALL.page_rows, SMALL.head_dim
    last = 2**31 // (B * C)
    cmp_kv = torch.empty(last + 1, B, C, dtype=torch.bfloat16, device=device)
    cmp_kv[last] = inputs.cmp_kv[0]
    inputs = dataclasses.replace(
        inputs,
        cmp_kv=cmp_kv,
        cmp_block_table=torch.tensor([last], dtype=torch.int32, device=device),
        cmp_sparse_indices=SMALL.window + 1 + torch.arange(B, device=device).int()[None],
        cmp_sparse_lens=torch.tensor([B], dtype=torch.int32, device=device),
    )
    got = check_segment("gather_kv", resolved(inputs, poison), poison)["kv"]
    assert torch.equal(got[0, :B], cmp_kv[last])


def arena(pages, B, stride, generator, device):
    """A pool in the midst of other memory, all of it NaN."""
    memory = torch.full((3 + pages * stride,), torch.nan, dtype=torch.bfloat16, device=device)
    pool = memory[3 if device.type != "cuda" else 0 :].as_strided((pages, B, C), (stride, C, 1))
    return pool.copy_(torch.randn(pages, B, C, generator=generator).bfloat16())


@pytest.mark.parametrize("extra", [1, 7, 8, C - 1, C, C + 1, 5 * C + 3])
def test_pages_lie_any_number_of_elements_apart(extra, generator, device, poison):
    """Each pool with pages and strides of its own; runs are of rows of a page. A page of 5 rows
    takes 6 numbers, so the overlay begins at 4 * 6 - 1 + 1 and the compressed pool T + 1 later."""
    extra *= 8 if device.type == "cuda" else 1
    pools = {
        "ori_kv": arena(4, 5, 5 * C + extra, generator, device),
        "kv_overlay": torch.randn(T, C, generator=generator).bfloat16().to(device),
        "cmp_kv": arena(3, 16, 16 * C + 8 * extra, generator, device),
    }
    compressed = 24 + T + 1
    rows = [
        *range(18, 23), *range(6, 11), -1, *range(24, 24 + 5),  # one by one
        *range(compressed + 34, compressed + 50),  # in one piece: the last page
        *range(compressed + 20, compressed + 33), 4, 3, 2,
        *range(compressed + 17, compressed + 28), *range(5),  # in two
    ]  # fmt: skip
    got = check_segment("gather_kv", told(pools, rows, [0, 16, 0, 11]), poison)["kv"][0]
    assert not got.isnan().any()
    assert torch.equal(got[:5], pools["ori_kv"][3])
    assert torch.equal(got[16:32], pools["cmp_kv"][2])
    assert torch.equal(got[48:59], pools["cmp_kv"][1, :11])


def test_no_row_behind_the_last_page_is_read(generator, device, poison):
    """The last page takes no number more than it has rows."""
    stride = 5 * C + 8
    pools = {
        "ori_kv": arena(2, 5, stride, generator, device),
        "kv_overlay": torch.randn(T, C, generator=generator).bfloat16().to(device),
        "cmp_kv": arena(2, 5, stride, generator, device),
    }
    compressed = 12 + T + 1
    inputs = told(pools, [11, compressed + 11] * 8, [0])
    assert (run_kernel("gather_kv", inputs, poison)["kv"] == 0).all()
    for first in (10, compressed + 10):
        inputs = told(pools, range(first, first + 16), [2])
        assert (run_kernel("gather_kv", inputs, poison)["kv"][0, :2] == 0).all()


def test_a_gpu_s_pages_are_whole_loads_apart(generator):
    """What it takes of a row at once is 16 bytes; Ascend and a CPU take pages as they lie."""
    cpu = torch.device("cpu")
    pools = {
        "ori_kv": arena(2, 5, 5 * C + 8, generator, cpu),
        "kv_overlay": torch.zeros(T, C, dtype=torch.bfloat16),
        "cmp_kv": arena(2, 5, 5 * C + 4, generator, cpu),
    }
    segment = SEGMENTS["gather_kv"]
    contract, _ = segment.checked(told(pools, [0], [16]))

    def refusal(kind):
        try:
            segment.launch(contract, Target(kind, kind, 24, 48), GatherKvTiles())
        except ContractError as error:
            return str(error)
        return ""

    assert refusal("npu") == refusal("cpu") == ""
    assert "`cmp_kv` must be pages whole 8-element blocks apart" in refusal("cuda")


def test_a_page_may_end_past_what_int32_counts(device, poison, generator):
    """Four pages over 4 GiB of addresses, of which a few rows are ever touched."""
    stride = 2**30 + 8
    memory = torch.empty(2 * stride + 5 * C, dtype=torch.bfloat16, device=device)
    pool = memory.as_strided((3, 5, C), (stride, C, 1))
    pool[2] = torch.randn(5, C, generator=generator).bfloat16()
    pools = {"ori_kv": pool, "kv_overlay": pool[2], "cmp_kv": pool}
    rows = [*range(12, 17), 17 + 1 + 5 + 1 + 16]
    got = run_kernel("gather_kv", told(pools, rows, [0]), poison)["kv"][0]
    assert torch.equal(got[:5], pool[2])
    assert torch.equal(got[5], pool[2, 4])


def test_flash_size(device, seed, poison):
    from dsv4_kernels.dims import PRESETS

    inputs = make_inputs(PRESETS["FLASH"], tokens=16, start=5000, seed=seed, device=device)
    check_segment("gather_kv", resolved(inputs, poison), poison)


def test_output_given_is_used(generator, device, poison):
    inputs = told(pools(generator, device), [0, 6, 13], [0])
    kv = poison.tensor(1, 128, C, dtype=torch.bfloat16)
    assert gather_kv(**inputs, kv=kv) is kv
    assert torch.equal(kv, run_kernel("gather_kv", inputs, poison)["kv"])
