"""What may run at a time, as a table: ``python -m dsv4_kernels graph --overlap``.

From the happens-before relation of the launches, weighed by what the Ascend gate counts in their
compiled code; nothing is measured, and whether cores do run at a time is for a device to show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from dsv4_kernels.chains.prefill import SCHEDULES, WAVE_TOKENS, prefill_sparse_attn
from dsv4_kernels.commands.terminal import Sheet
from dsv4_kernels.dims import LAYER_RATIOS, PRESETS
from dsv4_kernels.gates.ascend.counted import Counted, counted_run
from dsv4_kernels.gates.ascend.counts import Counts
from dsv4_kernels.gates.chunk import meta_inputs
from dsv4_kernels.launcher.graph import Node
from dsv4_kernels.launcher.lanes import synchronise
from dsv4_kernels.launcher.overlap import critical_path, overlaps

PART = "Ascend910B3"
START = 4000  # position of the chunk, as the demo's
RUNS = (  # layer, form of attention, tokens, waves in flight, groups a launch
    *(("CSA", "fused", tokens, flight, groups)
      for tokens, flight in ((128, 1), (1024, 1), (1024, 2)) for groups in (4, 8)),
    ("SWA", "fused", 1024, 2, 4),
    ("HCA", "fused", 1024, 2, 4),
    *((layer, "lanes", 1024, 2, 4) for layer in ("CSA", "SWA", "HCA")),
)  # fmt: skip
VECTOR_LANES = ("vector", "gather")  # both keep the vector cores busy


@dataclass(frozen=True)
class Share:
    """Of what some lanes do, the share that may run beside another lane: of its bytes, MACs and
    vector instructions; 0 where there are none."""

    bytes: float
    macs: float
    vector: float


@dataclass(frozen=True)
class Shares:
    """Of a run: vector, what the vector cores' lanes may do beside the cube lane; mix and cube,
    what these lanes may do beside any other; the share of all bytes on the heaviest path; launches,
    and calls of events."""

    vector: Share
    mix: Share
    cube: Share
    path: float
    launches: int
    events: int


def run_of(
    preset: str,
    layer: str,
    schedule: str,
    tokens: int,
    groups_per_launch: int,
    in_flight: int,
    attention: str = "fused",
) -> tuple[Counted, ...]:
    """The launches of a chunk from position START in waves of 128 tokens, as a plan issues them."""
    dims = PRESETS[preset]
    columns = dims.window + _slots(layer, tokens, dims.index_topk)
    return counted_run(
        PART,
        lambda executor: prefill_sparse_attn(
            **meta_inputs(dims, tokens, columns),
            window=dims.window,
            schedule=schedule,
            attention=attention,
            groups_per_launch=groups_per_launch,
            waves_in_flight=in_flight,
            executor=executor,
        ),
    )


def _slots(layer: str, tokens: int, topk: int) -> int:
    """Compressed slots that a token may attend to; CSA's indexer picks `topk` of them."""
    ratio = LAYER_RATIOS[layer]
    seen = (START + tokens) // ratio if ratio else 0
    return topk if layer == "CSA" else seen


def shares(run: Sequence[Counted]) -> Shares:
    """Of launches in their order of issue."""
    by_bytes = _weighed(run, lambda counts: counts.moved)
    found = [
        overlaps(nodes)
        for nodes in (
            by_bytes,
            _weighed(run, lambda counts: counts.macs),
            _weighed(run, lambda counts: counts.vector),
        )
    ]

    def share(lanes: Sequence[str], beside: str) -> Share:
        parts = []
        for overlap in found:
            own = [overlap[lane] for lane in lanes if lane in overlap]
            total = sum(each.total for each in own)
            parts.append(sum(each.beside.get(beside, 0) for each in own) / total if total else 0.0)
        return Share(*parts)

    steps = synchronise(by_bytes)
    return Shares(
        vector=share(VECTOR_LANES, "cube"),
        mix=share(("mix",), "any"),
        cube=share(("cube",), "any"),
        path=sum(by_bytes[place].weight for place in critical_path(by_bytes))
        / sum(node.weight for node in by_bytes),
        launches=len(by_bytes),
        events=sum(len(s.waits) + s.records for s in steps.steps) + len(steps.joins) + 1,
    )


def _weighed(run: Sequence[Counted], weight: Callable[[Counts], int]) -> tuple[Node, ...]:
    return tuple(replace(node, weight=weight(counts)) for node, counts in run)


def overlap_sheet(presets: Sequence[str] = tuple(PRESETS)) -> Sheet:
    """CSA: one wave, eight with one workspace, eight with two in flight; the default of the other
    kinds of layer; and attention in lanes.

    g: groups a launch. vector: bytes/vector instructions; mix: bytes/MACs/vector instructions;
    cube: bytes/MACs; all with path as `Shares`, in percent. calls: launches and events.
    """
    headings = ("layer", "waves", "schedule", "g", "vector", "mix", "cube", "path", "calls")
    return Sheet(
        f"what may run at a time, % of what is counted for {PART}; not measured",
        headings,
        [*_rows(presets)],
        words=("layer", "waves", "schedule"),
    )


def _rows(presets: Sequence[str]) -> Iterator[list[str]]:
    for preset in presets:
        for layer, attention, tokens, in_flight, groups in RUNS:
            for schedule in SCHEDULES:
                run = run_of(preset, layer, schedule, tokens, groups, in_flight, attention)
                found = shares(run)
                vector, mix, cube = found.vector, found.mix, found.cube
                yield [
                    f"{preset} {layer}" + ("" if attention == "fused" else f" {attention}"),
                    str(-(-tokens // WAVE_TOKENS)) + (f", {in_flight}" if tokens > 128 else ""),
                    schedule,
                    str(groups),
                    _percent(vector.bytes, vector.vector),
                    _percent(mix.bytes, mix.macs, mix.vector),
                    _percent(cube.bytes, cube.macs),
                    _percent(found.path),
                    f"{found.launches}+{found.events}",
                ]


def _percent(*shares: float) -> str:
    return "/".join(f"{100 * share:.0f}" for share in shares)
