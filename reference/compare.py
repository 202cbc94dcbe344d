"""Judge what a kernel wrote: its segment's reference on the same inputs, bounds, verdicts."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from reference.bounds import Bound, Verdict, judge


def expected(
    segment: str, inputs: Mapping[str, Any], outputs: Iterable[str]
) -> dict[str, tuple[torch.Tensor, Bound]]:
    """What the reference of `segment` gives for each output, and how far from it is near enough.

    Args:
        inputs: the kernel's inputs by argument name, as they were before it ran.
        outputs: names of its outputs, in the order that the segment returns them.
    """
    own = importlib.import_module(f"reference.{segment}")  # its file has both, by convention
    taken = dict(inputs)
    taken |= {k: _on_cpu(v) for k, v in inputs.items() if isinstance(v, torch.Tensor)}
    made = getattr(own, segment)(**taken)
    want = dict(zip(outputs, made if isinstance(made, tuple) else (made,), strict=True))
    bounds = own.bound(taken, want)
    return {name: (tensor, bounds[name]) for name, tensor in want.items()}


def compare(
    segment: str, inputs: Mapping[str, Any], got: Mapping[str, torch.Tensor]
) -> list[Verdict]:
    """One verdict per output of `segment`; got: the outputs by buffer name, in its order."""
    wanted = expected(segment, inputs, got)
    return [judge(name, got[name], want, bound) for name, (want, bound) in wanted.items()]


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """With its strides, which tell how rows are numbered; `cpu` keeps them where it copies nothing
    or nothing lies between rows."""
    if tensor.is_cpu or tensor.is_contiguous():
        return tensor.cpu()
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    span = 1 + sum((n - 1) * step for n, step in steps)
    return tensor.as_strided((span,), (1,)).cpu().as_strided(tensor.shape, tensor.stride())
