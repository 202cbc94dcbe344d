"""Options that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path

from dsv4_kernels.chains.prefill import GROUPS_PER_LAUNCH
from dsv4_kernels.dims import LAYER_RATIOS, PRESETS
from dsv4_kernels.segments import segments_on


def add_chunk(parser: argparse.ArgumentParser) -> None:
    """The chunk whose inputs are drawn."""
    parser.add_argument("--preset", choices=PRESETS, default="FLASH", help="model dimensions")
    parser.add_argument("--layer", choices=LAYER_RATIOS, default="CSA", help="kind of layer")
    parser.add_argument("--tokens", type=int, default=128, metavar="T", help="tokens of the chunk")
    parser.add_argument(
        "--start", type=int, default=4000, metavar="P", help="absolute position of the first token"
    )
    add_seed(parser)


def add_verbose(parser: argparse.ArgumentParser, what: str) -> None:
    """More than fits 80 columns."""
    parser.add_argument("--verbose", action="store_true", help=what)


def require_folders(*files: str | None) -> None:
    """ValueError for a file whose folder is not there, before what goes into it is worked out."""
    for file in files:
        if file is not None and not Path(file).parent.is_dir():
            raise ValueError(f"no folder to write {file} to")


def add_seed(parser: argparse.ArgumentParser) -> None:
    """The seed of what is drawn."""
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")


def add_presets(parser: argparse.ArgumentParser) -> None:
    """One preset or more."""
    parser.add_argument(
        "--preset",
        dest="presets",
        nargs="+",
        choices=PRESETS,
        default=[*PRESETS],
        help="model dimensions",
    )


def add_groups_per_launch(parser: argparse.ArgumentParser) -> None:
    """Chunks of groups."""
    parser.add_argument(
        "--groups-per-launch",
        type=positive,
        default=GROUPS_PER_LAUNCH,
        metavar="N",
        help="groups of the output projection per launch",
    )


def add_markdown(parser: argparse.ArgumentParser) -> None:
    """Tables for a README."""
    parser.add_argument(
        "--markdown", dest="as_markdown", action="store_true", help="print tables as Markdown"
    )


def add_gate(parser: argparse.ArgumentParser, *, family: str, example: str) -> None:
    """What the gate for a family of devices compiles; example: of a tile."""
    add_presets(parser)
    parser.add_argument(
        "--segment",
        dest="segments",
        nargs="+",
        default=segments_on(family),
        metavar="S",
        help="segments to compile",
    )
    parser.add_argument(
        "--tile",
        dest="tiles",
        nargs="+",
        default=[],
        metavar="TILE",
        help=f"use another tile, e.g. {example}",
    )
    parser.add_argument(
        "--batch",
        action="store_true",
        help="instead: the kernels of sparse_attn, for decode and packed prefill of several ranks",
    )
    parser.add_argument("--json", dest="as_json", action="store_true", help="the same as data")


def positive(text: str) -> int:
    """A whole number above 0; argparse turns the error into one about the option."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text}")
    return int(text)
