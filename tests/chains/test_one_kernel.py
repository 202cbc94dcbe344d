"""Attention in one kernel: the chain's laws, who gets it, how near to the exact result it is."""

import dataclasses

import pytest
import torch

import reference
from adversary import SMALL, adversarial_inputs, healed
from against import chain, check_hand_overs
from batches import run, same
from dsv4_kernels import (
    ContractError,
    PrefillSparseAttn,
    prefill_sparse_attn,
    prefill_sparse_attn_heads,
)
from dsv4_kernels.chains.attention import DEFAULTS, FORMS, form_of, forms_on
from dsv4_kernels.device import Target, route
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates.chunk import meta_inputs
from dsv4_kernels.inputs.batch import Request, make_batch
from dsv4_kernels.inputs.prefill import make_inputs
from reference.batch import as_raw
from reference.bounds import ORACLE_REL_L2, relative_l2
from reference.oracle import attend

ONE = dict(attention="one_kernel")


def routed(kind):
    return route("meta", Target(kind, "a part", 20, 40), None)


def nodes_on(kind, **options):
    """The names of a plan's nodes on a family of devices, bound and not run."""
    dims = PRESETS["FLASH"]
    with routed(kind):
        ran = []

        def executor(nodes, waves):
            ran.extend(node.name for node in nodes)

        inputs = meta_inputs(dims, 4, dims.index_columns)
        dsv4 = PrefillSparseAttn(**inputs, window=dims.window, executor=executor, **options)
        dsv4.run(**inputs)
    return ran


@pytest.mark.parametrize("layer", ["SWA", "CSA", "HCA"])
def test_against_reference_and_oracle(layer, device, seed):
    inputs = make_inputs(SMALL, layer=layer, tokens=37, start=300, seed=seed, device=device)
    out = check_hand_overs(inputs, **ONE)
    exact = reference.oracle(*inputs.to("cpu").args(), window=inputs.window)
    assert relative_l2(out, exact) <= ORACLE_REL_L2


@pytest.mark.parametrize("K", [1, 133, 1152])
def test_any_number_of_columns(K, generator, device):
    inputs = adversarial_inputs(
        T=6, K=K, cmp_entries=80, num_tokens=6, generator=generator, device=device
    )
    check_hand_overs(inputs, **ONE)


@pytest.mark.parametrize("num_tokens", [0, 1, 127])
def test_num_tokens(num_tokens, device, seed):
    inputs = make_inputs(SMALL, tokens=num_tokens, capacity=128, start=77, seed=seed, device=device)
    out = check_hand_overs(inputs, **ONE)
    assert (out[num_tokens:] == 0).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_full_widths(preset, device, seed):
    inputs = make_inputs(PRESETS[preset], tokens=3, start=5000, seed=seed, device=device)
    check_hand_overs(inputs, **ONE)


@pytest.mark.parametrize("wave_tokens", [1, 7, 128])
def test_waves_and_groups_change_no_byte(wave_tokens, generator, device):
    inputs = adversarial_inputs(T=11, generator=generator, device=device)
    whole = chain(inputs, **ONE)
    cut = chain(inputs, **ONE, wave_tokens=wave_tokens, groups_per_launch=1)
    assert torch.equal(cut, whole)


def test_dead_memory_of_nan_changes_no_byte(generator, device, poison):
    inputs = adversarial_inputs(generator=generator, device=device)
    with poison.allocations():
        out = chain(inputs, **ONE)
    assert torch.equal(out, chain(healed(inputs), **ONE))
    assert (out[inputs.num_tokens :] == 0).all()


def test_sharers_change_no_byte(device, seed):
    """Each column of a tile names one row: of the chunk's own tokens, whose number is its place."""
    inputs = make_inputs(SMALL, tokens=16, start=0, seed=seed, device=device)
    own = torch.arange(inputs.cmp_sparse_indices.shape[1], device=device)
    inputs.cmp_sparse_indices[:] = torch.where(own < 16, inputs.window + own, -1).int()
    inputs.cmp_sparse_lens[:] = torch.arange(1, 17, device=device).int()
    assert torch.equal(chain(inputs, **ONE, sharers=4), chain(inputs, **ONE))


@pytest.mark.parametrize("preset", PRESETS)
def test_it_is_as_near_to_the_exact_result_as_the_fused_form(preset, device, seed):
    """Attention's output by itself, on the generator's inputs."""
    inputs = make_inputs(PRESETS[preset], tokens=4, start=5000, seed=seed, device=device)
    exact, _ = attend(*inputs.to("cpu").args()[:12], window=inputs.window)
    errors = {}
    for attention in ("fused", "one_kernel"):
        kept = {}

        def executor(nodes, waves, kept=kept):
            for node in nodes:
                node.run(waves)
            kept.update(waves[0])

        chain(inputs, attention=attention, executor=executor)
        heads = kept["o_packed"].transpose(0, 1).reshape(exact.shape)
        errors[attention] = relative_l2(heads, exact)
    assert 1e-3 < errors["one_kernel"] < 1.1 * errors["fused"]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["q", "kv_overlay", "freqs_cos"])
def test_a_live_nan_reaches_its_rows_and_only_them(where, bad, device, seed):
    inputs = make_inputs(SMALL, tokens=12, start=50, seed=seed, device=device)
    want = chain(inputs, **ONE)
    hurt = dataclasses.replace(inputs, **{where: getattr(inputs, where).clone()})
    getattr(hurt, where)[11, ..., 0] = bad  # the last token's own row, which no other one sees
    got = chain(hurt, **ONE)
    assert not got[11].isfinite().all()
    assert torch.equal(got[:11], want[:11])


# -- who gets it


def test_it_is_the_default_on_cuda_alone():
    assert nodes_on("cuda")[:3] == ["resolve_slots", "attend_rows", "proj_a"]
    assert nodes_on("cuda", attention="fused")[1] == "gather_kv"
    for kind in ("npu", "cpu"):
        assert nodes_on(kind) == nodes_on(kind, attention="fused")
    assert "attend_rows" in nodes_on("cpu", **ONE)


def test_nothing_of_kv_or_by_block_is_in_its_workspace():
    sizes = {}
    for attention in ("fused", "one_kernel"):
        with routed("cuda"):
            inputs = meta_inputs(PRESETS["FLASH"], 128, 640)
            plan = PrefillSparseAttn(**inputs, window=128, attention=attention)
            sizes[attention] = plan._plan.workspace_bytes
    kv, o, m_and_l, o_rope = 128 * 640 * 1024, 128 * 5 * 64 * 2048, 2 * 128 * 5 * 64 * 4, 2**21
    assert sizes["fused"] - sizes["one_kernel"] == kv + o + m_and_l + o_rope


def test_ascend_refuses_it_before_anything_is_launched():
    said = (
        r"^prefill_sparse_attn: `attention` must be one of fused, lanes here \(an Ascend cube "
        r"hands o to a vector core at every step of an online softmax\), got 'one_kernel'$"
    )
    with pytest.raises(ContractError, match=said):
        nodes_on("npu", **ONE)


def test_the_forms_of_a_family():
    assert forms_on("cuda") == forms_on("cpu") == [*FORMS]
    assert forms_on("npu") == ["fused", "lanes"]


def test_a_form_is_checked_by_the_device_of_the_queries():
    q = torch.empty(1, device="meta")
    with routed("cuda"):
        assert form_of("op", None, q) == "one_kernel"
        assert form_of("op", "lanes", q) == "lanes"
    assert form_of("op", None, q) == "fused"
    assert form_of("op", None, "no tensor") == "fused"


def test_entries_and_halves_take_the_form_of_their_device(generator, device, monkeypatch):
    """So halves give the bytes of the whole chain there too."""
    inputs = adversarial_inputs(T=6, K=300, cmp_entries=80, generator=generator, device=device)
    groups, window = inputs.wo_a.shape[0], inputs.window
    kept = {}

    def executor(nodes, waves):
        for node in nodes:
            node.run(waves)
        kept.update(waves[0])

    chain(inputs, **ONE, executor=executor)
    monkeypatch.setitem(DEFAULTS, device.type, "one_kernel")
    o_packed, _ = prefill_sparse_attn_heads(*inputs.args()[:12], groups=groups, window=window)
    assert torch.equal(o_packed, kept["o_packed"])
    fused = chain(inputs, attention="fused")
    assert torch.equal(chain(inputs), chain(inputs, **ONE))
    assert not torch.equal(chain(inputs), fused)


@pytest.mark.parametrize("ratio", [0, 4])
def test_a_server_s_batch(ratio, device, seed):
    """The other entry, its resolver, and both layouts of its RoPE tables."""
    requests = (Request(130, 5, key=1), Request(40, 3, key=2))
    batch = make_batch(SMALL, requests, ratio=ratio, seed=seed)
    got = run(batch, device, **ONE)
    arguments, window = as_raw(*batch.args(), **batch.options())
    on_device = [x.to(device) if isinstance(x, torch.Tensor) else x for x in arguments]
    want = prefill_sparse_attn(*on_device, window=window, **ONE).cpu()
    assert same(got, want)
    assert same(run(batch, device, **ONE, wave_tokens=2), got)
