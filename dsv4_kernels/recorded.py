"""The launches of one chunk, as the chain makes them, compiled and recorded instead of run.

The chain runs on meta tensors: sizes without memory. So a compiler's gate sees exactly what a
device would be asked to run - kernels, constants, arguments, grids - and there is no second list
of them to keep.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from triton.backends.driver import Benchmarker, DriverBase

from dsv4_kernels import device
from dsv4_kernels.chain import prefill_sparse_attn
from dsv4_kernels.device import Target
from dsv4_kernels.dims import Dims
from dsv4_kernels.pipeline import SCHEDULES, SEGMENTS, Buffers, Node

# Pages of the compressed pool and its table in the recorded chunk: 64 pages of 128 rows at ratio 4
# are 32 Ki tokens of context. Nothing but the counts of gather_kv and column_bias could see it.
CONTEXT_PAGES = 64

_Launch = TypeVar("_Launch")


class RecordingDriver(DriverBase, Generic[_Launch]):
    """Compiles what is launched for one part, and keeps a record of it instead of running it.

    A subclass names the target, and says in `launcher_cls` what it records of a launch.

    refusals: what its compiler raises for a kernel that it cannot compile.
    """

    refusals: tuple[type[Exception], ...]

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part
        self.launches: list[_Launch] = []
        self.utils = self

    @classmethod
    def is_active(cls) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Never chosen by Triton on its own."""
        return False

    def get_current_device(self) -> str:
        return f"compile for {self.part}"  # keys Triton's table of compiled kernels

    def get_current_stream(self, device: str) -> None:
        return None

    def get_benchmarker(self) -> Benchmarker:
        raise NotImplementedError("nothing runs here")

    def refused(self, why: str) -> _Launch:
        """The record of a kernel that the compiler refuses."""
        raise NotImplementedError

    @contextlib.contextmanager
    def recording_refusals(self) -> Iterator[None]:
        """Inside, a kernel that the compiler refuses is recorded like any other launch."""
        try:
            yield
        except self.refusals as error:
            self.launches.append(self.refused(str(error)))


@dataclass(frozen=True)
class Compiled(Generic[_Launch]):
    """A segment, the tiles it was launched with, and what the compiler made of the launch."""

    segment: str
    tiles: Any
    launch: _Launch


def record_chunk(
    target: Target,
    driver: RecordingDriver[_Launch],
    dims: Dims,
    *,
    tokens: int = 128,
    tiles: Mapping[str, Any] | None = None,
) -> list[Compiled[_Launch]]:
    """Compile every segment of both schedules for `target`, as one CSA chunk asks for them.

    A refusal is in the launch, not raised.

    tiles: tiles to use instead of a segment's own, by segment.
    """
    driver.launches.clear()
    chosen = {name: node.tiles.on(target) for name, node in SEGMENTS.items()} | dict(tiles or {})
    launched: list[str] = []

    def executor(nodes: Sequence[Node], buffers: Buffers) -> None:
        for node in nodes:
            if node.name not in launched:  # the schedules share most of their segments
                node.run(buffers, tiles=chosen[node.name])
                launched.append(node.name)

    with device.route("meta", target, driver):
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
