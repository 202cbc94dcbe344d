"""What a segment has to move and multiply at the least, from the shapes of its tensors.

Bytes: each input once, each output once. FLOP: the dots alone, two per multiplication and addition
(spec section 9).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from dsv4_kernels.buffers import columns


@dataclass(frozen=True)
class Cost:
    """Bytes through global memory, and FLOP by the dtype that is multiplied."""

    bytes: int
    bf16_flop: int = 0
    int8_flop: int = 0


def moved(tensors: Mapping[str, torch.Tensor], live_keys: int | None = None) -> Cost:
    """Every tensor once.

    Args:
        tensors: a segment's inputs and outputs by buffer name; they may be on the meta device.
        live_keys: live (token, column) pairs, without which every column counts as one.
    """
    return Cost(sum(map(size, tensors.values())))


def moved_beside_pools(tensors: Mapping[str, torch.Tensor], live_keys: int | None = None) -> Cost:
    """`moved` for a resolver, which takes of the pools the shapes only."""
    pools = ("ori_kv", "kv_overlay", "cmp_kv")
    return moved({name: tensor for name, tensor in tensors.items() if name not in pools})


def moved_of_heads(
    part: Literal["nope", "rope"], heads: Literal["o_packed", "o_heads"] = "o_packed"
) -> Callable[..., Cost]:
    """`moved` for a segment that writes only these columns of every head of such a buffer."""

    def cost(tensors: Mapping[str, torch.Tensor], live_keys: int | None = None) -> Cost:
        _, H, P = tensors["o_rope"].shape
        a, b, J = tensors[heads].shape
        C = (a if heads == "o_packed" else b) * J // H
        written = len(range(C)[columns(part, C, P)])
        whole = size(tensors[heads])
        return Cost(moved(tensors).bytes - whole + whole * written // C)

    return cost


def attention_flop(keys: int, H: int, C: int) -> int:
    """q . k and p . v of every key and head."""
    return 2 * 2 * keys * H * C


def size(tensor: torch.Tensor) -> int:
    """Its bytes."""
    return tensor.numel() * tensor.element_size()
