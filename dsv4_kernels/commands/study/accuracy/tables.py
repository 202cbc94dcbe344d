"""The study as tables: one set of cells, for a terminal and for Markdown."""

from __future__ import annotations

from dsv4_kernels.commands.study.accuracy.granularity import SCHEMES
from dsv4_kernels.commands.study.accuracy.study import SEED_FIGURES, Study
from dsv4_kernels.commands.terminal import Sheet
from reference import ROUNDING_POINTS

# The points of `reference.rounded_chain`, in words.
POINT_NAMES = {
    "p": "softmax numerators to bf16",
    "o_packed": "attention output to bf16",
    "codes": "activations to INT8, per group",
    "wo_b": "weights to INT8, per row",
    "attn_out": "output to bf16",
}


def granularity_sheet(study: Study) -> Sheet:
    """Errors by activations and scheme; in brackets that of the worst group of any token."""
    rows = []
    for preset, by_activations in study.granularity.items():
        for activations, found in by_activations.items():
            cells = [f"{percent(e.all)} ({percent(e.worst_group)})" for e in found.values()]
            rows.append([f"{preset}, {activations}", *cells])
    title = "Error of the output by quantised activations, % (of the worst group of any token)"
    return Sheet(title, ["activations", *SCHEMES], rows, words={"activations"})


def seed_sheet(study: Study) -> Sheet:
    """The seed's figures beside those of Gaussian activations; in brackets the tokens' range."""
    rows = []
    for scheme, (low, high) in SEED_FIGURES.items():
        row = [scheme, percent(low) if low == high else f"{percent(low)}-{percent(high)}"]
        for preset, found in study.granularity.items():
            e = found["Gaussian"][scheme]
            outside = study.from_seed_figure(preset, scheme)
            row += [
                f"{100 * e.all:.3f} ({percent(e.token_low)}-{percent(e.token_high)})",
                f"{100 * outside:+.3f}" if outside else "inside",
            ]
        rows.append(row)
    headings = [h for p in study.granularity for h in (f"{p}, Gaussian", "off by")]
    return Sheet(
        "The figures of pypto-lib PR #649 and ours, % (best and worst token)",
        ["scheme", "PR #649", *headings],
        rows,
        words={"scheme"},
    )


def budget_sheet(study: Study) -> Sheet:
    """What each rounding point costs, alone and by what is left without it."""
    budgets = study.budgets.values()
    rows = [
        [
            POINT_NAMES[point],
            *(percent(e) for b in budgets for e in (b.alone[point], b.without[point])),
        ]
        for point in ROUNDING_POINTS
    ]
    rows.append(
        ["root of the sum of squares", *(c for b in budgets for c in (percent(b.in_squares), ""))]
    )
    rows.append(["all of them", *(c for b in budgets for c in (percent(b.all), ""))])
    headings = [h for p in study.budgets for h in (f"{p}, alone", "all others")]
    title = "Error of the whole chain against fp64, %"
    return Sheet(title, ["rounding point", *headings], rows, words={"rounding point"})


def sheets(study: Study) -> list[Sheet]:
    """All tables, in the order in which they are read."""
    return [granularity_sheet(study), seed_sheet(study), budget_sheet(study)]


def markdown(study: Study) -> str:
    """All tables for a README."""
    return "\n\n".join(f"**{sheet.title}**\n\n{sheet.markdown()}" for sheet in sheets(study))


def percent(error: float) -> str:
    """Two decimals: the third changes with what is drawn."""
    return f"{100 * error:.2f}"
