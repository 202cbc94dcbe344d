"""``python -m dsv4_kernels accuracy``: measure, print, and keep as JSON and PNG."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from dsv4_kernels.commands import terminal
from dsv4_kernels.commands.options import (
    add_markdown,
    add_presets,
    add_seed,
    require_folders,
)
from dsv4_kernels.commands.study.accuracy.study import SEED_DIGIT, Study, run, steps
from dsv4_kernels.commands.study.accuracy.tables import markdown, sheets


def add_options(parser: argparse.ArgumentParser) -> None:
    """What to measure, and where to keep it."""
    add_presets(parser)
    parser.add_argument("--tokens", type=int, default=128, metavar="T", help="tokens to average")
    add_seed(parser)
    parser.add_argument(
        "--from", dest="stored", metavar="FILE", help="show an earlier --json, measure nothing"
    )
    add_markdown(parser)
    parser.add_argument("--json", dest="json_file", metavar="FILE", help="keep the results there")
    parser.add_argument("--png", dest="png_file", metavar="FILE", help="draw them there")


def accuracy(
    *,
    presets: Sequence[str],
    tokens: int,
    seed: int,
    stored: str | None,
    as_markdown: bool,
    json_file: str | None,
    png_file: str | None,
) -> bool:
    """Print the study's tables; True if it reproduces the seed's figures to their last digit.

    Raises ValueError for fewer than one token or a file in no folder, MissingDependency for a PNG
    without matplotlib.
    """
    if tokens < 1:
        raise ValueError(f"`--tokens` must be at least 1, got {tokens}")
    require_folders(json_file, png_file)  # before minutes are spent in vain
    console = terminal.console(terminal.WIDTH, stderr=as_markdown)
    draw = _picture() if png_file else None  # likewise
    study = (
        Study.from_json(Path(stored).read_text())
        if stored
        else _measure(presets, tokens, seed, console)
    )
    if as_markdown:
        print(markdown(study))
    else:
        for sheet in sheets(study):
            console.print(sheet.rich())
    if json_file:
        Path(json_file).write_text(study.to_json() + "\n")
    if draw and png_file:
        draw(study, Path(png_file))
    if not study.reproduces_seed:
        console.print(f"[red]off the seed's figures by more than {100 * SEED_DIGIT:.2f} %[/red]")
    return study.reproduces_seed


def _picture() -> Callable[[Study, Path], None]:
    from dsv4_kernels.commands.study.accuracy.picture import draw  # imported late: needs matplotlib

    return draw


def _measure(presets: Sequence[str], tokens: int, seed: int, console: Console) -> Study:
    with terminal.progress(console, words=40, transient=True) as progress:
        task = progress.add_task("", total=steps(presets), completed=-1)

        def step(text: str) -> None:
            progress.update(task, description=text, advance=1)

        return run(presets, tokens, seed, step)
