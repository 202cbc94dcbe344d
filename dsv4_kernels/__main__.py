"""Command line: ``python -m dsv4_kernels COMMAND``; COMMAND --help tells its options."""

from __future__ import annotations

import argparse
import importlib
import sys
from types import ModuleType
from typing import NoReturn

from dsv4_kernels.contract import ContractError
from dsv4_kernels.device import MissingDependency, require_triton

# {command: (module with `add_options` and a function of the command's name, help)}
COMMANDS = {
    "demo": ("study.demo", "run one layer's chain and check every segment"),
    "graph": ("diagram", "print a schedule as a Mermaid diagram, or what may overlap of it"),
    "swimlane": ("swimlane.command", "time every launch of every schedule, and draw them"),
    "ascend": ("ascend", "compile every segment by the Ascend compiler and check its memory plan"),
    "hopper": ("hopper", "compile every segment by upstream Triton for sm_90 and check it"),
    "accuracy": ("study.accuracy.command", "measure what INT8 and bf16 cost"),
    "weights": ("weights", "print what a checkpoint holds of output projections, and convert it"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; exit code 0 if all holds, 1 if something does not, 2 for a wrong call."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = _Parser(prog="python -m dsv4_kernels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    own = {
        name: commands.add_parser(name, help=about, formatter_class=_Help)
        for name, (_, about) in COMMANDS.items()
    }
    try:
        for name in (name for name in given[:1] if name in COMMANDS):
            own[name].description = COMMANDS[name][1]
            _module(name).add_options(own[name])
        options = vars(parser.parse_args(given))
        command = options.pop("command")
        return 0 if getattr(_module(command), command)(**options) else 1
    except (ContractError, MissingDependency, ValueError, OSError) as error:
        print(f"dsv4_kernels: {error}", file=sys.stderr)
        return 2


def _module(command: str) -> ModuleType:
    """A command's module, imported late: each needs packages that the others do without."""
    try:
        return importlib.import_module(f"dsv4_kernels.commands.{COMMANDS[command][0]}")
    except ModuleNotFoundError as error:
        if error.name == "triton":
            require_triton()  # which says how to get one
        if error.name != "dsv4_kernels.commands.study":
            raise
        raise MissingDependency(
            "this command compares with reference/, which is not part of the installed package: "
            "run it from a checkout of the repository"
        ) from error


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        said = action.default not in (None, False, [])
        return super()._get_help_string(action) if said else action.help


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all that follows does."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; {self.prog} --help tells more")


if __name__ == "__main__":
    sys.exit(main())
