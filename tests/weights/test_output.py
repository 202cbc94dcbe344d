"""From a checkpoint to an output: the steps of the README, and weights down to -128."""

import dataclasses

import pytest
import torch

import reference
from adversary import SMALL
from checkpoints import write
from dsv4_kernels import prefill_sparse_attn, weights
from dsv4_kernels.inputs.prefill import make_inputs
from reference import bounds


@pytest.mark.parametrize("second", ["int8", "bf16"])
def test_from_a_checkpoint_to_an_output(second, device, seed, generator, tmp_path):
    inputs = make_inputs(SMALL, tokens=6, start=40, seed=seed)
    G, R, J = inputs.wo_a.shape
    prefix = "model.layers.3.self_attn"
    tensors = {
        f"{prefix}.o_a_proj.weight": inputs.wo_a.reshape(G * R, J),
        f"{prefix}.sinks": inputs.attn_sink,
    }
    if second == "int8":
        inputs.wo_b[::3, ::5] = -128
        tensors[f"{prefix}.o_b_proj.weight"] = inputs.wo_b
        tensors[f"{prefix}.o_b_proj.weight_scale"] = inputs.wo_b_scale[:, None]
    else:
        dense = torch.randn(inputs.wo_b.shape, generator=generator) * (G * R) ** -0.5
        tensors[f"{prefix}.o_b_proj.weight"] = dense.bfloat16()
        wo_b, wo_b_scale = weights.quantise_rows(dense.bfloat16().float())
        inputs = dataclasses.replace(inputs, wo_b=wo_b, wo_b_scale=wo_b_scale)
    write(tmp_path, tensors, config={"o_groups": G, "num_attention_heads": SMALL.heads})

    w = weights.load(tmp_path, layer=3).oproj.to(device)
    names = ("wo_a", "wo_b", "wo_b_scale", "attn_sink")
    loaded = dataclasses.replace(inputs.to(device), **{name: getattr(w, name) for name in names})
    got = prefill_sparse_attn(*loaded.args(), window=loaded.window)

    direct = inputs.to(device)
    assert torch.equal(got, prefill_sparse_attn(*direct.args(), window=direct.window))
    want = reference.prefill_segments(*inputs.args(), window=inputs.window)["attn_out"]
    assert bounds.relative_l2(got, want) <= bounds.CHAIN_REL_L2
