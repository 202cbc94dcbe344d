"""Every segment on small inputs, for those who run it twice: on the CPU path and on the model."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import torch

import dsv4_kernels
from dsv4_kernels.buffers import BUFFERS, shapes
from dsv4_kernels.dims import Dims
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments import SEGMENTS, segments_on
from poison import SENTINELS

ON_ASCEND = segments_on("npu")

# No tile is full: R, D and the tokens are no multiples of a tile's.
PARTIAL = Dims(
    heads=64, head_dim=64, rope_dim=16, groups=4, o_lora_rank=48, hidden=160, window=16,
    index_topk=120, page_rows=16,
)  # fmt: skip

# Tiles of the matmuls are full, and K takes several steps.
FULL = Dims(
    heads=16, head_dim=128, rope_dim=16, groups=2, o_lora_rank=256, hidden=256, window=64,
    index_topk=128, page_rows=64,
)  # fmt: skip

Outputs = dict[str, torch.Tensor]
Case = Callable[[], Outputs]


def cases(
    dims: Dims, *, tokens: int, live: int, columns: int = 256, sharers: int = 1, seed: int = 0
) -> dict[str, Case]:
    """{segment: a function that runs it on inputs of its own and gives its outputs by name}."""
    buffers = _buffers(dims, tokens, live, columns, sharers, seed)

    def case(name: str) -> Case:
        segment = SEGMENTS[name]

        def run() -> Outputs:
            inputs = {k: v for k, v in segment.inputs_of(buffers).items() if v is not None}
            outputs = {k: buffers[k].clone() for k in segment.updates}
            outputs |= {
                k: torch.full_like(buffers[k], SENTINELS[buffers[k].dtype]) for k in segment.writes
            }
            getattr(dsv4_kernels, name)(**inputs | outputs)
            return outputs

        return run

    return {name: case(name) for name in ON_ASCEND}


def _buffers(
    dims: Dims, tokens: int, live: int, columns: int, sharers: int, seed: int
) -> dict[str, Any]:
    """A value for every buffer, those that segments make for each other included."""
    inputs = make_inputs(dims, layer="CSA", tokens=live, capacity=tokens, start=600, seed=seed)
    sizes = dict(
        N=tokens, H=dims.heads, C=dims.head_dim, P=dims.rope_dim, G=dims.groups,
        J=dims.group_inputs, R=dims.o_lora_rank, D=dims.hidden, NB=-(-columns // 128), KP=columns,
        X=sharers,
    )  # fmt: skip
    made = [b.name for b in BUFFERS.values() if b.lifetime in ("wave", "chunk", "output")]
    drawn = {k: _drawn(k, shape, seed) for k, shape in shapes(made, sizes).items()}
    numbers = dict(
        first_token=0,
        sharers=sharers,
        tail=128 if columns % 128 == 0 else 16,
        groups=dims.groups,
        rope_dim=dims.rope_dim,
        softmax_scale=dims.head_dim**-0.5,
    )
    return vars(inputs) | numbers | drawn


def _drawn(name: str, shape: list[int], seed: int) -> torch.Tensor:
    """From a seed of its own: another buffer in the table changes no workload."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
    dtype = BUFFERS[name].dtype
    assert isinstance(dtype, torch.dtype)
    if not dtype.is_floating_point:
        low, high = {
            "live_slots": (0, 4),
            "live_blocks": (0, 3),
            "runs": (0, 17),
            "rows": (-4, 700),
            "codes": (-127, 128),
        }.get(name, (-(2**20), 2**20))
        return torch.randint(low, high, shape, dtype=dtype, generator=generator)
    normal = torch.randn(shape, generator=generator)
    if name == "bias":
        return torch.where(normal > 1, -3.4e38, 0.0)
    if name in ("l", "scale", "row_scale"):
        normal = normal.abs() + 1
    return normal.to(dtype)
