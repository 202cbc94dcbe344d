"""Spellings of tensors, by hand."""

import pytest

from dsv4_kernels.contract import Contract, ContractError
from dsv4_kernels.weights.names import LayerNames, layer_names

PREFIXES = {
    "layers.3.attn": "layers.3",
    "mtp.1.attn": "mtp.1",
    "model.layers.12.self_attn": "layers.12",
    "model.layers.12.attn": "layers.12",
    "model.mtp.0.self_attn": "mtp.0",
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("wo_a.weight", "wo_a.weight"),
        ("o_a_proj.weight", "wo_a.weight"),
        ("wo_b.weight", "wo_b.weight"),
        ("o_b_proj.weight", "wo_b.weight"),
        ("wo_a.scale", "wo_a.scale"),
        ("o_a_proj.weight_scale", "wo_a.scale"),
        ("wo_b.weight_scale_inv", "wo_b.scale"),
        ("wo_b.weight_offset", "wo_b.offset"),
        ("attn_sink", "attn_sink"),
        ("sinks", "attn_sink"),
    ],
)
def test_roles(prefix, name, role):
    found = layer_names([f"{prefix}.{name}", "model.norm.weight"])
    assert [*found] == [PREFIXES[prefix]]
    names = found[PREFIXES[prefix]]
    assert names.prefix == prefix
    assert names.tensors == {role: f"{prefix}.{name}"}
    assert names.problems == []


@pytest.mark.parametrize(
    "name",
    [
        "layers.0.attn.wq_a.weight",
        "layers.0.ffn.wo_a.weight",
        "layers.x.attn.wo_a.weight",
        "other.layers.0.attn.wo_a.weight",
        "layers.0.attn.indexer.wo_a.weight",
        "layers.0.attn.attn_sink.weight",
        "model.layers.0.self_attn.o_proj.weight",
    ],
)
def test_other_tensors_are_none_of_ours(name):
    assert layer_names([name]) == {}


@pytest.mark.parametrize("kind", ["bias", "input_scale", "weight_packed", "weight.extra"])
def test_an_unknown_kind_is_a_problem(kind):
    (names,) = layer_names([f"layers.0.attn.wo_b.{kind}"]).values()
    assert names.tensors == {}
    assert [problem[0] for problem in names.problems] == [f"layers.0.attn.wo_b.{kind}"]


def test_layers_are_in_their_order():
    names = [f"{layer}.attn.attn_sink" for layer in ("mtp.0", "layers.10", "layers.9", "layers.2")]
    assert [*layer_names(names)] == ["layers.2", "layers.9", "layers.10", "mtp.0"]


ROLES = ("wo_a.weight", "wo_b.weight", "attn_sink")


@pytest.mark.parametrize("missing", ROLES)
def test_a_layer_has_two_weights_and_a_sink(missing):
    tensors = {role: f"layers.0.attn.{role}" for role in ROLES}
    LayerNames("layers.0.attn", tensors).check(Contract("weights"))
    del tensors[missing]
    with pytest.raises(ContractError, match=f"`layers.0.attn` must be a layer with {missing}"):
        LayerNames("layers.0.attn", tensors).check(Contract("weights"))
