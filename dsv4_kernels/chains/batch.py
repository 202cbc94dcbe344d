"""`sparse_attn`, a server's batch of prefill, decode and mixed requests, and its plan.

plan = SparseAttn(q, ..., wo_b_scale, compress_ratio=4)  # checks, allocates, binds weights
attn_out = plan.run(q, ..., wo_b_scale)                  # arguments of the same sizes
captured = plan.capture(q, ..., wo_b_scale)              # replays on another batch of its capacity

Beside `prefill_sparse_attn` only the resolver differs: the rows that it finds go through the same
segments, whatever the sizes of pages and what lies between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dsv4_kernels.buffers import BLOCK, WEIGHTS, Buffers
from dsv4_kernels.chains.attention import form_of, tail_on
from dsv4_kernels.chains.node import node
from dsv4_kernels.chains.prefill import GROUPS_PER_LAUNCH, WAVE_TOKENS, PrefillChain
from dsv4_kernels.contract import Contract
from dsv4_kernels.device.untraced import untraced
from dsv4_kernels.launcher.executors import Executor
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.launcher.plan import Captured, Plan, Planned
from dsv4_kernels.segments import attend_rows, finish, inverse_rope, merge_finish
from dsv4_kernels.segments.requests import RESOLVE_REQUESTS, TOKEN_MAP
from dsv4_kernels.segments.shared_requests import SHARED_REQUESTS, shared_columns
from dsv4_kernels.segments.slots import (
    POOL_GAP,
    bind_columns,
    check_pool,
    check_sharers,
    page_shift,
    pool_rows,
    without_kv_head,
)
from dsv4_kernels.segments.tile_map import TILE_MAP, by_tile, by_token
from dsv4_kernels.segments.tiles import Tiles

OP = "sparse_attn"

# In the order of the signature.
ARGUMENTS = (
    "q", "ori_kv", "ori_block_table", "cmp_kv", "cmp_block_table", "cmp_indices",
    "query_start_loc", "seq_lens", "attn_sink", "rope_cos", "rope_sin", "wo_a", "wo_b",
    "wo_b_scale",
)  # fmt: skip

ROPE_LAYOUTS = ("interleaved", "half")

# The segments that take RoPE tables, as they read interleaved ones.
_INTERLEAVED = {
    "inverse_rope": inverse_rope.INTERLEAVED,
    "finish": finish.INTERLEAVED,
    "merge_finish": merge_finish.INTERLEAVED,
    "attend_rows": attend_rows.INTERLEAVED,
}

# Of the segments that read live_blocks those that go by tile of tokens; others go by token.
BY_TILE = ("gather_kv", "qk", "pv", "qk_softmax_pv")


@dataclass(frozen=True)
class Fixed:
    """What a plan is made for beside sizes; compiled into the resolver, but for the columns.

    window: columns of the window or of the list that replaces it. ori_page_size, cmp_page_size:
    rows of a page.
    """

    compress_ratio: int
    window: int
    ori_listed: bool
    ori_page_size: int
    cmp_page_size: int
    listed: bool
    cmp_columns: int


class BatchChain(PrefillChain):
    """The chain of one batch: another resolver, and all counts on the device."""

    op = OP
    rope = "rope_cos"
    fixed: Mapping[str, str] = {
        "T": "q", "H": "q", "C": "q", "P": "rope_cos", "G": "wo_a", "R": "wo_a", "D": "wo_b",
        "W": "ori_indices", "I": "cmp_indices",
    }  # fmt: skip
    shrinking: Mapping[str, str] = {}
    called: Mapping[str, str] = {
        "freqs_cos": "rope_cos", "freqs_sin": "rope_sin", "ori_tables": "ori_block_table",
        "cmp_tables": "cmp_block_table", "request": "token_map", "position": "token_map",
    }  # fmt: skip

    def __init__(
        self,
        fixed: Fixed,
        *,
        softmax_scale: float | None,
        rope_layout: str,
        mapped: bool,
        sharers: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(window=fixed.window, sharers=sharers, **options)
        contract = Contract(self.op)
        contract.one_of("rope_layout", rope_layout, ROPE_LAYOUTS)
        self._fixed, self._softmax_scale, self._mapped = fixed, softmax_scale, mapped
        # The forms of attention ask for these by their names.
        self._segments["resolve_slots"] = RESOLVE_REQUESTS
        if rope_layout == "interleaved":
            for name, interleaved in _INTERLEAVED.items():
                chosen = self._segments[name].chosen
                self._segments[name] = interleaved.with_tiles(chosen)
        self._shared = self._sharers > 1
        if self._shared:
            self._share(contract, options.get("attention", "fused"))
        own = ("request", "position") if mapped else ()
        lists = ("ori_indices", "cmp_indices")
        self.per_token: Sequence[str] = ("q", *lists, "freqs_cos", "freqs_sin", *own)

    def _share(self, contract: Contract, attention: str) -> None:
        """Segments that go by tiles of tokens, where there is what tokens share."""
        lists = ("ori_indices", self._fixed.ori_listed), ("cmp_indices", self._fixed.listed)
        named = [f"with {name}, a token's own" for name, there in lists if there]
        if attention == "one_kernel":
            named.append("for one_kernel, which copies no KV")
        contract.require(not named, "sharers", f"1 {', '.join(named)}", self._sharers)
        self._segments["resolve_slots"] = SHARED_REQUESTS
        for name, segment in self._segments.items():
            if name in BY_TILE:
                self._segments[name] = by_tile(segment)
            elif "live_blocks" in segment.reads:
                self._segments[name] = by_token(segment)
        # A plan has room for the tiles of its own number of requests.
        self.shrinking = {"S": "seq_lens"}

    def _check_inputs(self, contract: Contract, arguments: Buffers) -> None:
        """Of arguments as `Layout.views` makes them."""
        for name in ("q", *WEIGHTS):
            if name in arguments:
                contract.buffer(name, arguments[name])
        for name in ("freqs_cos", "freqs_sin"):
            contract.buffer(name, arguments[name], name.replace("freqs", "rope"))
        for name in (
            "ori_kv", "cmp_kv", "query_start_loc", "seq_lens", "ori_indices", "cmp_indices",
            "ori_tables", "cmp_tables",
        ):  # fmt: skip
            contract.buffer(name, arguments[name])
        if self._mapped:
            for name in ("request", "position"):
                contract.buffer(name, arguments[name], "token_map")
        S, starts = contract["S"], contract["S1"]
        contract.require(starts == S + 1, "query_start_loc", f"[S+1={S + 1}] int32", f"[{starts}]")
        X = check_sharers(contract, self._sharers)
        columns = shared_columns(self._fixed.window, self._fixed.cmp_columns, X)
        bind_columns(contract, columns, self._tail)
        if self._shared:
            contract.sizes["tiled"] = 1
        total = sum(pool_rows(contract, pool)[0] for pool in ("ori", "cmp")) + 1 + 2 * POOL_GAP
        contract.require(total < 2**31, "ori_kv", "< 2**31 rows with cmp_kv", f"{total} rows")
        contract.sizes["num_tokens"] = contract["T"]

    def attention(self, sizes: Mapping[str, int]) -> tuple[Node, ...]:
        """With a token map of its own where the caller brings none."""
        wanted = ((TOKEN_MAP, not self._mapped), (TILE_MAP, self._shared))
        first = (node(segment, sizes, lane="gather") for segment, there in wanted if there)
        return (*first, *super().attention(sizes))

    def numbers(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        scale = self._softmax_scale
        return dict(
            vars(self._fixed), groups=sizes["G"], rope_dim=sizes["P"], sharers=self._sharers,
            tokens=None,
            softmax_scale=sizes["C"] ** -0.5 if scale is None else scale, tail=self._tail,
        )  # fmt: skip


class BatchPlan:
    """`SparseAttn` without weights of its own: none of its tensors outlives a run here.

    named: the arguments of `sparse_attn` by name, ori_indices and token_map among them.
    """

    def __init__(
        self,
        named: Mapping[str, Any],
        *,
        compress_ratio: int,
        window: int,
        softmax_scale: float | None,
        max_seq_len: int | None,
        rope_layout: str,
        out_dtype: torch.dtype = torch.bfloat16,
        wave_tokens: int = WAVE_TOKENS,
        waves_in_flight: int | None = None,
        executor: Executor | None = None,
        attention: str | None = None,
        **options: Any,
    ) -> None:
        self._columns: dict[str, Any] = dict(
            compress_ratio=compress_ratio, window=window, max_seq_len=max_seq_len
        )
        self._layout = layout_of(OP, named, **self._columns)
        self._mapped, self._fixed = named["token_map"] is not None, self._layout.fixed
        form = form_of(OP, attention, named["q"])
        chain = BatchChain(
            self._fixed, softmax_scale=softmax_scale, rope_layout=rope_layout, mapped=self._mapped,
            attention=form, tail=tail_on(named["q"]), **options,
        )  # fmt: skip
        self.plan = Plan(
            chain, self._layout.views(named), wave_tokens=wave_tokens,
            waves_in_flight=waves_in_flight, executor=executor, out_dtype=out_dtype,
        )  # fmt: skip

    def run(self, named: Mapping[str, Any], out: torch.Tensor | None) -> torch.Tensor:
        """As `SparseAttn.run`."""
        return self.plan.run(self._rows_of(named), out)

    def capture(self, named: Mapping[str, Any], out: torch.Tensor | None) -> Captured:
        """As `SparseAttn.capture`."""
        return self.plan.capture(self._rows_of(named), out)

    def _rows_of(self, named: Mapping[str, Any]) -> Buffers:
        """The arguments of a run as views; looked at in full only where one of them is of another
        shape, stride, dtype or device than in the run before."""
        if not self._layout.fits(named):
            self._layout = self._like_the_plan(named)
        return self._layout.views(named)

    def _like_the_plan(self, named: Mapping[str, Any]) -> Layout:
        contract, known = Contract(OP, rows="T"), self._fixed
        for name, was in (("token_map", self._mapped), ("ori_indices", known.ori_listed)):
            given = type(named[name]).__name__
            contract.require((named[name] is not None) == was, name, "given as for the plan", given)
        layout = layout_of(OP, named, **self._columns)
        for name, argument in (
            ("ori_page_size", "ori_kv"), ("cmp_page_size", "cmp_kv"), ("listed", "cmp_indices"),
        ):  # fmt: skip
            own, given = getattr(known, name), getattr(layout.fixed, name)
            contract.require(own == given, argument, f"as for the plan, {name}={own}", given)
        contract.require(
            layout.fixed.cmp_columns <= known.cmp_columns, "cmp_block_table",
            f"of at most the plan's {known.cmp_columns} columns of slots",
            layout.fixed.cmp_columns,
        )  # fmt: skip
        return layout


class SparseAttn(Planned):
    """`sparse_attn` for one set of shapes, with a workspace and an output of its own.

    Args:
        *args, **kwargs: the arguments of `sparse_attn` that have no default, in its order or by
            name. Of the weights the plan keeps the tensors, of the others only shapes, dtypes and
            device count.
        compress_ratio, window, softmax_scale, max_seq_len, rope_layout, ori_indices, token_map,
            sharers, out_dtype: as there; of ori_indices only the width, of token_map only whether
            there is one.
        wave_tokens, waves_in_flight, schedule, groups_per_launch, executor, tiles: as
            `PrefillSparseAttn` takes them.

    Raises ContractError.
    """

    @untraced
    def __init__(
        self,
        *args: Any,
        compress_ratio: int,
        window: int = 128,
        softmax_scale: float | None = None,
        max_seq_len: int | None = None,
        rope_layout: str = "interleaved",
        ori_indices: torch.Tensor | None = None,
        token_map: tuple[torch.Tensor, torch.Tensor] | None = None,
        out_dtype: torch.dtype = torch.bfloat16,
        wave_tokens: int = WAVE_TOKENS,
        waves_in_flight: int | None = None,
        schedule: str = "decoupled",
        attention: str | None = None,
        sharers: int = 1,
        groups_per_launch: int = GROUPS_PER_LAUNCH,
        executor: Executor | None = None,
        tiles: Mapping[str, Tiles] | None = None,
        **kwargs: Any,
    ) -> None:
        named = Contract(OP).by_name(ARGUMENTS, args, kwargs, {})
        named |= dict(ori_indices=ori_indices, token_map=token_map)
        self._batch = BatchPlan(
            named, compress_ratio=compress_ratio, window=window, softmax_scale=softmax_scale,
            max_seq_len=max_seq_len, rope_layout=rope_layout, out_dtype=out_dtype,
            wave_tokens=wave_tokens, waves_in_flight=waves_in_flight, executor=executor,
            schedule=schedule, attention=attention, sharers=sharers,
            groups_per_launch=groups_per_launch, tiles=tiles,
        )  # fmt: skip
        self._plan = self._batch.plan
        self._weights = {name: named[name] for name in WEIGHTS}

    @untraced
    def run(
        self,
        *args: Any,
        ori_indices: torch.Tensor | None = None,
        token_map: tuple[torch.Tensor, torch.Tensor] | None = None,
        out: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Run the chain on the current stream, without synchronising.

        Args:
            *args, **kwargs, ori_indices, token_map: as for the plan. Pools and tables may be of
                other sizes than the plan's, with its page sizes; weights that are not given are the
                plan's.
            out: output, [T, D] bf16 or fp32; by default the plan's own, which its next run
                overwrites.

        Returns attn_out [T, D]. Raises ContractError before anything is launched or written.
        """
        options = dict(ori_indices=ori_indices, token_map=token_map)
        return self._batch.run(self._named(args, kwargs, options), out)

    @untraced
    def capture(
        self,
        *args: Any,
        ori_indices: torch.Tensor | None = None,
        token_map: tuple[torch.Tensor, torch.Tensor] | None = None,
        out: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Captured:
        """Record a run as a graph, whose replays cost the host one launch.

        The graph keeps the addresses of the tensors and no count: update them in place, to another
        batch of the capacity. Raises ContractError: as `run`, or the device has no graphs (a CPU).
        """
        options = dict(ori_indices=ori_indices, token_map=token_map)
        return self._batch.capture(self._named(args, kwargs, options), out)

    def _named(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Buffers:
        """The arguments of a run by name."""
        if len(args) == len(ARGUMENTS) and not kwargs:
            return {**dict(zip(ARGUMENTS, args, strict=True)), **options}
        return {**Contract(OP).by_name(ARGUMENTS, args, kwargs, self._weights), **options}


@untraced
def sparse_attn(
    q: torch.Tensor,  # [T, H, C] bf16
    ori_kv: torch.Tensor,  # [pages, B1, C] or [pages, B1, 1, C] bf16
    ori_block_table: torch.Tensor,  # [S, n1] int32
    cmp_kv: torch.Tensor | None,  # [pages, B2, C] or [pages, B2, 1, C] bf16
    cmp_block_table: torch.Tensor | None,  # [S, n2] int32
    cmp_indices: torch.Tensor | None,  # [T, K] or [T, 1, K] int32
    query_start_loc: torch.Tensor,  # [S + 1] int32
    seq_lens: torch.Tensor,  # [S] int32
    attn_sink: torch.Tensor,  # [H] fp32
    rope_cos: torch.Tensor,  # [T, P] or [T, 1, 1, P] bf16 or fp32
    rope_sin: torch.Tensor,  # [T, P] or [T, 1, 1, P] bf16 or fp32
    wo_a: torch.Tensor,  # [G, R, J] bf16
    wo_b: torch.Tensor,  # [D, G*R] int8
    wo_b_scale: torch.Tensor,  # [D] fp32
    *,
    compress_ratio: int,
    window: int = 128,
    softmax_scale: float | None = None,
    max_seq_len: int | None = None,
    rope_layout: str = "interleaved",
    ori_indices: torch.Tensor | None = None,  # [T, W] or [T, 1, W] int32
    token_map: tuple[torch.Tensor, torch.Tensor] | None = None,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    wave_tokens: int = WAVE_TOKENS,
    waves_in_flight: int | None = None,
    schedule: str = "decoupled",
    attention: str | None = None,
    sharers: int = 1,
    groups_per_launch: int = GROUPS_PER_LAUNCH,
    executor: Executor | None = None,
    tiles: Mapping[str, Tiles] | None = None,
) -> torch.Tensor:
    """DeepSeek-V4's sparse attention of a batch, through to its grouped INT8 output projection.

    One call for prefill chunks, decode, draft tokens and a mix of them. No value is read on the
    host: lengths, tables and live tokens are the device's.

    Args:
        q: queries, rotated; T is a capacity, query_start_loc[S] of them are live. Tokens may lie a
            multiple of 16 elements apart, and those of the RoPE tables; those of a list any number.
        ori_kv, ori_block_table: window rows by position, this step's written already: row
            position % B1 of page table[request, position // B1]. Pages of a pool may lie any
            number of elements apart (on CUDA a multiple of 8), and rows of a table; what is between
            is not read.
        cmp_kv, cmp_block_table: compressed rows by slot = position // compress_ratio, likewise;
            None where compress_ratio is 0.
        cmp_indices: slots of the token's request in any order, any < 0 for none; only those below
            (position+1) // compress_ratio count. None: all of these.
        query_start_loc, seq_lens: first token of each request, and its KV length with this step's
            tokens; a length <= 0 makes its tokens dead.
        attn_sink: logit per head that takes part in the denominator only.
        rope_cos, rope_sin: RoPE tables of the tokens.
        wo_a, wo_b, wo_b_scale: output projection; wo_b is quantised per output channel.
        compress_ratio: 0 (no compressed rows), 4, 128 or any other.
        window: positions of the sliding window, the token's own included.
        softmax_scale: C**-0.5 if None.
        max_seq_len: without cmp_indices, the longest KV length there can be: it bounds the columns.
            The whole of cmp_block_table if None.
        rope_layout: "interleaved" (c0, c0, c1, c1, ..) or "half" (c0, c1, .. in the first P/2).
        ori_indices: rows page*B + offset of ori_kv, any < 0 for none; they replace the window and
            ori_block_table, for draft tokens that see each other.
        token_map: what `token_map` makes of query_start_loc and seq_lens, for the layers of a step.
            Another map gives wrong results, and reads no memory beside the arguments.
        sharers: 1, 2, 4 or 8: of so many neighbouring positions of a request KV is moved once.
            Nothing is promised: tiles of tokens are made on the device, each of one request. A
            token's bytes are the same in any batch, chunk and wave; those of another number are
            rounded otherwise. A NaN or Inf in a row of KV reaches all tokens of a tile. Must be 1
            with cmp_indices or ori_indices, for "one_kernel", and for "fused" on CUDA. A plan then
            takes no more requests than it was made for. 1 is best for decode.
        out, out_dtype, wave_tokens, waves_in_flight, schedule, groups_per_launch, executor, tiles:
            as `prefill_sparse_attn` takes them.

    Returns attn_out [T, D], exact zeros for a token that is dead or has no live column, on the
    current stream and without synchronising. There is no gradient. Raises ContractError before
    anything is launched or written.
    """
    arguments = (
        q, ori_kv, ori_block_table, cmp_kv, cmp_block_table, cmp_indices, query_start_loc,
        seq_lens, attn_sink, rope_cos, rope_sin, wo_a, wo_b, wo_b_scale,
    )  # fmt: skip
    plan = SparseAttn(
        *arguments, compress_ratio=compress_ratio, window=window, softmax_scale=softmax_scale,
        max_seq_len=max_seq_len, rope_layout=rope_layout, ori_indices=ori_indices,
        token_map=token_map, out_dtype=out_dtype, wave_tokens=wave_tokens,
        waves_in_flight=waves_in_flight, schedule=schedule, attention=attention,
        sharers=sharers, groups_per_launch=groups_per_launch, executor=executor, tiles=tiles,
    )  # fmt: skip
    return plan.run(*arguments, ori_indices=ori_indices, token_map=token_map, out=out)


@dataclass(frozen=True)
class Layout:
    """How arguments of one set of shapes and strides are taken as the segments take them.

    facts: of every tensor what was checked. flat: by a segment's name the argument, the shape and
    the strides of a view. numbers: of tables.
    """

    fixed: Fixed
    facts: dict[str, tuple[Any, ...] | None]
    flat: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]]
    numbers: dict[str, int]

    def fits(self, named: Mapping[str, Any]) -> bool:
        """Whether `named` differ from what was checked in nothing that a check looks at."""
        return all(facts == _facts(named[name]) for name, facts in self.facts.items())

    def views(self, named: Mapping[str, Any]) -> Buffers:
        """The arguments, no memory moved."""
        arguments: Buffers = dict(self.numbers, num_tokens=named["q"].shape[0])
        for name in ("q", "query_start_loc", "seq_lens", *WEIGHTS):
            if name in named:
                arguments[name] = named[name]
        for name, (argument, shape, strides) in self.flat.items():
            arguments[name] = torch.as_strided(named[argument], shape, strides)
        if named["token_map"] is not None:
            arguments |= dict(zip(("request", "position"), named["token_map"], strict=True))
        return arguments


def _facts(value: Any) -> tuple[Any, ...] | None:
    """What checks look at of a tensor, or of a pair of them; of None, None."""
    if isinstance(value, torch.Tensor):
        strides = value.stride() if value.layout == torch.strided else value.layout
        return value.shape, strides, value.dtype, value.device
    if isinstance(value, tuple | list):
        return tuple(_facts(part) for part in value)
    return None if value is None else (type(value),)


def layout_of(
    op: str,
    named: Mapping[str, Any],
    *,
    compress_ratio: int,
    window: int,
    max_seq_len: int | None,
) -> Layout:
    """Of the arguments that `named` has. Raises ContractError in the name of `op`."""
    contract = Contract(op, rows="T")
    # Positions are below 2**31, and a slot's number is one of them.
    ratio = contract.integer("compress_ratio", compress_ratio, 0, 2**30)
    window = contract.integer("window", window, 1, 2**30 - 1)
    if max_seq_len is not None:
        max_seq_len = contract.integer("max_seq_len", max_seq_len, 0, 2**31 - 1)
    q = contract.buffer("q", named["q"])
    T, _, C = q.shape
    contract.require(q.shape[1] >= 1 and C >= 1, "q", "[T, H, C] with H, C >= 1", "none")
    unused = ("cmp_kv", "cmp_block_table", "cmp_indices")
    for name in unused if ratio == 0 else ():
        given = type(named[name]).__name__
        contract.require(named[name] is None, name, "None for compress_ratio=0", given)
    flat: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {}
    numbers: dict[str, int] = {}
    B, slots = dict(cmp=1), dict(cmp=0)
    for pool in ("ori", "cmp") if ratio else ("ori",):
        name = f"{pool}_kv"
        contract.plain(name, named[name])
        pages = contract.buffer(name, without_kv_head(named[name]))
        check_pool(contract, pool)
        B[pool] = pages.shape[1]
        flat[name] = (name, tuple(pages.shape), (contract[f"{name}_stride"], C, 1))
        name = f"{pool}_block_table"
        table = contract.tensor(name, named[name], f"S {pool}_entries", torch.int32, apart=True)
        S, n = table.shape
        slots[pool] = n * B[pool]
        contract.require(
            page_shift(B[pool]) >= 0 or slots[pool] <= 2**24, name,
            "at most 2**24 slots for a page size that is not a power of two",
            f"{n} pages of {B[pool]}",
        )  # fmt: skip
        contract.require(slots[pool] < 2**31, name, "< 2**31 slots", f"{slots[pool]} slots")
        stride = table.stride(0) if S > 1 else n
        flat[f"{pool}_tables"] = (name, ((S - 1) * stride + n if S and n else 0,), (1,))
        numbers |= {f"{pool}_table_columns": n, f"{pool}_table_stride": stride}
    if ratio == 0:
        flat["cmp_kv"] = ("ori_kv", (0, 1, C), (C, C, 1))
        flat["cmp_tables"] = ("ori_block_table", (0,), (1,))
        numbers |= dict.fromkeys(("cmp_table_columns", "cmp_table_stride"), 0)
    flat["kv_overlay"] = ("q", (min(T, 1), C), (C, 1))

    widths = {}
    for name, letter in (("ori_indices", "W"), ("cmp_indices", "I")):
        widths[name], stride = _list_width(contract, name, named[name], f"T {letter}")
        source = name if named[name] is not None else "seq_lens"
        flat[name] = (source, (T, widths[name] or 0), (stride, 1))
    ori_rows = contract["ori_pages"] * B["ori"]
    contract.require(
        widths["ori_indices"] is None or page_shift(B["ori"]) >= 0 or ori_rows <= 2**24,
        "ori_kv", "with ori_indices, at most 2**24 rows for a page size that is not a power of two",
        f"{contract['ori_pages']} pages of {B['ori']}",
    )  # fmt: skip
    columns = widths["cmp_indices"]
    if columns is None:
        columns = slots["cmp"]
        if ratio and max_seq_len is not None:
            columns = min(columns, max_seq_len // ratio)
    for name in ("rope_cos", "rope_sin"):
        contract.plain(name, named[name])
        table = _by_token(named[name])
        wide = getattr(table, "dtype", None) == torch.float32
        dtype = torch.float32 if wide else torch.bfloat16
        table = contract.tensor(name, table, "T P", dtype, apart=True)
        strides = (contract.row_stride(name, table, BLOCK), 1)
        flat[name.replace("rope", "freqs")] = (name, tuple(table.shape), strides)
    for name in ("query_start_loc", "seq_lens"):
        contract.buffer(name, named[name])
    if (token_map := named["token_map"]) is not None:
        pair = isinstance(token_map, tuple | list) and len(token_map) == 2
        contract.require(pair, "token_map", "(request, position)", type(token_map).__name__)
    W = widths["ori_indices"]
    fixed = Fixed(
        ratio, window if W is None else W, W is not None, B["ori"], B["cmp"],
        widths["cmp_indices"] is not None, columns,
    )  # fmt: skip
    facts = {name: _facts(value) for name, value in named.items()}
    return Layout(fixed, facts, flat, numbers)


def _list_width(contract: Contract, name: str, value: Any, shape: str) -> tuple[int | None, int]:
    """Columns of a list [T, n] or [T, 1, n], None where there is none; elements from a row to the
    next."""
    if value is None:
        return None, 0
    contract.plain(name, value)
    if isinstance(value, torch.Tensor) and value.dim() == 3 and value.shape[1] == 1:
        value = value.squeeze(1)
    value = contract.tensor(name, value, shape, torch.int32, apart=True)
    return value.shape[1], contract.row_stride(name, value, 1)


def _by_token(table: Any) -> Any:
    """A RoPE table without the dimensions of one."""
    four = isinstance(table, torch.Tensor) and table.dim() == 4 and table.shape[1:3] == (1, 1)
    return table.squeeze(2).squeeze(1) if four else table
