"""What a demo shows: a chunk of one request, or a server's batch; drawn, run, and judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

import reference
from dsv4_kernels.buffers import Buffers
from dsv4_kernels.chains.batch import sparse_attn
from dsv4_kernels.chains.prefill import prefill_sparse_attn
from dsv4_kernels.dims import LAYER_RATIOS, PRESETS
from dsv4_kernels.inputs.batch import BatchInputs, make_batch
from dsv4_kernels.inputs.prefill import PrefillInputs, make_inputs
from dsv4_kernels.inputs.requests import decode_step, mixed_step
from dsv4_kernels.launcher.executors import Executor
from reference.batch import as_raw
from reference.batch import oracle as oracle_of_requests
from reference.bounds import Verdict
from reference.chain_bounds import judge_chain

GAP = 24  # elements between two pages: somebody else's memory, as in a server's arena


@dataclass(frozen=True)
class Judged:
    """verdicts: on every hand-over. reference, oracle: what the output should be."""

    verdicts: dict[str, Verdict]
    reference: torch.Tensor
    oracle: torch.Tensor


class Case(Protocol):
    """what: a line about it."""

    what: str

    def run(self, executor: Executor | None = None) -> torch.Tensor:
        """The chain; under an executor of the demo's, with one launch for all groups."""
        ...

    def taken(self, buffers: Buffers) -> Buffers:
        """The buffers of a wave as the segments' references take them."""
        ...

    def judged(self, out: torch.Tensor, handed_on: Mapping[str, torch.Tensor]) -> Judged:
        """On the chain's output and what its segments hand on."""
        ...


class Chunk:
    """Of one request, from a position on."""

    def __init__(
        self, preset: str, layer: str, tokens: int, start: int, seed: int, device: torch.device
    ) -> None:
        self.what = f"{tokens} tokens from position {start}"
        self._inputs: PrefillInputs = make_inputs(
            PRESETS[preset], layer=layer, tokens=tokens, start=start, seed=seed, device=device
        )

    def run(self, executor: Executor | None = None) -> torch.Tensor:
        options = _in_one_launch(executor, self._inputs.wo_a)
        return prefill_sparse_attn(*self._inputs.args(), window=self._inputs.window, **options)

    def taken(self, buffers: Buffers) -> Buffers:
        return buffers

    def judged(self, out: torch.Tensor, handed_on: Mapping[str, torch.Tensor]) -> Judged:
        on_cpu = self._inputs.to("cpu")
        exact = reference.oracle(*on_cpu.args(), window=on_cpu.window)
        return _judged(on_cpu.args(), on_cpu.window, out, handed_on, exact)


class Batch:
    """Of several requests: a decode step in a graph's capacity, or a mixed one of exact size."""

    def __init__(
        self, preset: str, layer: str, tokens: int, start: int, seed: int, device: torch.device,
        *, mtp: int, mixed: bool,
    ) -> None:  # fmt: skip
        requests = (mixed_step if mixed else decode_step)(tokens, start=start, mtp=mtp, seed=seed)
        padded = sum(request.length == 0 for request in requests)
        kinds = (
            f"decodes of {1 + mtp} first, then prompts" if mixed else f"{padded} of them padding"
        )
        self.what = f"{tokens} tokens of {len(requests)} requests, {kinds}; positions to {start}"
        self._inputs: BatchInputs = make_batch(
            PRESETS[preset], requests, ratio=LAYER_RATIOS[layer], capacity=tokens,
            gap=GAP, seed=seed,
        ).to(device)  # fmt: skip

    def run(self, executor: Executor | None = None) -> torch.Tensor:
        options = self._inputs.options() | _in_one_launch(executor, self._inputs.wo_a)
        return sparse_attn(*self._inputs.args(), **options)

    def taken(self, buffers: Buffers) -> Buffers:
        """With the number of tokens that the map's memory says, and the first of each pair of
        columns of the tables ahead: references know the layout of a half only."""
        tables = {
            name: torch.cat([buffers[name][:, ::2]] * 2, dim=1)
            for name in ("freqs_cos", "freqs_sin")
        }
        return buffers | tables | {"tokens": len(buffers["request"])}

    def judged(self, out: torch.Tensor, handed_on: Mapping[str, torch.Tensor]) -> Judged:
        batch = self._inputs.to("cpu")
        exact = oracle_of_requests(
            list(zip(batch.window_rows, batch.slot_rows, strict=True)), batch.q, batch.cmp_indices,
            *batch.args()[6:], compress_ratio=batch.compress_ratio, window=batch.window,
        )  # fmt: skip
        arguments, ring = as_raw(*batch.args(), **batch.options())
        return _judged(arguments, ring, out, handed_on, exact)


def _in_one_launch(executor: Executor | None, wo_a: torch.Tensor) -> dict[str, Any]:
    """Options of a chain."""
    return {} if executor is None else dict(executor=executor, groups_per_launch=wo_a.shape[0])


def _judged(
    arguments: tuple[Any, ...],  # of prefill_sparse_attn, on the CPU
    window: int,
    out: torch.Tensor,
    handed_on: Mapping[str, torch.Tensor],
    oracle: torch.Tensor,
) -> Judged:
    want = reference.prefill_sparse_attn(*arguments, window=window)
    verdicts: dict[str, Verdict] = {}
    if handed_on:
        got = {**handed_on, "attn_out": out.cpu()}
        verdicts = judge_chain(arguments, got, window=window, schedule="decoupled")
    return Judged(verdicts, want, oracle)
