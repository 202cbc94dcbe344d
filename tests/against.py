"""Run a segment, then its reference on the same inputs, and judge every output by the table."""

from __future__ import annotations

from typing import Any

import torch

import dsv4_kernels
import reference
from poison import Poison, is_sentinel
from reference.bounds import BOUNDS, judge

OUTPUTS = {
    "gather_kv": ("kv",),
    "column_bias": ("bias", "live_slots"),
    "qk_softmax_pv": ("m", "l", "o"),
    "merge_norm": ("o_packed", "o_rope"),
    "inverse_rope": ("o_packed",),
    "proj_a": ("o_r",),
    "group_quant": ("codes", "scale"),
    "proj_b": ("partial",),
    "dequant_sum": ("attn_out",),
}


def cpu(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs as the reference takes them."""
    return {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}


def run_reference(name: str, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The reference's outputs by buffer name."""
    return _by_name(name, getattr(reference, name)(**cpu(inputs)))


def run_kernel(
    name: str, inputs: dict[str, Any], poison: Poison, **options: Any
) -> dict[str, torch.Tensor]:
    """The kernel's outputs by buffer name, made in poisoned memory between guard bands."""
    if name == "inverse_rope":  # updates its last argument in place
        inputs = {**inputs, "o_packed": poison.copy(inputs["o_packed"])}
    with poison.allocations():
        return _by_name(name, getattr(dsv4_kernels, name)(**inputs, **options))


def check_segment(
    name: str, inputs: dict[str, Any], poison: Poison, **options: Any
) -> dict[str, torch.Tensor]:
    """Kernel, then reference, judged by the table; returns the kernel's outputs."""
    got = run_kernel(name, inputs, poison, **options)
    want = run_reference(name, inputs)
    bounds = BOUNDS[name](cpu(inputs), want)
    compared = dict(got)
    if name == "merge_norm":
        compared["o_packed"] = _without_rope_columns(got["o_packed"], inputs)
    for buffer in OUTPUTS[name]:
        verdict = judge(buffer, compared[buffer], want[buffer], bounds[buffer])
        assert verdict.holds, f"{name}: {verdict}"
    return got


def _without_rope_columns(o_packed: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
    """merge_norm leaves the rope columns to inverse_rope, as its reference leaves them zero."""
    C, P = inputs["o"].shape[-1], inputs["rope_dim"]
    rope = (torch.arange(o_packed.shape[-1]) % C >= C - P).to(o_packed.device)
    assert is_sentinel(o_packed)[..., rope].all(), "merge_norm wrote into the rope columns"
    return torch.where(rope, 0, o_packed)


def _by_name(name: str, made: Any) -> dict[str, torch.Tensor]:
    return dict(zip(OUTPUTS[name], made if isinstance(made, tuple) else (made,), strict=True))
