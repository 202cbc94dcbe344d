"""`prefill_sparse_attn`, one request's chunk, and its plan for many chunks of one shape.

plan = PrefillSparseAttn(q, ..., wo_b_scale, window=128)  # checks, allocates, binds weights
attn_out = plan.run(q, ..., wo_b_scale)                   # arguments of the same sizes
captured = plan.capture(q, ..., wo_b_scale)               # an NPUGraph or CUDAGraph
captured.replay()                                         # on what these tensors hold now
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dsv4_kernels.buffers import ARGUMENTS, BUFFERS, PER_TOKEN, WEIGHTS, Buffers
from dsv4_kernels.chains import attention as attention_forms
from dsv4_kernels.chains import projection as projection_forms
from dsv4_kernels.contract import Contract
from dsv4_kernels.device.untraced import untraced
from dsv4_kernels.dims import Dims
from dsv4_kernels.launcher.executors import Executor
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.launcher.plan import Captured, Plan, Planned
from dsv4_kernels.segments import SEGMENTS
from dsv4_kernels.segments.inverse_rope import MIN_ROPE_DIM
from dsv4_kernels.segments.proj_b import MAX_RANK
from dsv4_kernels.segments.slots import (
    BLOCK_COLUMNS,
    bind_columns,
    check_sharers,
    check_slots,
    without_kv_head,
)
from dsv4_kernels.segments.tiles import Tiles

# Tokens per wave: the seed's prefill chunk. A wave's scratch, 192 MiB at FLASH (K = 640) and 520 at
# PRO (K = 1152), is the same however long the chunk; 128 columns more are 32 and 48 MiB.
WAVE_TOKENS = 128

# Groups of the output projection per launch. A launch costs tens of microseconds of host time: one
# group a launch is 32 launches of FLASH's projection, more host time than the device has work for.
# 4 leaves FLASH two chunks and PRO four: a chunk's merge, RoPE, quantisation and sum may then run
# beside another's proj_a and proj_b, also where there is one wave only (`graph --overlap` counts).
GROUPS_PER_LAUNCH = 4

SCHEDULES = projection_forms.FORMS  # by name; the first is the default
ATTENTIONS = attention_forms.FORMS  # likewise


class PrefillChain:
    """One chunk's chain for the launcher: its contract, nodes and numbers.

    Args:
        window: rows of the window ring.
        schedule, attention: forms of projection and attention.
        sharers: neighbouring tokens that share their KV.
        tail: the fewest columns of a row's last block; the form's own if None.
        groups_per_launch: groups of the output projection per launch.
        tiles: tiles to use instead of a segment's own, by segment.
    """

    op = "prefill_sparse_attn"
    rope = "freqs_cos"  # the argument that says the rope dimension
    fixed: Mapping[str, str] = {
        "T": "q", "H": "q", "C": "q", "P": "freqs_cos", "G": "wo_a", "R": "wo_a", "D": "wo_b",
    }  # fmt: skip
    shrinking: Mapping[str, str] = {"K": "cmp_sparse_indices"}
    called: Mapping[str, str] = {}
    per_token: Sequence[str] = PER_TOKEN

    def __init__(
        self,
        *,
        window: int = 128,
        schedule: str = "decoupled",
        attention: str = "fused",
        sharers: int = 1,
        tail: int | None = None,
        groups_per_launch: int = GROUPS_PER_LAUNCH,
        tiles: Mapping[str, Tiles] | None = None,
    ) -> None:
        contract = Contract(self.op)
        contract.one_of("schedule", schedule, SCHEDULES)
        contract.one_of("attention", attention, attention_forms.FORMS)
        own = attention_forms.TAIL.get(attention, BLOCK_COLUMNS)
        self._tail = own if tail is None else tail
        self._window = window
        self._sharers = check_sharers(contract, sharers)
        self._forms = attention_forms.FORMS[attention], projection_forms.FORMS[schedule]
        self._groups_per_launch = contract.integer("groups_per_launch", groups_per_launch, 1)
        named = tiles is None or isinstance(tiles, Mapping)
        contract.require(named, "tiles", "a mapping of segments' names", type(tiles).__name__)
        for name in tiles or ():
            contract.one_of("tiles", name, SEGMENTS)
        self._segments = {
            name: segment.with_tiles((tiles or {}).get(name)) for name, segment in SEGMENTS.items()
        }
        # The forms of the projection ask for it by this name.
        own = attention_forms.PROJ_A.get(attention, "proj_a")
        self._segments["proj_a"] = self._segments[own]

    def check(self, arguments: Buffers) -> Contract:
        """Everything that can be said of the arguments before a launch; binds all letters."""
        contract = self._check_shared(self.op, arguments)
        H, C, G, J, R = (contract[letter] for letter in ("H", "C", "G", "J", "R"))
        contract.require(
            G >= 1 and H % G == 0 and H * C == G * J,
            "wo_a",
            f"[G, R, J=(H/G)*C] with G a divisor of H={H}, C={C}",
            f"G = {G}, J = {J}",
        )
        contract.require(
            1 <= R <= MAX_RANK, "wo_a", f"[G, R, J] with R in 1..{MAX_RANK}", f"R = {R}"
        )
        return contract

    def check_attention(self, op: str, arguments: Buffers, groups: int) -> Contract:
        """Likewise of attention by itself, whose heads are packed by so many groups, in the name of
        `op`; binds the letters that it has."""
        contract = self._check_shared(op, arguments)
        H, C = contract["H"], contract["C"]
        G = contract.integer("groups", groups, 1)
        contract.require(H % G == 0, "groups", f"a divisor of H={H}", str(G))
        contract.sizes |= dict(G=G, J=H // G * C)
        return contract

    def _check_shared(self, op: str, arguments: Buffers) -> Contract:
        """What holds with an output projection and without."""
        contract = Contract(op, rows="T")
        contract.called = self.called
        self._check_inputs(contract, arguments)
        check_widths(contract, self.rope)
        return contract

    def _check_inputs(self, contract: Contract, arguments: Buffers) -> None:
        """The arguments that there are, and what their shapes do not say."""
        for name in ARGUMENTS:
            if BUFFERS[name].dtype is not int and name in arguments:
                contract.buffer(name, arguments[name])
        check_slots(
            contract, num_tokens=arguments["num_tokens"], window=self._window, first_token=0,
            tail=self._tail,
        )  # fmt: skip
        check_sharers(contract, self._sharers)

    def columns(self, K: int) -> dict[str, int]:
        """KP and what follows from it, by their letters."""
        contract = Contract(self.op)
        bind_columns(contract, K, self._tail)
        return contract.sizes

    def nodes(self, sizes: Mapping[str, int]) -> tuple[Node, ...]:
        """Those of one wave: attention, then the projection."""
        return self.attention(sizes) + self.projection(sizes)

    def attention(self, sizes: Mapping[str, int]) -> tuple[Node, ...]:
        """Those that make o_packed."""
        return tuple(self._forms[0](self._segments, sizes, self._groups_per_launch))

    def projection(self, sizes: Mapping[str, int]) -> tuple[Node, ...]:
        """Those that make attn_out of it."""
        return tuple(self._forms[1](self._segments, sizes, self._groups_per_launch))

    def numbers(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        """What the segments take beside tensors, the same in every run."""
        return dict(
            window=sizes["window"],
            groups=sizes["G"],
            rope_dim=sizes["P"],
            softmax_scale=sizes["C"] ** -0.5,
            sharers=self._sharers,
            tail=self._tail,
        )


def check_widths(contract: Contract, rope: str) -> None:
    """Heads, their width, and the rope dimension, which the argument of this name has."""
    H, C, P = (contract[letter] for letter in ("H", "C", "P"))
    contract.require(H >= 1, "q", "[T, H, C] with H >= 1", "H = 0")
    contract.power_of_two("C", "q", low=16)
    contract.power_of_two("P", rope, low=MIN_ROPE_DIM)
    contract.require(P <= C, rope, f"[T, P] with P <= C={C}", f"P = {P}")


def wave_nodes(
    dims: Dims, tokens: int, columns: int | None = None, **options: Any
) -> tuple[Node, ...]:
    """The nodes of one wave of a layer.

    Args:
        tokens: of the wave.
        columns: K; those of a CSA layer if None.
        **options: as `PrefillChain` takes them.
    """
    ring, K = -(-dims.window // dims.page_rows), columns or dims.index_columns
    chain = PrefillChain(**options)
    sizes = dims.letters() | dict(
        N=tokens, T=tokens, K=K, ori_pages=ring, ori_entries=ring, cmp_pages=K, cmp_entries=K,
        X=options.get("sharers", 1),
    )  # fmt: skip
    return chain.nodes(sizes | chain.columns(K))


class PrefillSparseAttn(Planned):
    """`prefill_sparse_attn` for one set of shapes, with a workspace and an output of its own.

    Args:
        *args, **kwargs: the arguments of `prefill_sparse_attn` that have no default, in its order
            or by name. Of the weights (attn_sink, wo_a, wo_b, wo_b_scale) the plan keeps the
            tensors, of the others only shapes, dtypes and device count.
        window: rows of the window ring, i.e. where raw indices start to mean the overlay.
        wave_tokens: tokens per pass through the pipeline. It bounds the workspace and changes no
            byte of the output.
        waves_in_flight: waves that may run at a time, each with a workspace of its own. By default
            two where the device has streams and the chunk more than one wave; 1 saves the memory
            (`workspace_bytes`).
        schedule: "decoupled" or "row_barrier"; they differ in the quantisation's granularity.
        attention: "fused", one kernel per block of columns and a merge of the blocks, or "lanes",
            QK, a softmax of whole rows, P.V and RoPE each by itself: fewer bytes, more launches, or
            "one_kernel", all of it in one, which Ascend refuses. They differ in rounding. Or
            "separate_tail": "fused", to the byte, with merge and RoPE each by itself. By default
            the device's: "one_kernel" on CUDA, "fused" elsewhere. Lanes compile for their columns,
            K in blocks of 128, or 128 and 16, 32 or 64: run each once before it is waited for.
        sharers: a promise of the caller's, 1, 2, 4 or 8: of so many neighbouring tokens, from the
            chunk's first on, a column of the indices names one KV row or is unused (-1, or past
            the length). Their KV is then moved once. What of it a token attends to is still its
            own. Where the promise does not hold, the token's result is wrong, but no memory
            outside of the pools is read; a NaN or Inf in a row reaches all of the tokens. Must be 1
            for "fused" on CUDA, whose shared memory does not hold KV beside the output.
        groups_per_launch: groups of the output projection per launch; changes no byte either.
        executor: runs the nodes; by default a stream per lane where there are streams and two
            launches may run at a time.
        tiles: tiles to use instead of a segment's own, by the segment's name.
        out_dtype: of the plan's own output. torch.float32 is a rank's part before the one rounding,
            for `tp.reduce`.

    A plan may be run from any stream and any thread: its runs come one after the other, in the
    order of their calls. Plans are independent of each other. No run has a gradient.

    Raises ContractError.
    """

    @untraced
    def __init__(
        self,
        *args: Any,
        window: int = 128,
        wave_tokens: int = WAVE_TOKENS,
        waves_in_flight: int | None = None,
        schedule: str = "decoupled",
        attention: str | None = None,
        sharers: int = 1,
        groups_per_launch: int = GROUPS_PER_LAUNCH,
        executor: Executor | None = None,
        tiles: Mapping[str, Tiles] | None = None,
        out_dtype: torch.dtype = torch.bfloat16,
        **kwargs: Any,
    ) -> None:
        arguments = named(args, kwargs, {})
        form = attention_forms.form_of(PrefillChain.op, attention, arguments["q"])
        self._plan = Plan(
            PrefillChain(
                window=window,
                schedule=schedule,
                attention=form,
                sharers=sharers,
                tail=attention_forms.tail_on(arguments["q"]),
                groups_per_launch=groups_per_launch,
                tiles=tiles,
            ),
            arguments,
            wave_tokens=wave_tokens,
            waves_in_flight=waves_in_flight,
            executor=executor,
            out_dtype=out_dtype,
        )
        self._weights = {name: arguments[name] for name in WEIGHTS}

    @untraced
    def run(self, *args: Any, out: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """Run the chain on the current stream, without synchronising and allocating nothing.

        (triton-ascend 3.2.0 itself allocates the scratch of a MIX kernel, qk_softmax_pv for one,
        from torch's allocator at every launch: its backends/ascend/driver.py.)

        Args:
            *args, **kwargs: as for the plan. Pools and tables may be of other sizes than the
                plan's, K smaller; weights that are not given are the plan's.
            out: output, [T, D] bf16 or fp32, apart from every argument; by default the plan's own,
                which its next run overwrites.

        Returns attn_out [T, D]. Raises ContractError before anything is launched or written.
        """
        return self._plan.run(named(args, kwargs, self._weights), out)

    @untraced
    def capture(self, *args: Any, out: torch.Tensor | None = None, **kwargs: Any) -> Captured:
        """Record a run as a graph, whose replays cost the host one launch.

        The graph keeps the addresses of the tensors, and num_tokens as it is now: update the
        tensors in place. Where fewer tokens are live than at capture, give the others a
        cmp_sparse_lens of 0.

        Raises ContractError: as `run`, or the device has no graphs (a CPU).
        """
        return self._plan.capture(named(args, kwargs, self._weights), out)


@untraced
def prefill_sparse_attn(
    q: torch.Tensor,  # [T, H, C] bf16
    ori_kv: torch.Tensor,  # [pages, B, C] or [pages, B, 1, C] bf16
    ori_block_table: torch.Tensor,  # [n] int32
    kv_overlay: torch.Tensor,  # [T, C] bf16
    cmp_kv: torch.Tensor,  # [pages, B, C] or [pages, B, 1, C] bf16
    cmp_block_table: torch.Tensor,  # [m] int32
    cmp_sparse_indices: torch.Tensor,  # [T, K] int32
    cmp_sparse_lens: torch.Tensor,  # [T] int32
    attn_sink: torch.Tensor,  # [H] fp32
    num_tokens: int,
    freqs_cos: torch.Tensor,  # [T, P] bf16
    freqs_sin: torch.Tensor,  # [T, P] bf16
    wo_a: torch.Tensor,  # [G, R, J] bf16
    wo_b: torch.Tensor,  # [D, G*R] int8
    wo_b_scale: torch.Tensor,  # [D] fp32
    *,
    window: int = 128,
    out: torch.Tensor | None = None,
    wave_tokens: int = WAVE_TOKENS,
    waves_in_flight: int | None = None,
    schedule: str = "decoupled",
    attention: str | None = None,
    sharers: int = 1,
    groups_per_launch: int = GROUPS_PER_LAUNCH,
    executor: Executor | None = None,
    tiles: Mapping[str, Tiles] | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    """DeepSeek-V4's prefill sparse attention, through to its grouped INT8 output projection.

    Args:
        q: queries, rotated.
        ori_kv, ori_block_table: window ring, paged: history before this chunk. K and V are one row.
        kv_overlay: this chunk's own KV.
        cmp_kv, cmp_block_table: compressed KV, paged. Pools and tables may be empty.
        cmp_sparse_indices, cmp_sparse_lens: raw slot indices (contract in segments/slots.py) and
            the usable prefix of each row.
        attn_sink: logit per head that takes part in the denominator only.
        num_tokens: live tokens, 0..T; later rows of the output are zeros.
        freqs_cos, freqs_sin: RoPE tables of the tokens, the first P/2 columns are used.
        wo_a, wo_b, wo_b_scale: output projection; wo_b is quantised per output channel.
        out: output, [T, D] bf16 or fp32; allocated if None.
        window, wave_tokens, waves_in_flight, schedule, attention, sharers, groups_per_launch,
            executor, tiles, out_dtype: as `PrefillSparseAttn` takes them, which is what to use for
            one set of shapes many times.

    Returns attn_out [T, D], on the current stream and without synchronising. There is no
    gradient. Raises ContractError before anything is launched or written.
    """
    arguments = (
        q, ori_kv, ori_block_table, kv_overlay, cmp_kv, cmp_block_table, cmp_sparse_indices,
        cmp_sparse_lens, attn_sink, num_tokens, freqs_cos, freqs_sin, wo_a, wo_b, wo_b_scale,
    )  # fmt: skip
    plan = PrefillSparseAttn(
        *arguments,
        window=window,
        wave_tokens=wave_tokens,
        waves_in_flight=waves_in_flight,
        schedule=schedule,
        attention=attention,
        sharers=sharers,
        groups_per_launch=groups_per_launch,
        executor=executor,
        tiles=tiles,
        out_dtype=out_dtype,
    )
    return plan.run(*arguments, out=out)


def named(args: tuple[Any, ...], kwargs: Mapping[str, Any], known: Mapping[str, Any]) -> Buffers:
    """The arguments by name, pools without the dimension of the one KV head."""
    if len(args) == len(ARGUMENTS) and not kwargs:
        arguments = dict(zip(ARGUMENTS, args, strict=True))
    else:
        contract = Contract(PrefillChain.op)
        arguments = contract.by_name(ARGUMENTS, args, kwargs, known)
    for name in ("ori_kv", "cmp_kv"):
        arguments[name] = without_kv_head(arguments[name])
    return arguments
