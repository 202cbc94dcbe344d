"""Results as tables: titles, headings and cells, for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.targets import OURS, Result, find, judge
from dsv4_kernels.commands.terminal import Sheet

# Headings of columns of words.
_WORDS = {
    "segment", "preset", "tile", "own", "output", "varied", "schedule", "layer", "as", "race",
    "runner", "target", "verdict",
}  # fmt: skip


def sheets(results: Sequence[Result]) -> list[Sheet]:
    """Every table that the results have rows for, and the verdicts."""
    clock = "us of CPU execution" if results[0]["device_type"] == "cpu" else "us"
    made = [_segments(results, clock), _tiles(results, clock), _chain(results, clock)]
    return [*(sheet for sheet in [*made, _races(results, clock)] if sheet.rows), _targets(results)]


def label(results: Sequence[Result]) -> str:
    """What the numbers are, in lines."""
    first = results[0]
    roof = first["roof"]
    int8 = roof["int8_flop_s"]
    return "\n".join(
        [
            first["device"],
            ", ".join(f"{name} {version}" for name, version in first["versions"].items()),
            f"roof, measured in this run by torch: copy {roof['copy_bytes_s'] / 1e9:.4g} GB/s "
            f"(read and written), bf16 {roof['bf16_flop_s'] / 1e12:.3g} TFLOP/s, int8 "
            + (f"{int8 / 1e12:.3g} TOP/s" if int8 else "not in torch here"),
        ]
    )


def _segments(results: Sequence[Result], clock: str) -> Sheet:
    headings = (
        "segment", "preset", "T", clock, "host us", "MiB", "GFLOP", "of copy", "of roof", "memory",
    )  # fmt: skip
    rows = [
        (
            r["segment"], r["preset"], str(r["tokens"]), _us(r["us"]), _host_us(r),
            f"{r['bytes'] / 2**20:.3g}", f"{(r['bf16_flop'] + r['int8_flop']) / 1e9:.3g}",
            _percent(r["share_of_copy"]), _percent(r["share_of_roof"]),
            _memory(r),
        )
        for r in find(results, table="segments")
    ]  # fmt: skip
    return Sheet("segments, each by itself", headings, rows, _WORDS)


def _tiles(results: Sequence[Result], clock: str) -> Sheet:
    rows = [
        (
            r["segment"], r["tile"], str(r["value"]), "own" if r["own"] else "",
            str(r["tiles"]["num_stages"]) if r["device_type"] == "cuda" else "-", str(r["tokens"]),
            _us(r["us"]), _percent(r["share_of_roof"]), r["digest"],
        )
        for r in find(results, table="tiles")
    ]  # fmt: skip
    headings = ("segment", "tile", "value", "own", "stages", "T", clock, "of roof", "output")
    return Sheet("tiles; output: the start of its bytes' SHA-256", headings, rows, _WORDS)


def _chain(results: Sequence[Result], clock: str) -> Sheet:
    headings = (
        "varied", "preset", "T", "layer", "live", "schedule", "groups a launch", "as", clock,
        "host us", "us a token", "of roof",
    )  # fmt: skip
    rows = [
        (
            r["varied"], r["preset"], str(r["tokens"]), r["layer"], _percent(r["live_share"]),
            r["schedule"], str(r["groups_per_launch"]), "graph" if r["captured"] else "launches",
            _us(r["us"]), _host_us(r), _us(r["us"] / r["tokens"]),
            _percent(r["share_of_roof"]),
        )
        for r in find(results, table="chain")
    ]  # fmt: skip
    return Sheet("the chain", headings, rows, _WORDS)


def _races(results: Sequence[Result], clock: str) -> Sheet:
    headings = ("race", "preset", "T", "runner", clock, "times ours", "of roof")
    return Sheet("races, judged and timed in one run", headings, list(_race_rows(results)), _WORDS)


def _race_rows(results: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    races = find(results, table="races")
    for kind in dict.fromkeys((r["race"], r["preset"], r["tokens"]) for r in races):
        race, preset, tokens = kind
        entries = find(races, race=race, preset=preset, tokens=tokens)
        ours = find(entries, runner=OURS)
        for r in sorted(entries, key=lambda r: r["us"]):
            ratio = f"{r['us'] / ours[0]['us']:.2f}" if ours else "-"
            roof = _percent(r["share_of_roof"])
            yield race, preset, str(tokens), r["runner"], _us(r["us"]), ratio, roof


def _targets(results: Sequence[Result]) -> Sheet:
    rows = []
    for verdict in judge(results):
        target = verdict.target
        wanted = f"{'>=' if target.at_least else '<='} {target.wanted:g} {target.unit}".strip()
        measured = "-" if verdict.measured is None else f"{verdict.measured:.3g} {target.unit}"
        ratio = "-" if verdict.ratio is None else f"{verdict.ratio:.2f}"
        rows.append((target.name, wanted, measured.strip(), ratio, verdict.words))
    headings = ("target", "wanted", "measured", "ratio", "verdict")
    return Sheet("targets for an NVIDIA H200", headings, rows, _WORDS)


def _us(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _host_us(result: Result) -> str:
    """Told apart from the work only where that is done elsewhere."""
    return "-" if result["device_us"] is None else _us(result["host_us"])


def _memory(result: Result) -> str:
    """Whether the inputs of a call fit a cache that held them before."""
    if result["device_us"] is None:
        return "-"
    return "cold" if result["cold"] else "warm"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"
