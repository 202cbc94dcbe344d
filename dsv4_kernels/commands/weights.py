"""``python -m dsv4_kernels weights``: what a checkpoint holds, and what conversion costs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping

from rich.console import Console

from dsv4_kernels.commands import terminal
from dsv4_kernels.commands.options import positive
from dsv4_kernels.contract import Contract
from dsv4_kernels.weights import Checkpoint, inspect, load_from
from dsv4_kernels.weights.convert import Conversion

MIB = 1 << 20
HEADINGS = ("layer", "wo_a", "error", "wo_b", "error", "MiB read")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where the checkpoint is."""
    parser.add_argument("path", metavar="PATH", help="a safetensors file, or a folder of them")
    parser.add_argument(
        "--groups", type=positive, metavar="G", help="where no config.json has o_groups"
    )


def weights(*, path: str, groups: int | None) -> bool:
    """Check all layers by their headers, then convert them one by one, and print.

    groups: G where no config.json says it. Raises ContractError as `weights.load`, before anything
    is converted if a header or a name shows it.
    """
    console = terminal.console(80)
    with Checkpoint(path) as checkpoint:
        _all_there(checkpoint)
        found = {layer: inspect(checkpoint, layer, groups=groups) for layer in checkpoint.layers}
        for line in _summary(checkpoint, found):
            console.print(line, soft_wrap=True, highlight=False)
        rows = _rows(checkpoint, groups, console)
    title = "conversion; error: of the weights, Frobenius"
    console.print(terminal.Sheet(title, HEADINGS, rows, {"layer", "wo_a", "wo_b"}).rich())
    return True


def _all_there(checkpoint: Checkpoint) -> None:
    """A folder holds all the layers that its config.json counts; a single file need not."""
    contract = Contract("weights")
    if not checkpoint.layers:
        contract.require(False, str(checkpoint.path), "a checkpoint of DeepSeek-V4", "other names")
    if checkpoint.path.is_dir():
        count = checkpoint.config.get("num_hidden_layers", 0)
        contract.integer("num_hidden_layers", count, 0)
        for layer in (f"layers.{n}" for n in range(count)):
            words = f"in {checkpoint.path}, for config.json counts {count} layers"
            contract.require(layer in checkpoint.layers, layer, words, "nothing")


def _summary(checkpoint: Checkpoint, found: Mapping[str, Conversion]) -> list[str]:
    """Files and spellings in a line, then a line for every set of shapes; there should be one."""
    prefixes = [re.sub(r"\d+", "N", names.prefix) for names in checkpoint.layers.values()]
    spellings = ", ".join(dict.fromkeys(prefixes))
    shapes = [
        f"wo_a [{c.groups}, {c.o_lora_rank}, {c.group_inputs}],"
        f" wo_b [{c.hidden}, {c.groups * c.o_lora_rank}], attn_sink [{c.heads}]"
        for c in found.values()
    ]
    counted = f"{len(found)} layers, files: {checkpoint.files}, as {spellings}"
    return [f"{checkpoint.path}:", counted, *dict.fromkeys(shapes)]


def _rows(checkpoint: Checkpoint, groups: int | None, console: Console) -> list[list[str]]:
    """Every layer converted, by one row each; its weights are dropped."""
    rows = []
    with terminal.progress(console, words=20, transient=True) as progress:
        task = progress.add_task("", total=len(checkpoint.layers))
        for layer in checkpoint.layers:
            progress.update(task, description=f"converting {layer}")
            loaded = load_from(checkpoint, layer, groups=groups)
            (first, second), oproj = loaded.forms, loaded.oproj
            errors = _percent(oproj.wo_a_error), _percent(oproj.wo_b_error)
            read = f"{loaded.bytes_read / MIB:.1f}"
            rows.append([layer, first, errors[0], second, errors[1], read])
            progress.advance(task)
    return rows


def _percent(error: float) -> str:
    return f"{100 * error:.2f} %" if error else "exact"
