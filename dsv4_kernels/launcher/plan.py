"""A chain for one set of shapes: memory made once, launches bound once, waves, turns and graphs.

    plan = Plan(chain, arguments, wave_tokens=128)  # checks, allocates, binds
    attn_out = plan.run(arguments)                  # looks up pointers and launches

A wave is a pass of the chain over some tokens. With two waves in flight the first segments of a
wave run beside the last of the one before, in a workspace of their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from dsv4_kernels import device as devices
from dsv4_kernels.buffers import BUFFERS, Buffers, Lifetime, shapes
from dsv4_kernels.contract import Contract
from dsv4_kernels.launcher import executors
from dsv4_kernels.launcher.binding import Binding, Signature, views
from dsv4_kernels.launcher.executors import Executor
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.launcher.order import in_order_of_issue
from dsv4_kernels.launcher.turns import Turns

# Shapes of pools, tables and K that a plan remembers what it bound for: a server alternates between
# a few, and a binding is some kilobytes of views.
MOST_BINDINGS = 8

_NO_MODE = contextlib.nullcontext()


class Chain(Protocol):
    """What a plan has to know of a chain.

    fixed: the letters whose sizes a plan does not change, and an argument that has each. shrinking:
    likewise of those that may be smaller than the plan's, since the workspace holds them.
    per_token: the arguments that have a row for each token. called: what the caller calls arguments
    that have another name here.
    """

    op: str
    called: Mapping[str, str]
    per_token: Sequence[str]
    fixed: Mapping[str, str]
    shrinking: Mapping[str, str]

    def check(self, arguments: Buffers) -> Contract:
        """Everything that can be said of the arguments before a launch; binds all letters."""
        ...

    def nodes(self, sizes: Mapping[str, int]) -> tuple[Node, ...]:
        """Those of one wave, in an order that their edges allow; `work` of each has a `bind`."""
        ...

    def numbers(self, sizes: Mapping[str, int]) -> Mapping[str, Any]:
        """Plain numbers that its nodes take, the same in every run."""
        ...


class Plan:
    """Runs a chain on arguments of one set of shapes.

    Args:
        chain: what to run.
        arguments: by name; only their shapes, dtypes and device count.
        wave_tokens: tokens of a wave. It bounds the workspace and changes no byte of the output.
        waves_in_flight: copies of the workspace, and so waves that may run at a time; 2 where the
            device has streams and the chunk more than one wave, if None.
        executor: runs the nodes; `executors.default` if None.
        out_dtype: of the plan's own output, bf16 or fp32.

    A plan may be run from any stream and any thread: its runs come one after the other, in the
    order of their calls. Plans are independent of each other. Raises ContractError.
    """

    def __init__(
        self,
        chain: Chain,
        arguments: Buffers,
        *,
        wave_tokens: int,
        waves_in_flight: int | None = None,
        executor: Executor | None = None,
        out_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        contract = chain.check(arguments)
        self._wave_tokens = contract.integer("wave_tokens", wave_tokens, 1)
        X = 1 if "tiled" in contract.sizes else contract.sizes.get("X", 1)
        contract.require(
            self._wave_tokens % X == 0, "wave_tokens", f"a multiple of sharers={X}", wave_tokens
        )
        if waves_in_flight is not None:
            waves_in_flight = contract.integer("waves_in_flight", waves_in_flight, 1)
        known = executor is None or callable(executor)
        contract.require(known, "executor", "callable with nodes and waves", repr(executor))
        may = out_dtype in (torch.bfloat16, torch.float32)
        contract.require(may, "out_dtype", "torch.bfloat16 or torch.float32", repr(out_dtype))
        self._out_dtype = out_dtype
        self.device: torch.device = arguments["q"].device
        self._api = devices.stream_api(self.device)
        self._chain = chain
        self._sizes = dict(contract.sizes)
        # For what is said of one argument of a run by itself.
        self._said = Contract(chain.op, "T", T=self._sizes["T"], D=self._sizes["D"])
        self._said.on(self.device, "q")
        self._said.called = chain.called
        waves = -(-self._sizes["T"] // self._wave_tokens)
        self.waves_in_flight = min(waves_in_flight or (2 if self._api else 1), max(waves, 1))
        whole = min(self._wave_tokens, self._sizes["T"])
        self.nodes = chain.nodes({**self._sizes, "N": whole})
        # Waves always overlap: each has a gather that waits for no projection.
        serial = in_order_of_issue(self.nodes) if waves <= 1 else None
        self._executor = executor or executors.default(self.device, serial)
        with torch.inference_mode(False):  # memory for runs in any mode
            self._memory = [self._allocate("wave", whole) for _ in range(self.waves_in_flight)]
            self._chunk = self._allocate("chunk", self._sizes["T"])
        self._turns = Turns(self.device, self._api)
        for tensor in self._workspace():
            self._turns.keep(tensor)
        self._launching = devices.launching(self.device)
        self._attn_out: torch.Tensor | None = None
        self._checked_out: Signature | None = None  # of the last that a caller gave
        self._bindings: dict[tuple[Any, ...], Binding] = {}
        self._latest = self._bind(Signature(arguments), arguments, contract)

    @property
    def workspace_bytes(self) -> int:
        """Memory that the plan holds between runs, its output left out."""
        return sum(tensor.nbytes for tensor in self._workspace())

    def run(self, arguments: Buffers, out: torch.Tensor | None = None) -> torch.Tensor:
        """Run the chain on the current stream, without synchronising.

        Args:
            arguments: by name; pools, tables and K may be of other sizes than the plan's.
            out: output, [T, D] bf16 or fp32; by default the plan's own, which its next run
                overwrites.

        Returns attn_out. Raises ContractError before anything is launched or written.
        """
        binding, attn_out = self._accept(arguments, out)
        with self._turns.next():
            self._issue(binding, arguments, attn_out)
        return attn_out

    def capture(self, arguments: Buffers, out: torch.Tensor | None = None) -> Captured:
        """Record a run as a graph, whose replays cost the host one launch.

        The graph keeps the addresses of the tensors, and num_tokens as it is now: update the
        tensors in place. Raises ContractError: as `run`, or the device has no graphs (a CPU).
        """
        has_graphs = self._api is not None
        Contract("capture").require(has_graphs, "q", "on an NPU or a GPU", str(self.device))
        binding, attn_out = self._accept(arguments, out)
        with devices.exclusively(self.device), devices.current(self.device):
            self.run(arguments, attn_out)  # compiles what is not compiled yet
            devices.synchronize(self.device)
            graph = devices.graph(self._api)
            with self._api.graph(graph):
                self._issue(binding, arguments, attn_out)
        return Captured(attn_out, graph, self._turns, arguments)

    def _issue(self, binding: Binding, arguments: Buffers, attn_out: torch.Tensor) -> None:
        T, num_tokens = self._sizes["T"], arguments["num_tokens"]
        live = -(-num_tokens // self._wave_tokens)  # waves behind these hold dead rows only
        end = min(live * self._wave_tokens, T)
        # Where torch itself has something to do: no mode of the caller's reaches it, and nothing
        # here has a gradient.
        mode = _NO_MODE if end == T == self._wave_tokens * live else torch.inference_mode()
        with mode, self._launching:
            if end < T:
                attn_out[end:].zero_()
            if live:
                waves = self._waves(binding, arguments, attn_out, end)
                self._executor(binding.issued(live, self._wave_of), waves)

    def _waves(
        self, binding: Binding, arguments: Buffers, attn_out: torch.Tensor, end: int
    ) -> list[Buffers]:
        """The buffers of every wave."""
        waves = []
        for wave, first in enumerate(range(0, end, self._wave_tokens)):
            last = min(first + self._wave_tokens, end)
            buffers = arguments | binding.workspace[wave % self.waves_in_flight][last - first]
            buffers["first_token"] = first
            if last - first == self._sizes["T"]:
                buffers.update(self._chunk)
                buffers["attn_out"] = attn_out
            else:
                per_token = self._chain.per_token
                buffers.update(self._of_chunk(first, last))
                buffers.update((name, arguments[name][first:last]) for name in per_token)
                buffers["attn_out"] = attn_out[first:last]
            waves.append(buffers)
        return waves

    def _of_chunk(self, first: int, last: int) -> Buffers:
        """The part of the chunk's own buffers that these tokens have."""
        X = self._sizes.get("X", 1)
        parts = {"N": slice(first, last), "U": slice(first // X, -(-last // X))}
        return {
            name: tensor[parts[BUFFERS[name].shape.split()[0]]]
            for name, tensor in self._chunk.items()
        }

    def _wave_of(self, wave: int) -> int:
        """Tokens of a wave."""
        first = wave * self._wave_tokens
        return min(first + self._wave_tokens, self._sizes["T"]) - first

    def _accept(self, arguments: Buffers, out: torch.Tensor | None) -> tuple[Binding, torch.Tensor]:
        """What was bound for these shapes, and the output; checked in full only where the shapes
        are met for the first time."""
        binding = self._latest
        if not binding.signature.fits(arguments):
            signature = Signature(arguments)
            known = self._bindings.get(signature.key)
            binding = known or self._bind(signature, arguments, self._check_again(arguments))
            self._latest = binding
        num_tokens = arguments["num_tokens"]
        if type(num_tokens) is not int or not 0 <= num_tokens <= self._sizes["T"]:
            arguments["num_tokens"] = self._said.integer(
                "num_tokens", num_tokens, 0, self._sizes["T"]
            )
        attn_out = self._own_output() if out is None else self._checked_output(out)
        self._said.apart("out", attn_out, arguments, binding.signature.nbytes)
        return binding, attn_out

    def _checked_output(self, out: torch.Tensor) -> torch.Tensor:
        if self._checked_out is None or not self._checked_out.fits({"out": out}):
            self._said.buffer("attn_out", out, "out")
            self._checked_out = Signature({"out": out})
        self._said.may_be_written("out", out)
        return out

    def _own_output(self) -> torch.Tensor:
        if self._attn_out is None:
            with torch.inference_mode(False):
                shape = (self._sizes["T"], self._sizes["D"])
                self._attn_out = torch.empty(shape, dtype=self._out_dtype, device=self.device)
            self._turns.keep(self._attn_out)
        return self._attn_out

    def _check_again(self, arguments: Buffers) -> Contract:
        """The contract of arguments that differ from all before, which must fit the plan."""
        contract = self._chain.check(arguments)
        for letter, argument in self._chain.fixed.items():
            size, own = contract[letter], self._sizes[letter]
            contract.require(
                size == own, argument, f"of the plan's size, {letter}={own}", f"{letter} = {size}"
            )
        for letter, argument in self._chain.shrinking.items():
            size, own = contract[letter], self._sizes[letter]
            contract.require(
                size <= own,
                argument,
                f"of at most the plan's size, {letter}={own}",
                f"{letter} = {size}",
            )
        where = arguments["q"].device
        contract.require(where == self.device, "q", f"on {self.device} like the plan", str(where))
        return contract

    def _bind(self, signature: Signature, arguments: Buffers, contract: Contract) -> Binding:
        """Check every node on the buffers that it will get, and keep what runs it."""
        T, whole = self._sizes["T"], min(self._wave_tokens, self._sizes["T"])
        lengths = {N for N in (whole, T % whole) if N} if T else set()
        numbers = self._chain.numbers(contract.sizes)
        workspace = [
            {N: {**views(memory, {**contract.sizes, "N": N}), **numbers} for N in lengths}
            for memory in self._memory
        ]
        works: dict[int, list[Callable[[Buffers], None]]] = {}
        for N in lengths:
            rows = {name: arguments[name][:N] for name in self._chain.per_token}
            rows |= self._of_chunk(0, N)
            buffers = arguments | workspace[0][N] | rows | {"first_token": 0, "num_tokens": 0}
            with devices.on(arguments["q"]):
                works[N] = [
                    node.work.bind(buffers, group_range=node.part("groups")) for node in self.nodes
                ]
        binding = Binding(signature, self.nodes, self.waves_in_flight, works, workspace)
        while len(self._bindings) >= MOST_BINDINGS:
            self._bindings.pop(next(iter(self._bindings)))
        self._bindings[signature.key] = binding
        return binding

    def _workspace(self) -> list[torch.Tensor]:
        """All memory that the nodes hand on."""
        return [tensor for part in (*self._memory, self._chunk) for tensor in part.values()]

    def _allocate(self, lifetime: Lifetime, tokens: int) -> dict[str, torch.Tensor]:
        """The buffers of this lifetime that the nodes make for each other."""
        written = {name for node in self.nodes for name in node.writes}
        made = [n for n, b in BUFFERS.items() if b.lifetime == lifetime and n in written]
        return {
            name: torch.empty(extent, dtype=BUFFERS[name].dtype, device=self.device)  # type: ignore[arg-type]
            for name, extent in shapes(made, {**self._sizes, "N": tokens}).items()
        }


class Planned:
    """What is to be known of a plan, for those that have one."""

    _plan: Plan

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes of one wave."""
        return self._plan.nodes

    @property
    def waves_in_flight(self) -> int:
        """Copies of the workspace."""
        return self._plan.waves_in_flight

    @property
    def workspace_bytes(self) -> int:
        """Memory that the plan holds between runs, its output left out."""
        return self._plan.workspace_bytes


@dataclass(frozen=True)
class Captured:
    """A recorded run. `replay` repeats it on what its tensors hold now, on the current stream."""

    attn_out: torch.Tensor  # [T, D] bf16 or fp32
    _graph: Any
    _turns: Turns
    _arguments: Buffers  # kept alive: the graph knows their addresses

    def replay(self) -> torch.Tensor:
        """Returns attn_out, without synchronising."""
        with self._turns.next():
            self._graph.replay()
        return self.attn_out
