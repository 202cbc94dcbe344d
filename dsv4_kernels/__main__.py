"""Command line: ``python -m dsv4_kernels demo | graph | ascend | hopper``."""

from __future__ import annotations

import argparse
import importlib
import sys

from dsv4_kernels.contract import ContractError
from dsv4_kernels.device import MissingDependency
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs import LAYER_RATIOS

_MODULES = {"demo": "demo", "ascend": "ascend.report", "hopper": "hopper.report", "graph": "graph"}


def _positive(text: str) -> int:
    """A whole number above 0; argparse turns the error into a line of its own."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; exit code 0 if all holds, 1 if something does not, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="python -m dsv4_kernels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="run one layer's chain and check every segment")
    demo.add_argument("--preset", choices=PRESETS, default="FLASH", help="model dimensions")
    demo.add_argument("--layer", choices=LAYER_RATIOS, default="CSA", help="kind of layer")
    demo.add_argument("--tokens", type=int, default=128, metavar="T", help="tokens of the chunk")
    demo.add_argument(
        "--start", type=int, default=4000, metavar="P", help="absolute position of the first token"
    )
    demo.add_argument("--seed", type=int, default=0, help="of everything that is drawn")

    graph = commands.add_parser("graph", help="print a schedule as a Mermaid diagram")
    graph.add_argument("--schedule", default="decoupled", help="decoupled or row_barrier")
    graph.add_argument("--groups", type=_positive, default=8, metavar="G", help="FLASH has 8")
    graph.add_argument("--groups-per-launch", type=_positive, default=4, metavar="N")

    ascend = commands.add_parser(
        "ascend", help="compile every segment by the Ascend compiler and check its memory plan"
    )
    _add_gate_options(ascend, example="group_quant.block_r=512")
    ascend.add_argument(
        "--part", dest="parts", nargs="+", default=["Ascend910B3", "Ascend910_9392"], metavar="P"
    )
    ascend.add_argument("--save", metavar="DIR", help="keep Triton IR, linalg and HIVM there")

    hopper = commands.add_parser(
        "hopper", help="compile every segment by upstream Triton for sm_90 and check what it takes"
    )
    _add_gate_options(hopper, example="proj_a.num_stages=5")

    options = vars(parser.parse_args(arguments))
    command = options.pop("command")
    try:
        # Imported late: each needs packages that the other does without.
        module = importlib.import_module(f"dsv4_kernels.{_MODULES[command]}")
        return 0 if getattr(module, command)(**options) else 1
    except (ContractError, MissingDependency, ValueError) as error:
        print(f"dsv4_kernels: {error}", file=sys.stderr)
        return 2


def _add_gate_options(parser: argparse.ArgumentParser, *, example: str) -> None:
    parser.add_argument("--preset", dest="presets", nargs="+", choices=PRESETS, default=[*PRESETS])
    parser.add_argument("--segment", dest="segments", nargs="+", default=[], metavar="S")
    parser.add_argument(
        "--tile", dest="tiles", nargs="+", default=[], metavar="SEGMENT.FIELD=N",
        help=f"use another tile, e.g. {example}",
    )  # fmt: skip
    parser.add_argument("--json", dest="as_json", action="store_true", help="the same as data")


if __name__ == "__main__":
    sys.exit(main())
