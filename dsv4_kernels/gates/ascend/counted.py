"""What every launch of a run moves and computes, by the code that is compiled for a part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dsv4_kernels import device
from dsv4_kernels.buffers import Buffers
from dsv4_kernels.gates.ascend import compiler
from dsv4_kernels.gates.ascend.counts import Counts
from dsv4_kernels.gates.ascend.gate import count_launch
from dsv4_kernels.gates.ascend.launches import part_target
from dsv4_kernels.launcher.executors import Executor
from dsv4_kernels.launcher.graph import Node


class Counted(NamedTuple):
    """A launch and what the compiled code of it does."""

    node: Node
    counts: Counts


def counted_run(part: str, run: Callable[[Executor], object]) -> tuple[Counted, ...]:
    """The launches of a run in their order of issue, each with its counts.

    A launch for the same groups is counted in its first wave: all waves must have as many tokens.

    Args:
        part: of `PARTS`.
        run: calls a chain on meta tensors with the executor that it is given, once.

    ValueError for a kernel that the compiler refuses.
    """
    driver = compiler.driver(part)
    found: list[Counted] = []

    def executor(nodes: Sequence[Node], waves: Sequence[Buffers]) -> None:
        by_label: dict[str, Counts] = {}
        for node in nodes:
            if node.label not in by_label:
                driver.launches.clear()
                with device.on(waves[node.wave]["q"]):
                    node.run(waves)
                (launch,) = driver.launches
                if launch.refusal:
                    raise ValueError(f"{node.label}: {launch.refusal}")
                by_label[node.label] = count_launch(launch)
            found.append(Counted(node, by_label[node.label]))

    with device.route("meta", part_target(part), driver):
        run(executor)
    return tuple(found)
