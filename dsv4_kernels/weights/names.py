"""How checkpoints spell the tensors of an output projection.

official              layers.N.attn.{wo_a, wo_b}.{weight, scale}, layers.N.attn.attn_sink
its draft layers      mtp.K.attn.*
HF transformers       model.layers.N.self_attn.{o_a_proj, o_b_proj}.*, .sinks
vllm, vllm-ascend     model.layers.N.{self_attn, attn}.{wo_a, wo_b}.*
scales                .scale, .weight_scale, .weight_scale_inv: all are multiplied with
offsets               .weight_offset (msModelSlim)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from dsv4_kernels.contract import Contract

_NAME = re.compile(
    r"(?P<prefix>(?:model\.)?(?P<layer>(?:layers|mtp)\.\d+)\.(?:self_)?attn)\."
    r"(?:(?P<sink>attn_sink|sinks)|(?:wo|o)_(?P<projection>[ab])(?:_proj)?(?:\.(?P<kind>.+))?)"
)
_KINDS = {
    "weight": "weight",
    "scale": "scale",
    "weight_scale": "scale",
    "weight_scale_inv": "scale",
    "weight_offset": "offset",
}


@dataclass
class LayerNames:
    """What a checkpoint calls the tensors of one layer.

    prefix: "layers.3.attn", say. tensors: full name by role: "wo_a.weight", "wo_a.scale",
    "wo_b.weight", "wo_b.scale", "wo_b.offset", "attn_sink". problems: what is wrong with them.
    """

    prefix: str
    tensors: dict[str, str] = field(default_factory=dict)
    problems: list[tuple[str, str, str]] = field(default_factory=list)  # name, contract, actual

    def add(self, name: str, role: str | None) -> None:
        """Take in a tensor; one of no known role, or a second one of its role, is a problem."""
        if role is None:
            known = ", ".join(f".{kind}" for kind in _KINDS)
            self.problems.append((name, f"one of {known}", "something else"))
        elif role in self.tensors:
            self.problems.append((name, f"the only {role} of its layer", self.tensors[role]))
        else:
            self.tensors[role] = name

    def check(self, contract: Contract) -> None:
        """Raise ContractError for the first problem, and where what every layer has is missing."""
        for problem in self.problems:
            contract.require(False, *problem)
        for role in ("wo_a.weight", "wo_b.weight", "attn_sink"):
            found = ", ".join(self.tensors)
            contract.require(role in self.tensors, self.prefix, f"a layer with {role}", found)


def layer_names(names: Iterable[str]) -> dict[str, LayerNames]:
    """Layers in their order, "layers.0" .. "mtp.0" .., and what is there of each."""
    layers: dict[str, LayerNames] = {}
    for name in sorted(names):
        if match := _NAME.fullmatch(name):
            role = "attn_sink" if match["sink"] else None
            if kind := _KINDS.get(match["kind"] or ""):
                role = f"wo_{match['projection']}.{kind}"
            layers.setdefault(match["layer"], LayerNames(match["prefix"])).add(name, role)
    return dict(sorted(layers.items(), key=_place))


def _place(item: tuple[str, LayerNames]) -> tuple[str, int]:
    kind, number = item[0].split(".")
    return kind, int(number)  # "layers" before "mtp"
