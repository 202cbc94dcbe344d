"""Command line: ``python -m dsv4_kernels demo``."""

from __future__ import annotations

import argparse
import sys

from dsv4_kernels.contract import ContractError
from dsv4_kernels.device import MissingDependency
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs import LAYER_RATIOS


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

    options = vars(parser.parse_args(arguments))
    options.pop("command")
    try:
        from dsv4_kernels.demo import demo as run_demo

        return 0 if run_demo(**options) else 1
    except (ContractError, MissingDependency, ValueError) as error:
        print(f"dsv4_kernels: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
