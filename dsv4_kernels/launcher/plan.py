"""The chain, checked and allocated once for a set of shapes: `plan.run`, and graphs of it.

plan = PrefillSparseAttn(q, ori_kv, ..., window=128)    # any arguments of these shapes
attn_out = plan.run(q, ori_kv, ...)                     # as often as you like
captured = plan.capture(q, ori_kv, ...)                 # NPUGraph or CUDAGraph
captured.replay()                                       # on what these tensors hold now
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from dsv4_kernels import device as devices
from dsv4_kernels.buffers import ARGUMENTS, PER_TOKEN
from dsv4_kernels.chains import pipeline
from dsv4_kernels.chains.pipeline import Buffers, Node
from dsv4_kernels.contract import Contract
from dsv4_kernels.launcher import executors
from dsv4_kernels.segments.proj_b import MAX_RANK
from dsv4_kernels.segments.slots import BLOCK_COLUMNS, check_slots

# Tokens per wave: the seed's prefill chunk. Scratch is about 1.8 MiB a token at FLASH (K = 640),
# so a wave needs about 230 MiB however long the chunk.
WAVE_TOKENS = 128

# The sizes that a plan's workspace depends on, and an argument that has each; those of pools and
# tables may differ by run.
_FIXED = {
    "T": "q", "H": "q", "C": "q", "K": "cmp_sparse_indices", "P": "freqs_cos",
    "G": "wo_a", "R": "wo_a", "D": "wo_b",
}  # fmt: skip


class PrefillSparseAttn:
    """`prefill_sparse_attn` for one set of shapes, with a workspace and an output of its own.

    Args:
        *args: as `run` takes them (`arguments.ARGUMENTS`); only their shapes and device count.
        window: rows of the window ring, i.e. where raw indices start to mean the overlay.
        wave_tokens: tokens per pass through the pipeline. It bounds the workspace and changes no
            byte of the output.
        schedule: "decoupled" or "row_barrier"; they differ in the quantisation's granularity.
        groups_per_launch: groups of the output projection per launch; changes no byte either.
        executor: runs the nodes of a wave; by default a stream per lane where there are streams.

    A plan may be run from any stream and any thread: it has one workspace, so its runs come one
    after the other, in the order of their calls. Plans are independent of each other.

    Raises ContractError.
    """

    def __init__(
        self,
        *args: Any,
        window: int = 128,
        wave_tokens: int = WAVE_TOKENS,
        schedule: str = "decoupled",
        groups_per_launch: int = pipeline.GROUPS_PER_LAUNCH,
        executor: executors.Executor | None = None,
    ) -> None:
        arguments = _named(args)
        contract = check(arguments, window)
        contract.integer("wave_tokens", wave_tokens, 1)
        contract.integer("groups_per_launch", groups_per_launch, 1)
        contract.require(
            schedule in pipeline.SCHEDULES,
            "schedule",
            f"one of {', '.join(pipeline.SCHEDULES)}",
            repr(schedule),
        )
        self.nodes: tuple[Node, ...] = pipeline.SCHEDULES[schedule](
            contract["G"], groups_per_launch
        )
        if schedule == "row_barrier":
            width = contract["G"] * contract["R"]
            contract.require(
                width <= MAX_RANK, "wo_a", f"[G, R, J] with G*R <= {MAX_RANK}", f"G*R = {width}"
            )
        self.device: torch.device = arguments["q"].device
        self._window = window
        self._sizes = {letter: contract[letter] for letter in _FIXED}
        self._wave_tokens = wave_tokens
        self._accepted = _signature(arguments)
        self._executor = executor or executors.default(self.nodes, self.device)
        self._workspaces = self._allocate(contract.sizes)
        self._attn_out: torch.Tensor | None = None
        self._api = devices.stream_api(self.device)
        self._last_run: Any = None  # its event, on a device with streams

    def run(self, *args: Any, out: torch.Tensor | None = None) -> torch.Tensor:
        """Run the chain on the current stream, without synchronising.

        Args:
            *args: as for the plan. Pools and tables may be of other sizes than the plan's.
            out: output, [T, D] bf16; by default the plan's own, which its next run overwrites.

        Returns attn_out [T, D] bf16. Raises ContractError before anything is launched or written.
        """
        arguments, attn_out = self._accept(args, out)
        with self._in_turn():
            self._launch(arguments, attn_out)
        return attn_out

    def capture(self, *args: Any, out: torch.Tensor | None = None) -> Captured:
        """Record a run as a graph, whose replays cost the host one launch.

        The graph keeps the addresses of `args` and `out`, and num_tokens as it is now: update the
        tensors in place. Where fewer tokens are live than at capture, give the others a
        cmp_sparse_lens of 0.

        Raises ContractError: as `run`, or the device has no graphs (a CPU).
        """
        has_graphs = self._api is not None
        Contract("capture").require(has_graphs, "q", "on an NPU or a GPU", str(self.device))
        arguments, attn_out = self._accept(args, out)
        with devices.exclusively():
            self.run(*args, out=attn_out)  # compiles what is not compiled yet
            devices.synchronize(self.device)
            graph = devices.graph(self._api)
            with self._api.graph(graph):
                self._launch(arguments, attn_out)
        return Captured(attn_out, graph, self._in_turn, arguments)

    def _launch(self, arguments: Buffers, attn_out: torch.Tensor) -> None:
        T, num_tokens = attn_out.shape[0], arguments["num_tokens"]
        inputs: Buffers = arguments | dict(
            window=self._window, groups=self._sizes["G"], rope_dim=self._sizes["P"]
        )
        # Waves past num_tokens hold dead rows only.
        first_dead_wave = min(-(-num_tokens // self._wave_tokens) * self._wave_tokens, T)
        attn_out[first_dead_wave:].zero_()
        for first in range(0, first_dead_wave, self._wave_tokens):
            last = min(first + self._wave_tokens, first_dead_wave)
            rows = {name: inputs[name][first:last] for name in PER_TOKEN}
            wave = inputs | self._workspaces[last - first] | rows
            wave.update(first_token=first, attn_out=attn_out[first:last])
            self._executor(self.nodes, wave)

    def _accept(
        self, args: tuple[Any, ...], out: torch.Tensor | None
    ) -> tuple[Buffers, torch.Tensor]:
        """Arguments by name and the output; checked in full only where they differ from the last
        that were accepted."""
        arguments = _named(args)
        T, D = self._sizes["T"], self._sizes["D"]
        contract = Contract("prefill_sparse_attn", T=T, D=D)
        if (signature := _signature(arguments)) != self._accepted:
            contract = check(arguments, self._window)
            for letter, size in self._sizes.items():
                contract.require(
                    contract[letter] == size,
                    _FIXED[letter],
                    f"of the plan's size, {letter}={size}",
                    f"{letter} = {contract[letter]}",
                )
            contract.require(
                arguments["q"].device == self.device,
                "q",
                f"on {self.device} like the plan",
                str(arguments["q"].device),
            )
            self._accepted = signature
        contract.integer("num_tokens", arguments["num_tokens"], 0, T)
        if out is None:
            if self._attn_out is None:
                self._attn_out = torch.empty([T, D], dtype=torch.bfloat16, device=self.device)
            return arguments, self._attn_out
        contract.on(self.device, "q")
        return arguments, contract.output("out", out, "T D", torch.bfloat16)

    def _allocate(self, sizes: Mapping[str, int]) -> dict[int, dict[str, torch.Tensor]]:
        """The workspace of a whole wave, and the part of it that the last, shorter wave takes."""
        T, whole = sizes["T"], min(self._wave_tokens, sizes["T"])
        if T == 0:
            return {}
        shapes = {N: pipeline.workspace(self.nodes, {**sizes, "N": N}) for N in (whole, T % whole)}
        memory = {
            name: torch.empty(shape, dtype=dtype, device=self.device)
            for name, (shape, dtype) in shapes[whole].items()
        }
        return {
            N: {
                name: memory[name].view(-1)[: math.prod(shape)].view(shape)
                for name, (shape, _) in shapes[N].items()
            }
            for N in shapes
        }

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Inside, the current stream is behind the plan's last run, whichever stream had it."""
        with devices.exclusively():
            if self._api is None:
                yield
                return
            stream = self._api.current_stream(self.device)
            if self._last_run is not None:
                stream.wait_event(self._last_run)
            yield
            self._last_run = self._last_run or self._api.Event()
            self._last_run.record(stream)


@dataclass(frozen=True)
class Captured:
    """A recorded run. `replay` repeats it on what its tensors hold now, on the current stream."""

    attn_out: torch.Tensor  # [T, D] bf16
    _graph: Any
    _in_turn: Callable[[], AbstractContextManager[None]]
    _arguments: Buffers  # kept alive: the graph knows their addresses

    def replay(self) -> torch.Tensor:
        """Returns attn_out, without synchronising."""
        with self._in_turn():
            self._graph.replay()
        return self.attn_out


def check(arguments: Buffers, window: int) -> Contract:
    """Everything that can be said of the arguments before a launch; binds all letters."""
    contract = Contract("prefill_sparse_attn")
    contract.tensor("q", arguments["q"], "T H C", torch.bfloat16)
    slots = {name: arguments[name] for name in (*pipeline.SLOTS, "num_tokens")}
    check_slots(contract, **slots, window=window, first_token=0, rows="T")
    contract.tensor("attn_sink", arguments["attn_sink"], "H", torch.float32)
    contract.tensor("freqs_cos", arguments["freqs_cos"], "T P", torch.bfloat16)
    contract.tensor("freqs_sin", arguments["freqs_sin"], "T P", torch.bfloat16)
    contract.tensor("wo_a", arguments["wo_a"], "G R J", torch.bfloat16)
    contract.tensor("wo_b", arguments["wo_b"], "D G*R", torch.int8)
    contract.tensor("wo_b_scale", arguments["wo_b_scale"], "D", torch.float32)
    H, C, G, J, P, R = (contract[letter] for letter in ("H", "C", "G", "J", "P", "R"))
    contract.require(H >= 1, "q", "[T, H, C] with H >= 1", "H = 0")
    contract.power_of_two("C", "q", low=16)
    contract.require(
        G >= 1 and H % G == 0 and H * C == G * J,
        "wo_a",
        f"[G, R, J=(H/G)*C] with G a divisor of H={H}, C={C}",
        f"G = {G}, J = {J}",
    )
    contract.power_of_two("P", "freqs_cos", low=2)
    contract.require(P <= C, "freqs_cos", f"[T, P] with P <= C={C}", f"P = {P}")
    contract.require(1 <= R <= MAX_RANK, "wo_a", f"[G, R, J] with R in 1..{MAX_RANK}", f"R = {R}")
    contract.sizes["NB"] = contract["KP"] // BLOCK_COLUMNS
    return contract


def _named(args: tuple[Any, ...]) -> Buffers:
    """The arguments by name, pools without the dimension of the one KV head."""
    Contract("prefill_sparse_attn").require(
        len(args) == len(ARGUMENTS),
        "args",
        f"{len(ARGUMENTS)} arguments, {ARGUMENTS[0]} to {ARGUMENTS[-1]}",
        str(len(args)),
    )
    arguments: Buffers = dict(zip(ARGUMENTS, args, strict=True))
    for name in ("ori_kv", "cmp_kv"):
        pool = arguments[name]
        if isinstance(pool, torch.Tensor) and pool.dim() == 4 and pool.shape[2] == 1:
            arguments[name] = pool.squeeze(2)  # [pages, B, 1, C]; others are for the checks
    return arguments


def _signature(arguments: Buffers) -> tuple[Any, ...]:
    """What the checks look at, num_tokens apart."""
    return tuple(
        (value.shape, value.dtype, value.device, value.is_contiguous())
        if isinstance(value, torch.Tensor)
        else type(value)
        for value in arguments.values()
    )
