"""Judge what a kernel wrote: its segment's reference on the same inputs, bounds, verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

import reference
from reference.bounds import BOUNDS, Verdict, judge


def compare(
    segment: str, inputs: Mapping[str, Any], got: Mapping[str, torch.Tensor]
) -> list[Verdict]:
    """One verdict per output of `segment`.

    Args:
        inputs: the kernel's inputs by argument name, as they were before it ran.
        got: its outputs by buffer name, in the order that the segment returns them.
    """
    taken = dict(inputs)
    taken |= {k: v.cpu() for k, v in inputs.items() if isinstance(v, torch.Tensor)}
    got = {name: tensor.cpu() for name, tensor in got.items()}
    made = getattr(reference, segment)(**taken)
    want = dict(zip(got, made if isinstance(made, tuple) else (made,), strict=True))
    if segment == "merge_norm":  # the kernel leaves them unwritten, the reference zero
        rope = rope_columns(got["o_packed"], taken["o"].shape[-1], taken["rope_dim"])
        got["o_packed"] = torch.where(rope, 0, got["o_packed"])
    bounds = BOUNDS[segment](taken, want)
    return [judge(name, got[name], want[name], bounds[name]) for name in got]


def rope_columns(o_packed: torch.Tensor, C: int, P: int) -> torch.Tensor:
    """[J] bool: the columns of o_packed that inverse_rope writes, the last P of every head."""
    return torch.arange(o_packed.shape[-1], device=o_packed.device) % C >= C - P
