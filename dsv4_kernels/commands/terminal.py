"""What the commands print with: a console, a progress bar, a table of text."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

WIDTH = 80  # columns that every table fits


def console(width: int, *, stderr: bool = False) -> Console:
    """A console at least `width` columns wide where it is no terminal: a file has no width, and
    tables in a log should not be folded."""
    made = Console(stderr=stderr)
    if not made.is_terminal:
        made.width = max(made.width, width)
    return made


def table(title: str, *words: str, caption: str | None = None) -> Table:
    """A table that fits WIDTH columns where its figures do: no rules between columns. words: its
    first columns, of text that is not folded; figures are to be added, never cut."""
    made = Table(
        title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )
    for heading in words:
        made.add_column(heading, no_wrap=True)
    return made


def progress(console: Console, *, words: int = 0, transient: bool = False) -> Progress:
    """A bar with what is being done (`words` columns for it), how many of how many, and since when.

    transient: gone when done.
    """
    return Progress(
        TextColumn(f"{{task.description:{words or ''}}}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=transient,
    )


@dataclass(frozen=True)
class Sheet:
    """A table of text. words: the headings of columns that do not hold figures."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Collection[str]

    def rich(self) -> Table:
        """For a terminal, figures to the right and whole; headings and words fold."""
        made = table(self.title)
        for place, heading in enumerate(self.headings):
            if heading in self.words:
                made.add_column(heading)
            else:
                width = max((len(row[place]) for row in self.rows), default=0)
                width = max(width, *map(len, heading.split()))
                folded = "\n".join(textwrap.wrap(heading, width))
                made.add_column(folded, justify="right", no_wrap=True)
        for row in self.rows:
            made.add_row(*row)
        return made

    def markdown(self) -> str:
        """The same without its title."""
        rules = ["---" if heading in self.words else "---:" for heading in self.headings]
        return "\n".join(f"| {' | '.join(line)} |" for line in [self.headings, rules, *self.rows])
