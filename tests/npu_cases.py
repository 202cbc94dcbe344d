"""Every segment on small inputs, for those who run it twice: on the CPU path and on the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import dsv4_kernels
from dsv4_kernels.dims import Dims
from dsv4_kernels.inputs import make_inputs
from dsv4_kernels.pipeline import SEGMENTS

# Tiles that are not full: R, D and the tokens are no multiples of a tile's.
PARTIAL = Dims(
    heads=64, head_dim=64, rope_dim=16, groups=4, o_lora_rank=48, hidden=160, window=16,
    index_topk=120, page_rows=16,
)  # fmt: skip

# No tile of a matmul is cut in R and D, and K takes several steps.
FULL = Dims(
    heads=32, head_dim=128, rope_dim=16, groups=2, o_lora_rank=256, hidden=256, window=128,
    index_topk=128, page_rows=64,
)  # fmt: skip

Outputs = dict[str, torch.Tensor]
Case = Callable[[], Outputs]


def cases(dims: Dims, *, tokens: int, live: int, blocks: int = 2, seed: int = 0) -> dict[str, Case]:
    """{segment: a function that runs it on inputs of its own and gives its outputs by name}.

    Outputs hold a sentinel before, so that what is not written differs nowhere by chance.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = make_inputs(dims, layer="CSA", tokens=live, capacity=tokens, start=600, seed=seed)
    buffers = _buffers(dims, inputs, tokens, blocks, generator)

    def case(name: str) -> Case:
        node = SEGMENTS[name]

        def run() -> Outputs:
            given = {k: v for k, v in node.inputs_of(buffers).items() if v is not None}
            given |= {k: buffers[k].clone() for k in node.updates}
            outputs = {k: buffers[f"{k} out"].clone() for k in node.writes}
            getattr(dsv4_kernels, name)(**given, **outputs)
            return {k: (outputs | given)[k] for k in node.writes + node.updates}

        return run

    return {name: case(name) for name in SEGMENTS}


def _buffers(
    dims: Dims, inputs: Any, tokens: int, blocks: int, generator: torch.Generator
) -> dict[str, Any]:
    """Inputs of every segment, and sentinels for the outputs under `<name> out`."""
    T, H, C, P, G = tokens, dims.heads, dims.head_dim, dims.rope_dim, dims.groups
    R, D, J, NB = dims.o_lora_rank, dims.hidden, dims.group_inputs, blocks
    KP = 128 * NB

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def integers(low: int, high: int, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.randint(low, high, shape, dtype=dtype, generator=generator)

    buffers = dict(vars(inputs))
    buffers |= dict(
        first_token=0,
        groups=G,
        rope_dim=P,
        kv=normal(T, KP, C).bfloat16(),
        bias=torch.where(normal(T, KP) > 1, -3.4e38, 0.0),
        m=normal(T, NB, H),
        l=normal(T, NB, H).abs() + 1,
        o=normal(T, NB, H, C),
        o_rope=normal(T, H, P),
        live_slots=integers(0, 4, T, dtype=torch.int32),
        o_packed=normal(G, T, J).bfloat16(),
        o_r=normal(T, G, R) * 3,
        codes=integers(-127, 128, T, G, R, dtype=torch.int8),
        partial=integers(-(2**20), 2**20, G, T, D, dtype=torch.int32),
        scale=normal(G, T).abs(),
        row_scale=normal(T).abs(),
    )
    shapes = dict(
        kv=buffers["kv"],
        attn_out=torch.empty(T, D, dtype=torch.bfloat16),
        **{
            k: buffers[k]
            for k in (
                "bias", "live_slots", "m", "l", "o", "o_rope", "o_packed", "o_r", "codes", "scale",
                "partial", "row_scale",
            )
        },
    )  # fmt: skip
    for name, like in shapes.items():
        sentinel = float("nan") if like.dtype.is_floating_point else 77
        buffers[f"{name} out"] = torch.full_like(like, sentinel)
    return buffers
