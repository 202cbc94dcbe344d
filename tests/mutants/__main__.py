"""`make mutants`: every mutant of the catalogue on trial, and the list of who noticed."""

from __future__ import annotations

import argparse
import os
import sys
import time

from rich.markup import escape
from rich.table import Table

from dsv4_kernels.commands import terminal
from mutants.catalogue import MUTANTS
from mutants.trial import Outcome, trials

COLOURS = {"killed": "green", "equivalent": "cyan", "survived": "red", "broken": "red"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("-k", default="", metavar="TEXT", help="those with TEXT in their name")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, help="mutants at a time")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if options.k in mutant.name]
    if not chosen:
        print(f"no mutant has {options.k!r} in its name", file=sys.stderr)
        return 2

    console = terminal.console(150)
    begin = time.monotonic()
    outcomes: list[Outcome] = []
    with terminal.progress(console, words=64) as progress:
        steps = progress.add_task("", total=len(chosen))
        for outcome in trials(chosen, options.jobs):
            outcomes.append(outcome)
            progress.update(steps, advance=1, description=outcome.mutant.name[:64])
            if not console.is_terminal:  # a log has no progress bar
                print(
                    f"{outcome.verdict:10} {outcome.seconds:5.1f} s  {outcome.mutant.name}",
                    flush=True,
                )
            if not outcome.holds:
                progress.console.print(f"[red]{outcome.verdict}[/red] {_words(outcome)}")
    outcomes.sort(key=lambda outcome: chosen.index(outcome.mutant))
    console.print(_table(outcomes))
    counts = {verdict: sum(o.verdict == verdict for o in outcomes) for verdict in COLOURS}
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    console.print(f"{len(outcomes)} mutants in {time.monotonic() - begin:.0f} s: {words}")
    return 0 if all(outcome.holds for outcome in outcomes) else 1


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(title="mutants", show_lines=False)
    for heading in ("mutant", "verdict", "killed by, or why not"):
        table.add_column(heading, overflow="fold")
    table.add_column("s", justify="right")
    for outcome in outcomes:
        colour = COLOURS[outcome.verdict]
        table.add_row(
            escape(outcome.mutant.name),
            f"[{colour}]{outcome.verdict}[/{colour}]",
            escape(outcome.seen.splitlines()[0]),
            f"{outcome.seconds:.1f}",
        )
    return table


def _words(outcome: Outcome) -> str:
    return escape(f"{outcome.mutant.name}\n    {outcome.seen}")


if __name__ == "__main__":
    sys.exit(main())
