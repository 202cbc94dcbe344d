"""What attention moves by kind of layer and form, counted in the compiled code.

A row is a layer as users run it: what is counted of it stands before proj_a, for one chunk of 128
tokens with every block live. Rows of KV are counted as not linked to each other; what their runs
save is the gate's `gather_kv` by marks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dsv4_kernels.chains.prefill import prefill_sparse_attn, wave_nodes
from dsv4_kernels.dims import LAYER_RATIOS, Dims
from dsv4_kernels.gates.ascend import compiler
from dsv4_kernels.gates.ascend.gate import count_launches
from dsv4_kernels.gates.ascend.launches import part_target
from dsv4_kernels.gates.chunk import meta_inputs, record

TOKENS = 128


# The forms that differ in more than their tail.
ATTENTIONS = ("fused", "lanes")


@dataclass(frozen=True)
class Layer:
    """A kind of layer at a position. sharers: neighbouring tokens that share their KV."""

    kind: str
    start: int
    sharers: int = 1

    def columns(self, dims: Dims) -> int:
        """K: the window - of all tokens that share it - and the compressed slots."""
        window = dims.window + self.sharers - 1
        if self.kind == "CSA":
            return window + dims.index_topk
        ratio = LAYER_RATIOS[self.kind]
        return window + ((self.start + TOKENS) // ratio if ratio else 0)


LAYERS = (
    Layer("SWA", 4000),
    Layer("SWA", 4000, sharers=8),
    Layer("CSA", 4000),
    Layer("HCA", 4000),
    Layer("HCA", 131_072 - TOKENS),
    Layer("HCA", 131_072 - TOKENS, sharers=8),
)


@dataclass(frozen=True)
class Moved:
    """What one form moves before proj_a: bytes of global memory, DMA instructions of the gather,
    and loads of single elements of global memory."""

    layer: Layer
    columns: int
    attention: str
    bytes: int
    gather_dma: int
    scalar_loads: int


def count_layers(part: str, dims: Dims, layers: Iterable[Layer] = LAYERS) -> Iterator[Moved]:
    """Both forms of every layer. Raises ValueError where the compiler refuses a kernel."""
    for layer in layers:
        for attention in ATTENTIONS:
            yield _count(part, dims, layer, attention)


def _count(part: str, dims: Dims, layer: Layer, attention: str) -> Moved:
    columns = layer.columns(dims)
    nodes = wave_nodes(dims, TOKENS, columns, attention=attention, sharers=layer.sharers)
    before: list[str] = []  # segments that stand before the first projection
    for node in nodes:
        if "wo_a" in node.reads:
            break
        before.append(node.name)
    kernels = record(
        part_target(part),
        compiler.driver(part),
        lambda executor: prefill_sparse_attn(
            **meta_inputs(dims, TOKENS, columns),
            window=dims.window,
            wave_tokens=TOKENS,
            attention=attention,
            sharers=layer.sharers,
            groups_per_launch=dims.groups,
            executor=lambda nodes, waves: executor([n for n in nodes if n.name in before], waves),
        ),
    )
    moved = gather_dma = scalar_loads = 0
    for kernel in kernels:
        if kernel.launch.refusal:
            raise ValueError(f"{kernel.segment}: {kernel.launch.refusal}")
        counts = count_launches(kernel)
        moved += counts.gm_to_l1 + counts.gm_to_ub + counts.ub_to_gm + counts.l0c_to_gm
        scalar_loads += counts.scalar_loads
        # The gather is what is given the chunk's own rows.
        gather_dma += counts.dma if "kv_overlay_ptr" in kernel.launch.arguments else 0
    return Moved(layer, columns, attention, moved, gather_dma, scalar_loads)


def markdown(rows: Mapping[str, Sequence[Moved]]) -> str:
    """A table by preset. Ratios are to the fused form of the same layer with nothing shared."""
    heading = (
        "", "layer", "K", "tokens a tile", "attention", "MiB", "ratio", "gather DMAs",
        "scalar loads",
    )  # fmt: skip
    lines = [heading, ("---",) * len(heading)]
    for preset, of_a_preset in rows.items():
        fused = {(r.layer.kind, r.layer.start): r.bytes for r in reversed(of_a_preset)
                 if r.attention == "fused" and r.layer.sharers == 1}  # fmt: skip
        for r in of_a_preset:
            kind, start, sharers = r.layer.kind, r.layer.start, r.layer.sharers
            ratio = r.bytes / fused[kind, start]
            lines.append((
                preset, f"{kind} from {start}", str(r.columns), str(sharers), r.attention,
                f"{r.bytes / 2**20:.1f}", f"{ratio:.2f}", str(r.gather_dma), str(r.scalar_loads),
            ))  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
