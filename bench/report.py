"""Table and picture of a run: ``python -m bench.report RESULTS.json [--markdown F] [--png F]``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench.sheets import label, sheets
from bench.targets import Result
from dsv4_kernels.commands import terminal


def load(path: Path) -> list[Result]:
    """What the benches said of themselves, from pytest-benchmark's JSON."""
    benchmarks = json.loads(path.read_text())["benchmarks"]
    return [benchmark["extra_info"] for benchmark in benchmarks]


def main(arguments: list[str] | None = None) -> int:
    """Print the tables, and write what is asked for; 1 if there are no results."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("results", type=Path, help="JSON of pytest --benchmark-json")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw a picture there")
    options = parser.parse_args(arguments)
    results = load(options.results)
    if not results:
        print(f"{options.results} holds no results", file=sys.stderr)
        return 1
    console = terminal.console(150)
    made = sheets(results)
    for sheet in made:
        console.print(sheet.rich())
    console.print(label(results))
    if options.markdown:
        tables = "\n\n".join(f"## {sheet.title}\n\n{sheet.markdown()}" for sheet in made)
        options.markdown.write_text(f"# Benchmarks\n\n```\n{label(results)}\n```\n\n{tables}\n")
    if options.png:
        from bench import plot  # matplotlib, which the tables do without

        plot.save(results, label(results), options.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
