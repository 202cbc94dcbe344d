"""Command line: ``python -m dsv4_kernels COMMAND``; --help lists the commands."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

from dsv4_kernels.contract import ContractError
from dsv4_kernels.device import MissingDependency
from dsv4_kernels.dims import LAYER_RATIOS, PRESETS


def main(arguments: list[str] | None = None) -> int:
    """Run one command; exit code 0 if all holds, 1 if something does not, 2 for a wrong call."""
    parser = _Parser(prog="python -m dsv4_kernels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, about, add_options) in _COMMANDS.items():
        add_options(commands.add_parser(name, help=about, description=about))
    try:
        options = vars(parser.parse_args(arguments))
        command = options.pop("command")
        module = _module(_COMMANDS[command][0])
        return 0 if getattr(module, command)(**options) else 1
    except (ContractError, MissingDependency, ValueError, OSError) as error:
        print(f"dsv4_kernels: {error}", file=sys.stderr)
        return 2


def _module(name: str) -> ModuleType:
    """A command's module, imported late: each needs packages that the others do without."""
    try:
        return importlib.import_module(f"dsv4_kernels.commands.{name}")
    except ModuleNotFoundError as error:
        if error.name != "dsv4_kernels.commands.study":
            raise
        raise MissingDependency(
            "this command compares with reference/, which is not part of the installed package: "
            "run it from a checkout of the repository"
        ) from error


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all that follows does."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; {self.prog} --help tells more")


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=PRESETS, default="FLASH", help="model dimensions")
    parser.add_argument("--layer", choices=LAYER_RATIOS, default="CSA", help="kind of layer")
    parser.add_argument("--tokens", type=int, default=128, metavar="T", help="tokens of the chunk")
    parser.add_argument(
        "--start", type=int, default=4000, metavar="P", help="absolute position of the first token"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")


def _swimlane(parser: argparse.ArgumentParser) -> None:
    _demo(parser)
    _groups_per_launch(parser)
    parser.add_argument("--json", dest="json_file", default="swimlane.json", metavar="FILE")
    parser.add_argument("--png", dest="png_file", default="swimlane.png", metavar="FILE")


def _graph(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--schedule", default="decoupled", help="decoupled or row_barrier")
    parser.add_argument(
        "--groups", type=_positive, default=PRESETS["FLASH"].groups, metavar="G", help="as FLASH's"
    )
    _groups_per_launch(parser)
    parser.add_argument(
        "--overlap", action="store_true", help="what may run at a time, for both presets"
    )
    parser.add_argument("--markdown", dest="as_markdown", action="store_true")


def _ascend(parser: argparse.ArgumentParser) -> None:
    _gate(parser, example="group_quant.block_r=512")
    parser.add_argument(
        "--part", dest="parts", nargs="+", default=["Ascend910B3", "Ascend910_9392"], metavar="P"
    )
    parser.add_argument("--save", metavar="DIR", help="keep Triton IR, linalg and HIVM there")


def _hopper(parser: argparse.ArgumentParser) -> None:
    _gate(parser, example="proj_a.num_stages=5")


def _gate(parser: argparse.ArgumentParser, *, example: str) -> None:
    parser.add_argument("--preset", dest="presets", nargs="+", choices=PRESETS, default=[*PRESETS])
    parser.add_argument("--segment", dest="segments", nargs="+", default=[], metavar="S")
    parser.add_argument(
        "--tile", dest="tiles", nargs="+", default=[], metavar="SEGMENT.FIELD=N",
        help=f"use another tile, e.g. {example}",
    )  # fmt: skip
    parser.add_argument("--json", dest="as_json", action="store_true", help="the same as data")


def _accuracy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", dest="presets", nargs="+", choices=PRESETS, default=[*PRESETS])
    parser.add_argument("--tokens", type=int, default=128, metavar="T", help="tokens to average")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument(
        "--from", dest="stored", metavar="FILE", help="show an earlier --json, measure nothing"
    )
    parser.add_argument("--markdown", dest="as_markdown", action="store_true")
    parser.add_argument("--json", dest="json_file", metavar="FILE", help="keep the results there")
    parser.add_argument("--png", dest="png_file", metavar="FILE", help="draw them there")


def _weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a safetensors file, or a folder of them")
    parser.add_argument(
        "--groups", type=_positive, metavar="G", help="where no config.json has o_groups"
    )


def _groups_per_launch(parser: argparse.ArgumentParser) -> None:
    # Its default is the command's own: the schedule's, which cannot be imported without Triton.
    parser.add_argument(
        "--groups-per-launch", type=_positive, default=argparse.SUPPRESS, metavar="N"
    )


def _positive(text: str) -> int:
    """A whole number above 0; argparse turns the error into one about the option."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text}")
    return int(text)


# {command: (module with a function of its name, help, options)}
_COMMANDS: dict[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]] = {
    "demo": ("study.demo", "run one layer's chain and check every segment", _demo),
    "graph": ("diagram", "print a schedule as a Mermaid diagram", _graph),
    "swimlane": (
        "swimlane.command",
        "time every launch of both schedules, and draw them",
        _swimlane,
    ),
    "ascend": (
        "ascend",
        "compile every segment by the Ascend compiler and check its memory plan",
        _ascend,
    ),
    "hopper": (
        "hopper",
        "compile every segment by upstream Triton for sm_90 and check what it takes",
        _hopper,
    ),
    "accuracy": (
        "study.accuracy.command",
        "measure what INT8 and bf16 cost, by granularity and by rounding point",
        _accuracy,
    ),
    "weights": (
        "weights",
        "print what a checkpoint holds of output projections, and convert it",
        _weights,
    ),
}


if __name__ == "__main__":
    sys.exit(main())
