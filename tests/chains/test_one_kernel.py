"""Attention in one kernel: who gets it, by which entry, and what it does without. The laws that it
shares with lanes are in test_attention_forms.py."""

import pytest
import torch

from adversary import SMALL, adversarial_inputs
from against import chain
from batches import run, same
from dsv4_kernels import (
    ContractError,
    PrefillSparseAttn,
    SparseAttn,
    prefill_sparse_attn,
    prefill_sparse_attn_heads,
)
from dsv4_kernels.chains.attention import DEFAULTS, FORMS, form_of, forms_on
from dsv4_kernels.device import Target, route
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates.chunk import meta_batch, meta_inputs
from dsv4_kernels.inputs.batch import Request, make_batch
from dsv4_kernels.inputs.prefill import make_inputs
from reference.batch import as_raw

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


def test_sharers_change_no_byte(device, seed):
    """Each column of a tile names one row: of the chunk's own tokens, whose number is its place."""
    inputs = make_inputs(SMALL, tokens=16, start=0, seed=seed, device=device)
    own = torch.arange(inputs.cmp_sparse_indices.shape[1], device=device)
    inputs.cmp_sparse_indices[:] = torch.where(own < 16, inputs.window + own, -1).int()
    inputs.cmp_sparse_lens[:] = torch.arange(1, 17, device=device).int()
    assert torch.equal(chain(inputs, **ONE, sharers=4), chain(inputs, **ONE))


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
    kv, o, m_and_l = 128 * 640 * 1024, 128 * 5 * 64 * 2048, 2 * 128 * 5 * 64 * 4
    assert sizes["fused"] - sizes["one_kernel"] == kv + o + m_and_l


def test_ascend_refuses_it_before_anything_is_launched():
    said = (
        r"^prefill_sparse_attn: `attention` must be one of fused, lanes, separate_tail here "
        r"\(an Ascend cube hands o to a vector core at every step of an online softmax\), "
        r"got 'one_kernel'$"
    )
    with pytest.raises(ContractError, match=said):
        nodes_on("npu", **ONE)


def test_the_forms_of_a_family():
    assert forms_on("cuda") == forms_on("cpu") == [*FORMS]
    assert forms_on("npu") == ["fused", "lanes", "separate_tail"]


@pytest.mark.parametrize(("kind", "columns"), [("cuda", 256), ("npu", 144), ("cpu", 144)])
def test_lanes_take_whole_blocks_on_cuda(kind, columns):
    """A chunk's 135 columns and a batch's; a block and a tail do not fit its shared memory."""
    dims = PRESETS["FLASH"]
    with routed(kind):
        chunk = PrefillSparseAttn(
            **meta_inputs(dims, 128, 135), window=128, attention="lanes", sharers=8
        )
        batch = SparseAttn(
            **meta_batch(dims, 16, 2, "SWA"), compress_ratio=0, attention="lanes", sharers=8
        )
    assert [plan._plan._sizes["KP"] for plan in (chunk, batch)] == [columns] * 2


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
