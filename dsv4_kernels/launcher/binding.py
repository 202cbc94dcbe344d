"""What a plan has bound for arguments of one set of shapes: launches, views of its workspace."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from dsv4_kernels.buffers import Buffers, shapes, span_bytes
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.launcher.order import in_order_of_issue


class Signature:
    """What the checks look at of arguments: of numbers nothing, they differ by run.

    It refers to no tensor, so that a plan keeps none of them alive.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        tensors = {k: v for k, v in arguments.items() if isinstance(v, torch.Tensor)}
        self._facts = {
            name: (value.shape, value.stride(), value.dtype, value.device)
            for name, value in tensors.items()
            if value.layout == torch.strided
        }
        self.nbytes = {name: span_bytes(value) for name, value in tensors.items()}
        others = ((name, type(value)) for name, value in arguments.items() if name not in tensors)
        self.key = (*self._facts.items(), *others)

    def fits(self, arguments: Mapping[str, Any]) -> bool:
        """Whether the tensors among `arguments` are as they were. Called at every run."""
        for name, (shape, stride, dtype, device) in self._facts.items():
            value = arguments[name]
            if (
                not isinstance(value, torch.Tensor)
                or value.layout != torch.strided
                or value.shape != shape
                or value.stride() != stride
                or value.dtype is not dtype
                or value.device != device
            ):
                return False
        return True


@dataclass
class Binding:
    """What runs the nodes of a chain.

    works: of the nodes, by the tokens of a wave. workspace: views by slot and tokens of a wave,
    and the numbers that the nodes take.
    """

    signature: Signature
    nodes: Sequence[Node]
    slots: int
    works: dict[int, list[Callable[[Buffers], None]]]
    workspace: list[dict[int, Buffers]]
    _issued: dict[int, tuple[Node, ...]] = field(default_factory=dict)

    def issued(self, waves: int, tokens_of: Callable[[int], int]) -> tuple[Node, ...]:
        """The nodes of this many waves, in their order of issue."""
        if waves not in self._issued:
            nodes = [
                replace(node, wave=wave, tokens=tokens, slot=wave % self.slots, work=work)
                for wave in range(waves)
                for tokens in [tokens_of(wave)]
                for node, work in zip(self.nodes, self.works[tokens], strict=True)
            ]
            self._issued[waves] = in_order_of_issue(nodes)
        return self._issued[waves]


def views(memory: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> Buffers:
    """The part of every buffer's memory that these sizes take."""
    return {
        name: memory[name].view(-1)[: math.prod(extent)].view(extent)
        for name, extent in shapes(memory, sizes).items()
    }
