"""A chain for one set of shapes: memory made once, launches bound once, waves, turns and graphs.

    plan = Plan("op", chain, arguments)        # checks, allocates
    plan.run(arguments, attn_out)              # looks up pointers and launches

A wave is a pass of the chain over some tokens. With two waves in flight the first segments of a
wave run beside the last of the one before, in a workspace of their own.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from dsv4_kernels import device as devices
from dsv4_kernels.buffers import BUFFERS, PER_TOKEN, Buffers, shapes
from dsv4_kernels.contract import Contract
from dsv4_kernels.launcher import executors
from dsv4_kernels.launcher.executors import Executor
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.launcher.order import in_order_of_issue

# Shapes of pools, tables and K that a plan remembers what it bound for: a server alternates between
# a few, and a binding is some kilobytes of views.
MOST_BINDINGS = 8


class Chain(Protocol):
    """What a plan has to know of a chain.

    fixed: the letters whose sizes a plan does not change, and an argument that has each. shrinking:
    likewise of those that may be smaller than the plan's, since the workspace holds them.
    """

    op: str
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
        executor: runs the nodes; by default a stream per lane where there are streams.

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
    ) -> None:
        contract = chain.check(arguments)
        self._wave_tokens = contract.integer("wave_tokens", wave_tokens, 1)
        if waves_in_flight is not None:
            waves_in_flight = contract.integer("waves_in_flight", waves_in_flight, 1)
        self.device: torch.device = arguments["q"].device
        self._api = devices.stream_api(self.device)
        self._chain = chain
        self._sizes = dict(contract.sizes)
        waves = -(-self._sizes["T"] // self._wave_tokens)
        self.waves_in_flight = min(waves_in_flight or (2 if self._api else 1), max(waves, 1))
        whole = min(self._wave_tokens, self._sizes["T"])
        self.nodes = chain.nodes({**self._sizes, "N": whole})
        self._executor = executor or executors.default(self.device)
        with torch.inference_mode(False):  # memory for runs in any mode
            self._memory = self._allocate()
        self._attn_out: torch.Tensor | None = None
        self._bindings: dict[tuple[Any, ...], Binding] = {}
        self._latest: tuple[tuple[Any, ...], Binding] | None = None
        self._bind(_signature(arguments), arguments, contract)
        self._last_run: Any = None  # its event, on a device with streams
        self._streams: set[Any] = set()  # of callers, which the allocator knows to use the memory

    @property
    def workspace_bytes(self) -> int:
        """Memory that the plan holds between runs, its output left out."""
        return sum(tensor.nbytes for slot in self._memory for tensor in slot.values())

    def run(self, arguments: Buffers, out: torch.Tensor | None = None) -> torch.Tensor:
        """Run the chain on the current stream, without synchronising.

        Args:
            arguments: by name; pools, tables and K may be of other sizes than the plan's.
            out: output, [T, D] bf16; by default the plan's own, which its next run overwrites.

        Returns attn_out. Raises ContractError before anything is launched or written.
        """
        binding, attn_out = self._accept(arguments, out)
        with self._in_turn():
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
        return Captured(attn_out, graph, self._in_turn, arguments)

    def _issue(self, binding: Binding, arguments: Buffers, attn_out: torch.Tensor) -> None:
        T, num_tokens = self._sizes["T"], arguments["num_tokens"]
        live = -(-num_tokens // self._wave_tokens)  # waves behind these hold dead rows only
        end = min(live * self._wave_tokens, T)
        # No mode of the caller's reaches the inside: nothing here has a gradient.
        with torch.inference_mode(), devices.on(attn_out):
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
                buffers["attn_out"] = attn_out
            else:
                buffers.update((name, arguments[name][first:last]) for name in PER_TOKEN)
                buffers["attn_out"] = attn_out[first:last]
            waves.append(buffers)
        return waves

    def _wave_of(self, wave: int) -> int:
        """Tokens of a wave."""
        first = wave * self._wave_tokens
        return min(first + self._wave_tokens, self._sizes["T"]) - first

    def _accept(self, arguments: Buffers, out: torch.Tensor | None) -> tuple[Binding, torch.Tensor]:
        """What was bound for these shapes, and the output; checked in full only where the shapes
        are met for the first time."""
        signature = _signature(arguments)
        if self._latest is not None and self._latest[0] == signature:
            binding = self._latest[1]
        elif (known := self._bindings.get(signature)) is not None:
            binding = known
            self._latest = (signature, known)
        else:
            binding = self._bind(signature, arguments, self._check_again(arguments))
        contract = Contract(self._chain.op, T=self._sizes["T"], D=self._sizes["D"], rows="T")
        arguments["num_tokens"] = contract.integer(
            "num_tokens", arguments["num_tokens"], 0, self._sizes["T"]
        )
        attn_out = self._own_output() if out is None else out
        if out is not None:
            expected = self._own_signature
            if not isinstance(out, torch.Tensor) or _of(out) != expected:
                contract.on(self.device, "q")
                contract.buffer("attn_out", out, "out")
            contract.require(
                not (out.requires_grad and out.is_leaf),
                "out",
                "a tensor that may be written, not a leaf that requires grad",
                "a leaf that requires grad",
            )
        _refuse_aliases(contract, attn_out, arguments)
        return binding, attn_out

    @property
    def _own_signature(self) -> tuple[Any, ...]:
        T, D = self._sizes["T"], self._sizes["D"]
        return torch.Size((T, D)), (D, 1), torch.bfloat16, self.device

    def _own_output(self) -> torch.Tensor:
        if self._attn_out is None:
            with torch.inference_mode(False):
                shape = (self._sizes["T"], self._sizes["D"])
                self._attn_out = torch.empty(shape, dtype=torch.bfloat16, device=self.device)
            for stream in self._streams:
                devices.keep_for(self._attn_out, stream)
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

    def _bind(self, signature: tuple[Any, ...], arguments: Buffers, contract: Contract) -> Binding:
        """Check every node on the buffers that it will get, and keep what runs it."""
        T, whole = self._sizes["T"], min(self._wave_tokens, self._sizes["T"])
        lengths = {N for N in (whole, T % whole) if N} if T else set()
        numbers = self._chain.numbers(contract.sizes)
        workspace = [
            {N: {**_views(memory, {**contract.sizes, "N": N}), **numbers} for N in lengths}
            for memory in self._memory
        ]
        works: dict[int, list[Callable[[Buffers], None]]] = {}
        for N in lengths:
            rows = {name: arguments[name][:N] for name in PER_TOKEN}
            buffers = arguments | workspace[0][N] | rows | {"first_token": 0, "num_tokens": 0}
            with devices.on(arguments["q"]):
                works[N] = [
                    node.work.bind(buffers, group_range=node.part("groups")) for node in self.nodes
                ]
        binding = Binding(self.nodes, self.waves_in_flight, works, workspace)
        while len(self._bindings) >= MOST_BINDINGS:
            self._bindings.pop(next(iter(self._bindings)))
        self._bindings[signature] = binding
        self._latest = (signature, binding)
        return binding

    def _allocate(self) -> list[dict[str, torch.Tensor]]:
        """The workspace of every wave in flight."""
        whole = min(self._wave_tokens, self._sizes["T"])
        extents = shapes(_handed_on(self.nodes), {**self._sizes, "N": whole})
        return [
            {
                name: torch.empty(extent, dtype=BUFFERS[name].dtype, device=self.device)  # type: ignore[arg-type]
                for name, extent in extents.items()
            }
            for _ in range(self.waves_in_flight)
        ]

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Inside, the current stream is behind the plan's last run, whichever stream had it.

        A run inside of a capture neither waits for nor records what is outside of it: its place is
        the graph's, and the order of replays is up to who replays.
        """
        with devices.exclusively(self.device):
            if self._api is None or devices.is_capturing(self._api):
                yield
                return
            stream = self._api.current_stream(self.device)
            self._keep_for(stream)
            if self._last_run is not None:
                stream.wait_event(self._last_run)
            try:
                yield
            finally:
                self._last_run = self._last_run or self._api.Event()
                self._last_run.record(stream)

    def _keep_for(self, stream: Any) -> None:
        """Have the allocator keep the plan's memory until `stream` is done with it."""
        if stream in self._streams:
            return
        self._streams.add(stream)
        own = () if self._attn_out is None else (self._attn_out,)
        for tensor in (*(t for slot in self._memory for t in slot.values()), *own):
            devices.keep_for(tensor, stream)


@dataclass
class Binding:
    """What runs the nodes on arguments of one set of shapes.

    works: of the nodes, by the tokens of a wave. workspace: views by slot and tokens of a wave.
    """

    nodes: Sequence[Node]
    slots: int
    works: dict[int, list[Callable[[Buffers], None]]]
    workspace: list[dict[int, Buffers]]
    _issued: dict[int, tuple[Node, ...]] = field(default_factory=dict)

    def issued(self, waves: int, tokens_of: Callable[[int], int]) -> tuple[Node, ...]:
        """The nodes of this many waves, in their order of issue."""
        if waves not in self._issued:
            nodes = [
                replace(node, wave=wave, slot=wave % self.slots, work=work)
                for wave in range(waves)
                for node, work in zip(self.nodes, self.works[tokens_of(wave)], strict=True)
            ]
            self._issued[waves] = in_order_of_issue(nodes)
        return self._issued[waves]


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


def _handed_on(nodes: Sequence[Node]) -> list[str]:
    """Names of the buffers that the nodes make for each other."""
    written = {name for node in nodes for name in node.writes}
    return [name for name, b in BUFFERS.items() if b.lifetime == "wave" and name in written]


def _views(memory: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> Buffers:
    """The part of every buffer's memory that these sizes take."""
    return {
        name: memory[name].view(-1)[: math.prod(extent)].view(extent)
        for name, extent in shapes(memory, sizes).items()
    }


def _signature(arguments: Buffers) -> tuple[Any, ...]:
    """What the checks look at, num_tokens apart."""
    return tuple(
        _of(value) if isinstance(value, torch.Tensor) else type(value)
        for value in arguments.values()
    )


def _of(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _refuse_aliases(contract: Contract, out: torch.Tensor, arguments: Buffers) -> None:
    """No wave may read what another has already overwritten."""
    if out.device.type == "meta" or not out.nbytes:
        return
    begin = out.data_ptr()
    end = begin + out.nbytes
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            first = value.data_ptr()
            if first < end and begin < first + value.nbytes and value.nbytes:
                contract.require(False, "out", f"memory apart from `{name}`", "an overlap")
