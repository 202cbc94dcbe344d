"""The launches of one chunk, as the chain makes them, compiled for an Ascend part.

The chain runs on meta tensors: sizes without memory. So the gate sees exactly what an NPU would be
asked to run - kernels, constants, arguments, grids - and there is no second list of them to keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dsv4_kernels import device
from dsv4_kernels.ascend import compiler
from dsv4_kernels.ascend.compiler import Launch
from dsv4_kernels.chain import prefill_sparse_attn
from dsv4_kernels.dims import Dims
from dsv4_kernels.pipeline import SCHEDULES, SEGMENTS, Buffers, Node

# Cube cores of the A2 and A3 parts; each has two vector cores. The compiler's own figures, which
# the gate compares. The 950 parts are not here: their compiler (bishengir-compile-a5) does write a
# final IR, but with the scalar code in the LLVM dialect and the vector code outlined into functions
# of its own, which plan.py and counts.py cannot read.
PARTS = {
    **dict.fromkeys(("Ascend910B1", "Ascend910B2", "Ascend910B2C"), 24),
    **dict.fromkeys(("Ascend910B3", "Ascend910B4"), 20),
    **dict.fromkeys(("Ascend910_9362", "Ascend910_9372"), 20),
    **dict.fromkeys(("Ascend910_9381", "Ascend910_9382", "Ascend910_9391", "Ascend910_9392"), 24),
}

# Pages of the compressed pool and its table in the recorded chunk: 64 pages of 128 rows at ratio 4
# are 32 Ki tokens of context. Nothing but the counts of gather_kv and column_bias could see it.
CONTEXT_PAGES = 64


@dataclass(frozen=True)
class Compiled:
    """A segment, the tiles it was launched with, and what the compiler made of the launch."""

    segment: str
    tiles: Any
    launch: Launch


def compile_chunk(
    part: str, dims: Dims, *, tokens: int = 128, tiles: Mapping[str, Any] | None = None
) -> list[Compiled]:
    """Compile every segment of both schedules for `part`, as one CSA chunk asks for them.

    A refusal is in the launch, not raised.

    tiles: tiles to use instead of a segment's own, by segment.
    """
    driver = compiler.driver(part)
    driver.launches.clear()
    target = device.Target("npu", part, PARTS[part], 2 * PARTS[part])
    chosen = {name: node.tiles() for name, node in SEGMENTS.items()} | dict(tiles or {})
    launched: list[str] = []

    def executor(nodes: Sequence[Node], buffers: Buffers) -> None:
        for node in nodes:
            if node.name not in launched:  # the schedules share most of their segments
                node.run(buffers, tiles=chosen[node.name])
                launched.append(node.name)

    with device.compile_only(target, driver):
        for schedule in SCHEDULES:
            prefill_sparse_attn(
                **meta_inputs(dims, tokens),
                wave_tokens=tokens,
                schedule=schedule,
                groups_per_launch=dims.groups,  # all in one launch: the code is the same
                executor=executor,
            )
    return [
        Compiled(name, chosen[name], launch)
        for name, launch in zip(launched, driver.launches, strict=True)
    ]


def meta_inputs(dims: Dims, tokens: int) -> dict[str, Any]:
    """The arguments of prefill_sparse_attn for a CSA chunk, on the meta device."""
    T, C, B, K = tokens, dims.head_dim, dims.page_rows, dims.index_columns
    ring_pages = -(-dims.window // B)

    def bf16(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16, device="meta")

    def fp32(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float32, device="meta")

    def integer(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    return dict(
        q=bf16(T, dims.heads, C),
        ori_kv=bf16(ring_pages, B, C),
        ori_block_table=integer(torch.int32, ring_pages),
        kv_overlay=bf16(T, C),
        cmp_kv=bf16(CONTEXT_PAGES, B, C),
        cmp_block_table=integer(torch.int32, CONTEXT_PAGES),
        cmp_sparse_indices=integer(torch.int32, T, K),
        cmp_sparse_lens=integer(torch.int32, T),
        attn_sink=fp32(dims.heads),
        num_tokens=T,
        freqs_cos=bf16(T, dims.rope_dim),
        freqs_sin=bf16(T, dims.rope_dim),
        wo_a=bf16(dims.groups, dims.o_lora_rank, dims.group_inputs),
        wo_b=integer(torch.int8, dims.hidden, dims.groups * dims.o_lora_rank),
        wo_b_scale=fp32(dims.hidden),
        window=dims.window,
    )
