"""The launches of a chunk or a batch, as the chain makes them, compiled and recorded, not run.

The chain runs on meta tensors: sizes without memory. So a compiler's gate sees exactly what a
device would be asked to run - kernels, constants, arguments, grids - and there is no second list
of them to keep.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from triton.backends.driver import Benchmarker, DriverBase

from dsv4_kernels import device
from dsv4_kernels.buffers import ARGUMENTS, BUFFERS, Buffers, shapes
from dsv4_kernels.chains import attention
from dsv4_kernels.chains.batch import sparse_attn
from dsv4_kernels.chains.prefill import SCHEDULES, prefill_sparse_attn
from dsv4_kernels.device import Target
from dsv4_kernels.dims import LAYER_RATIOS, Dims
from dsv4_kernels.launcher.executors import Executor
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.segments import SEGMENTS
from dsv4_kernels.segments.segment import Launch

# Pages of the compressed pool and its table in the recorded chunk: 64 pages of 128 rows at ratio 4
# are 32 Ki tokens of context. Nothing but the counts of resolve_slots could see it.
CONTEXT_PAGES = 64
CONTEXT = CONTEXT_PAGES * 128 * LAYER_RATIOS["CSA"]


def forms_on(family: str) -> list[tuple[str, str]]:
    """Schedules and forms of attention that have all segments of a family of devices between them;
    most they share."""
    first, *others = attention.forms_on(family)
    by_schedule = [(schedule, first) for schedule in SCHEDULES]
    return by_schedule + [(next(iter(SCHEDULES)), form) for form in others]


def variants_on(family: str) -> list[tuple[str, str, torch.dtype]]:
    """What a chain may be asked for."""
    dtypes = (torch.bfloat16, torch.float32)
    return [(*form, dtype) for form in forms_on(family) for dtype in dtypes]


_Launch = TypeVar("_Launch")

meta = functools.partial(torch.empty, device="meta")


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


class Code(NamedTuple):
    """What tells a kernel that is compiled from others: the segment, its constants, and the dtype
    of the chain's output where it writes that."""

    segment: str
    constants: tuple[tuple[str, Any], ...]
    output: torch.dtype | None


def code_of(node: Node, buffers: Buffers) -> Code | None:
    """The kernel that a bound node launches; None where it has nothing to do."""
    if not isinstance(node.work, Launch):
        return None
    output = buffers["attn_out"].dtype if "attn_out" in node.writes else None
    return Code(node.name, tuple(sorted(node.work.constants.items())), output)


def labels(nodes: Mapping[Code, Node]) -> dict[Code, str]:
    """A name for each kernel, from the first node that launches it: the segment's, with its groups
    where others of them have another code."""
    codes = Counter(name for name, _ in {code[:2] for code in nodes})
    return {
        code: (node.name if codes[node.name] == 1 else node.label)
        + (" fp32" if code.output is torch.float32 else "")
        for code, node in nodes.items()
    }


@dataclass(frozen=True)
class Compiled(Generic[_Launch]):
    """A kernel of a segment, and what the compiler made of its launches.

    tiles: those it was launched with. launches: of a chunk or a batch, by chunks of groups mostly;
    one kernel all. label: as `labels` names it. minimum_bytes: every input of a launch once, every
    output once.
    """

    segment: str
    tiles: Any
    launches: tuple[_Launch, ...]
    label: str = ""
    minimum_bytes: int = 0

    @property
    def launch(self) -> _Launch:
        """The first of them."""
        return self.launches[0]


def record(
    target: Target,
    driver: RecordingDriver[_Launch],
    run: Callable[[Executor], object],
    segments: Collection[str] | None = None,
) -> list[Compiled[_Launch]]:
    """Compile every kernel that `run` launches for `target`, with all launches of the first chain
    that has it. A refusal is in the launch, not raised.

    run: calls chains on meta tensors with the executor that it is given; called once. segments: of
    those that a chunk has only these, if not None.
    """
    driver.launches.clear()
    recorded: dict[Code, list[Node]] = {}
    minimum: Counter[Code] = Counter()
    order: list[Code] = []

    def executor(nodes: Sequence[Node], waves: Sequence[Buffers]) -> None:
        known = {*recorded}
        for node in nodes:
            if segments is not None and node.name in SEGMENTS and node.name not in segments:
                continue
            code = code_of(node, waves[node.wave])
            if code is not None and code not in known:
                recorded.setdefault(code, []).append(node)
                minimum[code] += node.weight
                if code.output is torch.float32:  # where a node reckons with bf16
                    minimum[code] += waves[node.wave]["attn_out"].nbytes // 2
                order.append(code)
                with device.on(waves[node.wave]["q"]):  # a refusal ends this launch, not the chain
                    node.run(waves)

    with device.route("meta", target, driver):
        run(executor)
    launches: dict[Code, list[_Launch]] = {code: [] for code in recorded}
    for code, launch in zip(order, driver.launches, strict=True):
        launches[code].append(launch)
    named = labels({code: nodes[0] for code, nodes in recorded.items()})
    return [
        Compiled(
            code.segment,
            nodes[0].work.tiles,
            tuple(launches[code]),
            named[code],
            minimum[code],
        )
        for code, nodes in recorded.items()
    ]


def record_chunk(
    target: Target,
    driver: RecordingDriver[_Launch],
    dims: Dims,
    *,
    tokens: int = 128,
    columns: int | None = None,
    sharers: int = 1,
    tiles: Mapping[str, Any] | None = None,
    segments: Collection[str] | None = None,
) -> list[Compiled[_Launch]]:
    """Every kernel of both schedules and output dtypes, as one chunk asks for them.

    columns: K; a CSA layer's if None. sharers: neighbouring tokens that share their KV. tiles:
    tiles to use instead of a segment's own, by segment. segments: as `record` takes them.
    """
    inputs = meta_inputs(dims, tokens, columns or dims.index_columns)

    def run(executor: Executor) -> None:
        for schedule, form, out_dtype in variants_on(target.kind):
            prefill_sparse_attn(
                **inputs,
                window=dims.window,
                wave_tokens=tokens,
                schedule=schedule,
                attention=form,
                sharers=sharers,
                out_dtype=out_dtype,
                executor=executor,
                tiles=tiles,
            )

    return record(target, driver, run, segments)


def record_batch(
    target: Target,
    driver: RecordingDriver[_Launch],
    dims: Dims,
    *,
    tokens: int,
    requests: int | None = None,
    layer: str = "CSA",
    sharers: int = 1,
    tiles: Mapping[str, Any] | None = None,
    segments: Collection[str] | None = None,
) -> list[Compiled[_Launch]]:
    """Every kernel of both schedules and output dtypes, as a batch of `sparse_attn` asks for them.

    tokens: T, the capacity. requests: S; one a token, as in decode, if None. layer: of
    LAYER_RATIOS; the context is CONTEXT positions. sharers, tiles, segments: as `record_chunk`
    takes them.
    """
    inputs = meta_batch(dims, tokens, tokens if requests is None else requests, layer)

    def run(executor: Executor) -> None:
        for schedule, form, out_dtype in variants_on(target.kind):
            if sharers > 1 and form not in attention.SHARING[target.kind]:
                continue
            sparse_attn(
                **inputs,
                window=dims.window,
                compress_ratio=LAYER_RATIOS[layer],
                schedule=schedule,
                attention=form,
                sharers=sharers,
                out_dtype=out_dtype,
                executor=executor,
                tiles=tiles,
            )

    return record(target, driver, run, segments)


def meta_inputs(dims: Dims, tokens: int, columns: int) -> dict[str, Any]:
    """The arguments of prefill_sparse_attn for a chunk, on the meta device."""
    ring_pages = -(-dims.window // dims.page_rows)
    sizes = dims.letters() | dict(
        N=tokens, T=tokens, K=columns, ori_pages=ring_pages, ori_entries=ring_pages,
        cmp_pages=CONTEXT_PAGES, cmp_entries=CONTEXT_PAGES,
    )  # fmt: skip
    tensors = [name for name in ARGUMENTS if BUFFERS[name].dtype is not int]
    return _made(tensors, sizes) | {"num_tokens": tokens}


def meta_batch(dims: Dims, tokens: int, requests: int, layer: str) -> dict[str, Any]:
    """The arguments of sparse_attn that have no default, on the meta device: pages of
    dims.page_rows rows, RoPE tables in fp32."""
    ratio, rows = LAYER_RATIOS[layer], dims.page_rows

    def pool(positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        pages = -(-positions // rows)
        return (
            meta(requests * pages, rows, 1, dims.head_dim, dtype=torch.bfloat16),
            meta(requests, pages, dtype=torch.int32),
        )

    ori_kv, ori_block_table = pool(CONTEXT)
    cmp_kv, cmp_block_table = pool(CONTEXT // ratio) if ratio else (None, None)
    weights = ("attn_sink", "wo_a", "wo_b", "wo_b_scale")
    return dict(
        q=meta(tokens, dims.heads, dims.head_dim, dtype=torch.bfloat16),
        ori_kv=ori_kv, ori_block_table=ori_block_table,
        cmp_kv=cmp_kv, cmp_block_table=cmp_block_table,
        cmp_indices=meta(tokens, dims.index_topk, dtype=torch.int32) if layer == "CSA" else None,
        query_start_loc=meta(requests + 1, dtype=torch.int32),
        seq_lens=meta(requests, dtype=torch.int32),
        rope_cos=meta(tokens, dims.rope_dim), rope_sin=meta(tokens, dims.rope_dim),
        **_made(weights, dims.letters()),
    )  # fmt: skip


def _made(names: Sequence[str], sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Buffers by name, of these sizes."""
    return {
        name: meta(extent, dtype=BUFFERS[name].dtype)  # type: ignore[arg-type]
        for name, extent in shapes(names, sizes).items()
    }
