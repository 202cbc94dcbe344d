"""Results as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from bench.targets import OURS, Result, find

plt.switch_backend("agg")  # a file is all that is wanted, and there may be no display

OUR_COLOUR, THEIR_COLOUR = "tab:red", "tab:gray"


def save(results: Sequence[Result], label: str, path: Path) -> None:
    """Write the picture: segments under their roof, tiles, lengths, races."""
    figure, ((a, b), (c, d)) = plt.subplots(2, 2, figsize=(15, 12), layout="constrained")
    figure.suptitle(label, fontsize=9)
    _segments(a, results)
    _tiles(b, results)
    _lengths(c, results)
    _races(d, results)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _segments(axes: Any, results: Sequence[Result]) -> None:
    rows = find(results, table="segments")
    names = [f"{r['segment']} {r['preset']}" for r in rows]
    axes.barh(names, [100 * (r["share_of_roof"] or 0.0) for r in rows], color=OUR_COLOUR)
    axes.invert_yaxis()
    axes.set(title="segments", xlabel="% of the roof measured in this run")


def _tiles(axes: Any, results: Sequence[Result]) -> None:
    rows = find(results, table="tiles")
    fastest: dict[tuple[str, str], float] = {}
    for r in rows:
        sweep = r["segment"], r["tile"]
        fastest[sweep] = min(r["us"], fastest.get(sweep, r["us"]))
    names = [f"{r['segment']}.{r['tile']} = {r['value']}" for r in rows]
    times = [r["us"] / fastest[r["segment"], r["tile"]] for r in rows]
    axes.barh(names, times, color=[OUR_COLOUR if r["own"] else THEIR_COLOUR for r in rows])
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set(title="tiles, our own in red", xlabel="time, fastest of the sweep = 1")


def _lengths(axes: Any, results: Sequence[Result]) -> None:
    lengths = find(results, table="chain", varied="tokens")
    for preset in dict.fromkeys(r["preset"] for r in lengths):
        rows = find(lengths, preset=preset)
        axes.plot([r["tokens"] for r in rows], [r["us"] for r in rows], marker="o", label=preset)
    if lengths:
        axes.set(xscale="log", yscale="log")
        axes.legend()
    axes.set(title="the chain", xlabel="tokens", ylabel="us")


def _races(axes: Any, results: Sequence[Result]) -> None:
    rows = find(results, table="races")
    ours = {(r["race"], r["tokens"]): r["us"] for r in rows if r["runner"] == OURS}
    rows = [r for r in rows if (r["race"], r["tokens"]) in ours]
    names = [f"{r['race']} T={r['tokens']}: {r['runner']}" for r in rows]
    ratios = [r["us"] / ours[r["race"], r["tokens"]] for r in rows]
    colours = [OUR_COLOUR if r["runner"] == OURS else THEIR_COLOUR for r in rows]
    axes.barh(names, ratios, color=colours)
    axes.invert_yaxis()
    axes.set(title="races", xlabel="time, ours = 1")
