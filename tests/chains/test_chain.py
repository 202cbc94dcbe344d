"""The whole chain: sizes, layer kinds, waves, dead memory, invariance, live NaN."""

import dataclasses

import pytest
import torch

import reference
from adversary import INT32_MAX, INT32_MIN, SMALL, adversarial_inputs, healed, live_row
from against import chain, check_hand_overs, full_widths
from dsv4_kernels import PrefillSparseAttn
from dsv4_kernels.buffers import BUFFERS
from dsv4_kernels.dims import PRESETS, Dims
from dsv4_kernels.inputs.prefill import PrefillInputs, make_inputs
from poison import Poison, is_sentinel
from reference.bounds import CHAIN_REL_L2, ORACLE_REL_L2, relative_l2


def poisoned_chain(inputs: PrefillInputs, poison: Poison, **options) -> torch.Tensor:
    """The chain with its output and its whole workspace poisoned; all of the output is written."""
    with poison.allocations():
        out = chain(inputs, **options)
    assert not is_sentinel(out).any()
    return out


def check_chain(inputs: PrefillInputs, oracle: bool = True) -> torch.Tensor:
    """Against the chain's reference, element by element, and the fp64 oracle."""
    out = check_hand_overs(inputs)
    assert (out[inputs.num_tokens :] == 0).all()
    if oracle:
        on_cpu = inputs.to("cpu")
        exact = reference.oracle(*on_cpu.args(), window=inputs.window)
        assert relative_l2(out, exact) <= ORACLE_REL_L2
    return out


@pytest.mark.parametrize("layer", ["SWA", "CSA", "HCA"])
def test_flash_size(layer, device, seed):
    inputs = make_inputs(
        PRESETS["FLASH"], layer=layer, tokens=128, start=4000, seed=seed, device=device
    )
    check_chain(inputs, oracle=False)


def test_pro_widths(device):
    inputs = full_widths("PRO", device)
    assert inputs.cmp_sparse_indices.shape[1] == 1152
    check_chain(inputs)


def test_no_tolerance_is_twice_as_wide_as_it_must_be(device):
    """At full widths: where codes are few, it is chance whether one flips."""
    inputs = full_widths("FLASH", device)
    out, arguments = chain(inputs), inputs.to("cpu").args()
    for of, tolerance in (
        (reference.prefill_sparse_attn, CHAIN_REL_L2),
        (reference.oracle, ORACLE_REL_L2),
    ):
        found = relative_l2(out, of(*arguments, window=inputs.window))
        assert tolerance / 2 < found <= tolerance


@pytest.mark.parametrize("num_tokens", [0, 1, 127, 128])
def test_num_tokens(num_tokens, device, seed):
    inputs = make_inputs(SMALL, tokens=num_tokens, capacity=128, start=77, seed=seed, device=device)
    check_chain(inputs)


@pytest.mark.parametrize("T", [1, 5, 200, 1000])
def test_any_chunk_length(T, device, seed):
    check_chain(make_inputs(SMALL, tokens=T, start=300, seed=seed, device=device))


def test_an_empty_chunk(device, seed):
    out = chain(make_inputs(SMALL, tokens=0, seed=seed, device=device))
    assert out.shape == (0, SMALL.hidden)


@pytest.mark.parametrize("K", [1, 133, 192, 1152])
def test_any_number_of_columns(K, generator, device):
    inputs = adversarial_inputs(
        T=6, K=K, cmp_entries=80, num_tokens=6, generator=generator, device=device
    )
    check_chain(inputs)


@pytest.mark.parametrize(
    ("H", "G", "C", "R", "D"),
    [(8, 2, 64, 40, 72), (16, 4, 32, 64, 7168), (64, 8, 128, 24, 100), (128, 16, 16, 33, 130)],
)
@pytest.mark.parametrize("start", [0, 40])
def test_any_heads_groups_and_widths(H, G, C, R, D, start, device, seed):
    dims = dataclasses.replace(
        SMALL, heads=H, groups=G, head_dim=C, o_lora_rank=R, hidden=D
    )  # fmt: skip
    check_chain(make_inputs(dims, tokens=7, start=start, seed=seed, device=device))


@pytest.mark.parametrize("layer", ["SWA", "CSA", "HCA"])
@pytest.mark.parametrize("start", [0, 5, 23, 24, 1000])
def test_layers_and_starts(layer, start, device, seed):
    """The ring empty, partly filled, just full and wrapped; fewer tokens than the window."""
    check_chain(make_inputs(SMALL, layer=layer, tokens=9, start=start, seed=seed, device=device))


@pytest.mark.parametrize("layer", ["SWA", "CSA", "HCA"])
def test_the_last_positions_of_the_context(layer, device, seed):
    start = 2**20 - 3
    check_chain(make_inputs(SMALL, layer=layer, tokens=3, start=start, seed=seed, device=device))


def test_dead_memory_and_workspace_of_nan_change_no_byte(generator, device, poison):
    """Every dead page, row and table column is NaN here already; compare with numbers there."""
    inputs = adversarial_inputs(T=9, num_tokens=6, generator=generator, device=device)
    got = poisoned_chain(inputs, poison)
    assert got.isfinite().all()
    clean = healed(inputs)
    assert torch.equal(got, chain(clean))
    check_chain(clean)


def test_rows_without_live_slots_are_exact_zeros(device, seed, poison):
    inputs = make_inputs(SMALL, tokens=5, start=100, seed=seed, device=device)
    inputs.cmp_sparse_lens[1] = 0
    inputs.cmp_sparse_indices[3] = -1
    inputs.q[1], inputs.q[3] = torch.nan, torch.inf
    got = poisoned_chain(inputs, poison)
    assert (got[[1, 3]] == 0).all()
    assert (got[[0, 2, 4]].abs().amax(1) > 0).all()
    assert got.isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("weight", ["wo_a", "wo_b_scale"])
@pytest.mark.parametrize("schedule", ["decoupled", "row_barrier"])
@pytest.mark.parametrize("wave_tokens", [3, 128])
def test_dead_rows_are_exact_zeros_whatever_the_weights_hold(
    wave_tokens, schedule, weight, bad, device, seed
):
    """Behind the last live token of a wave, in waves without one, and where no slot is live."""
    inputs = make_inputs(SMALL, tokens=5, capacity=9, start=100, seed=seed, device=device)
    inputs.cmp_sparse_lens[1] = 0
    getattr(inputs, weight)[:] = bad
    got = chain(inputs, schedule=schedule, wave_tokens=wave_tokens)
    assert not got[[1, 5, 6, 7, 8]].view(torch.int16).any()
    assert not got[[0, 2, 3, 4]].isfinite().any()


@pytest.mark.parametrize("wave_tokens", [2, 128])
def test_dead_tokens_are_zeros_whatever_they_name(wave_tokens, device, seed, poison):
    inputs = make_inputs(SMALL, tokens=9, start=100, seed=seed, device=device)
    dead = dataclasses.replace(inputs, num_tokens=5)
    got = poisoned_chain(dead, poison, wave_tokens=wave_tokens)
    assert (got[5:] == 0).all()
    assert (got[:5].abs().amax(1) > 0).all()


@pytest.mark.parametrize("extreme", [INT32_MIN, -1, INT32_MAX, INT32_MAX - 1])
def test_extreme_indices_are_dead(extreme, device, seed, poison):
    inputs = make_inputs(SMALL, tokens=3, start=100, seed=seed, device=device)
    want = chain(dataclasses.replace(inputs, cmp_sparse_lens=inputs.cmp_sparse_lens - 1))
    for t in range(3):
        inputs.cmp_sparse_indices[t, int(inputs.cmp_sparse_lens[t]) - 1] = extreme
    assert torch.equal(poisoned_chain(inputs, poison), want)


@pytest.mark.parametrize("entry", [-1, INT32_MIN, INT32_MAX, 5])
def test_pages_outside_of_the_pool_are_dead(entry, device, seed, poison):
    inputs = make_inputs(SMALL, tokens=3, start=100, seed=seed, device=device)
    inputs.cmp_block_table[:] = entry if entry != 5 else inputs.cmp_kv.shape[0]
    window_only = inputs.cmp_sparse_lens.clamp(max=SMALL.window)
    want = chain(dataclasses.replace(inputs, cmp_sparse_lens=window_only))
    assert torch.equal(poisoned_chain(inputs, poison), want)


@pytest.mark.parametrize("wave_tokens", [1, 7, 128, 10**6])
def test_the_wave_changes_no_byte(wave_tokens, generator, device, poison):
    inputs = adversarial_inputs(T=20, num_tokens=18, generator=generator, device=device)
    assert torch.equal(
        poisoned_chain(inputs, poison, wave_tokens=wave_tokens), chain(inputs, wave_tokens=20)
    )


def test_scratch_grows_by_two_numbers_a_token(device, seed):
    """The workspace is a wave's; only two counts are the chunk's."""

    def workspace_bytes(T: int, waves_in_flight: int) -> int:
        seen: dict[int, int] = {}

        def executor(nodes, waves):
            for buffers in waves:
                for name, buffer in buffers.items():
                    if name in BUFFERS and BUFFERS[name].lifetime in ("wave", "chunk"):
                        seen[buffer.untyped_storage().data_ptr()] = (
                            buffer.untyped_storage().nbytes()
                        )

        inputs = make_inputs(SMALL, tokens=T, seed=seed, device=device)
        plan = PrefillSparseAttn(
            *inputs.args(), window=inputs.window, wave_tokens=16, executor=executor,
            waves_in_flight=waves_in_flight,
        )  # fmt: skip
        plan.run(*inputs.args())
        assert plan.workspace_bytes == sum(seen.values())
        return plan.workspace_bytes

    of_a_wave = workspace_bytes(16, 1) - 16 * 8
    assert workspace_bytes(160, 1) == of_a_wave + 160 * 8 > 160 * 8
    assert workspace_bytes(160, 2) == 2 * of_a_wave + 160 * 8
    assert workspace_bytes(16, 2) == workspace_bytes(16, 1)  # a second wave that there is not


def test_page_permutation_does_not_matter(device, seed):
    inputs = make_inputs(SMALL, tokens=6, start=200, seed=seed, device=device)
    want = chain(inputs)
    for pool, table in [("ori_kv", "ori_block_table"), ("cmp_kv", "cmp_block_table")]:
        pages = getattr(inputs, pool)
        order = torch.arange(len(pages) - 1, -1, -1, device=device)
        changed = {pool: pages[order].contiguous(), table: order[getattr(inputs, table)].int()}
        assert torch.equal(chain(dataclasses.replace(inputs, **changed)), want)


def test_slot_order_matters_for_rounding_only(generator, device, seed):
    inputs = make_inputs(SMALL, tokens=6, start=200, seed=seed, device=device)
    want = chain(inputs)
    shuffled = inputs.cmp_sparse_indices.clone()
    for t in range(6):
        used = int(inputs.cmp_sparse_lens[t])
        shuffled[t, :used] = shuffled[t, torch.randperm(used, generator=generator)]
    got = chain(dataclasses.replace(inputs, cmp_sparse_indices=shuffled))
    assert relative_l2(got, want) <= 1e-2  # flips of bf16 P and of codes, at small widths


def test_holes_change_no_byte_within_a_block(device, seed):
    """A hole is a zero row under NEG: it adds exact zeros where it stands."""
    inputs = make_inputs(SMALL, layer="SWA", tokens=6, start=200, seed=seed, device=device)
    want = chain(inputs)
    K = inputs.cmp_sparse_indices.shape[1]
    spread = torch.full((6, 2 * K), -1, dtype=torch.int32, device=device)
    spread[:, ::2] = inputs.cmp_sparse_indices
    lens = (2 * inputs.cmp_sparse_lens).contiguous()
    got = chain(
        dataclasses.replace(inputs, cmp_sparse_indices=spread, cmp_sparse_lens=lens)
    )  # fmt: skip
    assert torch.equal(got, want)


def test_a_row_named_twice_counts_twice(device, seed):
    inputs = make_inputs(SMALL, layer="SWA", tokens=2, start=200, seed=seed, device=device)
    rows = inputs.cmp_sparse_indices
    doubled = dataclasses.replace(
        inputs,
        cmp_sparse_indices=torch.cat([rows, rows[:, :1]], dim=1).contiguous(),
        cmp_sparse_lens=inputs.cmp_sparse_lens + 1,
    )
    assert not torch.equal(chain(doubled), chain(inputs))
    check_chain(doubled)


def test_sinks_of_plus_infinity_give_zeros(device, seed):
    inputs = make_inputs(SMALL, tokens=3, start=50, seed=seed, device=device)
    inputs.attn_sink[0] = torch.inf
    check_chain(inputs)
    inputs.attn_sink.fill_(torch.inf)
    assert (check_chain(inputs) == 0).all()


def test_sinks_of_minus_infinity_are_plain_softmax(device, seed):
    inputs = make_inputs(SMALL, tokens=3, start=50, seed=seed, device=device)
    inputs.attn_sink.fill_(-torch.inf)
    low = dataclasses.replace(inputs, attn_sink=torch.full_like(inputs.attn_sink, -1e30))
    assert torch.equal(chain(inputs), chain(low))
    check_chain(inputs)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["q", "freqs_cos", "kv_overlay", "ori_kv", "cmp_kv"])
def test_a_live_nan_reaches_its_rows_and_only_them(where, bad, device, seed):
    inputs = make_inputs(SMALL, tokens=6, start=30, seed=seed, device=device)
    clean = chain(inputs)
    if where in ("q", "freqs_cos"):
        getattr(inputs, where)[2].view(-1)[0] = bad
        hit = {2}
    else:
        T, K = inputs.cmp_sparse_indices.shape
        named = {t: {live_row(inputs, t, k) for k in range(K)} for t in range(T)}
        row = next(slot[1] for slot in sorted(s for s in named[2] if s) if slot[0] == where)
        getattr(inputs, where).flatten(0, -2)[row, 5] = bad
        hit = {t for t in range(T) if (where, row) in named[t]}
    got = chain(inputs)
    for t in range(6):
        if t in hit:
            assert not got[t].isfinite().all(), t
        else:
            assert torch.equal(got[t], clean[t]), t


def test_four_dimensional_pools(device, seed):
    inputs = make_inputs(SMALL, tokens=4, start=60, seed=seed, device=device)
    want = chain(inputs)
    four = dataclasses.replace(
        inputs, ori_kv=inputs.ori_kv.unsqueeze(2), cmp_kv=inputs.cmp_kv.unsqueeze(2)
    )
    assert torch.equal(chain(four), want)


def test_out_is_written_and_returned(device, seed, poison):
    inputs = make_inputs(SMALL, tokens=4, capacity=200, start=60, seed=seed, device=device)
    out = poison.tensor(200, SMALL.hidden, dtype=torch.bfloat16)
    assert chain(inputs, out=out) is out
    assert torch.equal(out, chain(inputs))


def test_indices_past_column_384_count(device, seed):
    """The seed's kernel drops them."""
    dims = Dims(
        heads=8, head_dim=64, rope_dim=16, groups=2, o_lora_rank=40, hidden=72, window=16,
        index_topk=624, page_rows=128,
    )  # fmt: skip
    inputs = make_inputs(dims, tokens=2, start=4000, seed=seed, device=device)
    cut = dataclasses.replace(inputs, cmp_sparse_lens=inputs.cmp_sparse_lens.clamp(max=384))
    assert not torch.equal(chain(cut), chain(inputs))
    check_chain(inputs)
