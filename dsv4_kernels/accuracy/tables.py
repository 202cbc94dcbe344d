"""The study as tables: one set of cells, for a terminal and for Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from dsv4_kernels.accuracy.granularity import SCHEMES
from dsv4_kernels.accuracy.study import SEED_FIGURES, Study
from reference import ROUNDING_POINTS

# The points of `reference.rounded_chain`, in words.
POINT_NAMES = {
    "p": "softmax numerators to bf16",
    "o_packed": "attention output to bf16",
    "codes": "activations to INT8, per group",
    "wo_b": "weights to INT8, per row",
    "attn_out": "output to bf16",
}


@dataclass(frozen=True)
class Grid:
    """A table's cells; all columns but the first hold figures."""

    title: str
    headings: list[str]
    rows: list[list[str]]

    def rich(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title)
        for i, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a README."""
        under = ["---", *["---:"] * (len(self.headings) - 1)]
        rows = ["| " + " | ".join(row) + " |" for row in [self.headings, under, *self.rows]]
        return "\n".join([f"**{self.title}**", "", *rows])


def granularity_grid(study: Study) -> Grid:
    """Errors by activations and scheme; in brackets that of the worst group of any token."""
    rows = []
    for preset, by_activations in study.granularity.items():
        for activations, found in by_activations.items():
            cells = [f"{percent(e.all)} ({percent(e.worst_group)})" for e in found.values()]
            rows.append([f"{preset}, {activations}", *cells])
    title = "Error of the output by quantised activations, % (of the worst group of any token)"
    return Grid(title, ["activations", *SCHEMES], rows)


def seed_grid(study: Study) -> Grid:
    """The seed's figures beside those of Gaussian activations; in brackets the tokens' range."""
    rows = []
    for scheme, (low, high) in SEED_FIGURES.items():
        row = [scheme, percent(low) if low == high else f"{percent(low)} - {percent(high)}"]
        for preset, found in study.granularity.items():
            e = found["Gaussian"][scheme]
            outside = study.from_seed_figure(preset, scheme)
            row += [
                f"{100 * e.all:.3f} ({percent(e.token_low)} - {percent(e.token_high)})",
                f"{100 * outside:+.3f}" if outside else "inside",
            ]
        rows.append(row)
    headings = [h for p in study.granularity for h in (f"{p}, Gaussian", "off by")]
    return Grid(
        "The figures of pypto-lib PR #649 and ours, % (best and worst token)",
        ["scheme", "PR #649", *headings],
        rows,
    )


def budget_grid(study: Study) -> Grid:
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
    return Grid("Error of the whole chain against fp64, %", ["rounding point", *headings], rows)


def grids(study: Study) -> list[Grid]:
    """All tables, in the order in which they are read."""
    return [granularity_grid(study), seed_grid(study), budget_grid(study)]


def markdown(study: Study) -> str:
    """All tables for a README."""
    return "\n\n".join(grid.markdown() for grid in grids(study))


def percent(error: float) -> str:
    """Two decimals: the third changes with what is drawn."""
    return f"{100 * error:.2f}"
