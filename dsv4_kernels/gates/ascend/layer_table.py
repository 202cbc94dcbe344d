"""What attention moves as a table, beside the bounds that it is held to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dsv4_kernels.gates.ascend.layers import FIXTURE, SMALL_PAGE, TOKENS, Layer, Moved


@dataclass(frozen=True)
class Bound:
    """The most that a form of a layer may move, in parts of what the first form moved; None: not
    held to it."""

    bytes: float | None
    gather_dma: float
    scalar_loads: float | None


QUANTITIES = tuple(vars(Bound(0, 0, 0)))

# What is held, by layer and form. The fused form reads and writes o once a block, as the first did:
# its bytes are held where blocks are dead.
PRESET = "FLASH"
_WINDOWS = Layer("SWA", 4000, sharers=8)
_ALL_SLOTS = Layer("HCA", 131_072 - TOKENS, sharers=8)
_PICKS = Layer("CSA", 4000)
_UNLINKED = replace(_PICKS, any_order=True)
BOUNDS: dict[tuple[Layer, str], Bound] = {
    (_UNLINKED, "fused"): Bound(None, 1.0, 0.25),
    (_UNLINKED, "lanes"): Bound(0.80, 1.0, 0.25),
    (_PICKS, "fused"): Bound(None, 0.85, 0.25),  # rows of the window are linked, picks are not
    (_PICKS, "lanes"): Bound(0.80, 0.85, 0.25),
    (_WINDOWS, "fused"): Bound(None, 0.05, 0.05),
    (_WINDOWS, "lanes"): Bound(0.40, 0.05, 0.05),
    (_ALL_SLOTS, "fused"): Bound(None, 0.05, 0.05),
    (_ALL_SLOTS, "lanes"): Bound(0.40, 0.05, 0.05),
    (FIXTURE, "fused"): Bound(0.50, 0.50, None),
    (FIXTURE, "lanes"): Bound(0.50, 0.50, None),
}


def bound_of(preset: str, row: Moved, quantity: str) -> float | None:
    """What the row is held to; quantity: of QUANTITIES."""
    bound = BOUNDS.get((row.layer, row.attention)) if preset == PRESET else None
    return getattr(bound, quantity, None)


def share_of_first(row: Moved, quantity: str) -> float:
    """In parts of what the first form moved."""
    return getattr(row, quantity) / getattr(row.first, quantity)


def breaches(rows: Mapping[str, Sequence[Moved]]) -> Iterator[str]:
    """What is above its bound, in words. rows: by preset."""
    for preset, of_a_preset in rows.items():
        for row in of_a_preset:
            for quantity in QUANTITIES:
                bound, share = bound_of(preset, row, quantity), share_of_first(row, quantity)
                if bound is not None and share > bound:
                    what = f"{preset} {_name(row.layer)} {row.attention}"
                    yield f"{what}: {quantity} {share:.4f} of the first form's, {bound} allowed"


def markdown(rows: Mapping[str, Sequence[Moved]]) -> str:
    """A table. rows: by preset. A line of the first form goes before each layer that it had."""
    heading = (
        "", "layer", "K", "tokens a tile", "attention", "MiB", "of first", "gather DMAs",
        "of first", f"with {SMALL_PAGE} rows a page", "scalar loads", "of first",
    )  # fmt: skip
    lines = [heading, ("---",) * len(heading)]
    for preset, of_a_preset in rows.items():
        seen: set[Layer] = set()
        for row in of_a_preset:
            layer = replace(row.layer, sharers=1, any_order=False)
            if layer not in seen:
                seen.add(layer)
                of = row.first
                lines.append((
                    preset, _name(layer), str(row.columns), "1", "first form", _mib(of.bytes), "1",
                    str(of.gather_dma), "1", str(of.gather_dma), str(of.scalar_loads), "1",
                ))  # fmt: skip
            of_bytes, of_dma, of_loads = (_ratio(preset, row, name) for name in QUANTITIES)
            lines.append((
                preset, _name(row.layer), str(row.columns), str(row.layer.sharers), row.attention,
                _mib(row.bytes), of_bytes, str(row.gather_dma), of_dma, str(row.small_pages_dma),
                str(row.scalar_loads), of_loads,
            ))  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _name(layer: Layer) -> str:
    return f"{layer.kind} from {layer.start}" + (", rows in any order" * layer.any_order)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"


def _ratio(preset: str, row: Moved, quantity: str) -> str:
    bound = bound_of(preset, row, quantity)
    held = "" if bound is None else f" <= {bound:.2f}"
    return f"{share_of_first(row, quantity):.3f}{held}"
