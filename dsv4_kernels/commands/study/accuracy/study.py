"""The study at given sizes, and its results as data."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import reference
from dsv4_kernels.commands.study.accuracy.activations import CHAIN, DRAWN
from dsv4_kernels.commands.study.accuracy.budget import Budget, budget
from dsv4_kernels.commands.study.accuracy.granularity import Errors, errors
from dsv4_kernels.dims import PRESETS, Dims
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.weights import quantise_rows

# The chain's chunk: a layer with every kind of slot, past the first window, as in the demo.
LAYER, START = "CSA", 4000

# What the project's seed, pypto-lib PR #649, reports for INT8 activations, in the digits it gives.
SEED_FIGURES = {
    "INT8, row": (0.9e-2, 1.2e-2),
    "INT8, group": (0.78e-2, 0.78e-2),
    "INT8, block of 128": (0.64e-2, 0.64e-2),
}
SEED_DIGIT = 0.01e-2  # one unit of the last of them: "~" promises no more


@dataclass(frozen=True)
class Study:
    """granularity: errors by preset, activations and scheme. budgets: by preset."""

    date: str
    tokens: int
    seed: int
    granularity: dict[str, dict[str, dict[str, Errors]]]
    budgets: dict[str, Budget]

    def to_json(self) -> str:
        """As read by `from_json`."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Study:
        """The study that `to_json` wrote; ValueError for any other text."""
        try:
            data: dict[str, Any] = json.loads(text)
            granularity = {
                preset: {
                    activations: {scheme: Errors(**found) for scheme, found in schemes.items()}
                    for activations, schemes in by_activations.items()
                }
                for preset, by_activations in data.pop("granularity").items()
            }
            budgets = {preset: Budget(**found) for preset, found in data.pop("budgets").items()}
            return cls(granularity=granularity, budgets=budgets, **data)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError("not the JSON of a study, as `accuracy --json` keeps it") from error

    def from_seed_figure(self, preset: str, scheme: str) -> float:
        """How far the Gaussian error lies outside of the seed's figure; 0 inside, below < 0."""
        error = self.granularity[preset]["Gaussian"][scheme].all
        low, high = SEED_FIGURES[scheme]
        return min(error - low, 0.0) + max(error - high, 0.0)

    @property
    def reproduces_seed(self) -> bool:
        """Whether every figure of the seed is met to its last digit."""
        return all(
            abs(self.from_seed_figure(preset, scheme)) <= SEED_DIGIT
            for preset in self.granularity
            for scheme in SEED_FIGURES
        )


def run(presets: Sequence[str], tokens: int, seed: int, step: Callable[[str], None]) -> Study:
    """Measure; `step` is told what comes next, `steps(presets)` times."""
    granularity: dict[str, dict[str, dict[str, Errors]]] = {}
    budgets: dict[str, Budget] = {}
    for preset in presets:
        dims = PRESETS[preset]
        step(f"{preset}: drawing weights and inputs")
        generator = torch.Generator().manual_seed(seed)
        weights = draw_weights(dims, generator)
        wo_b, wo_b_scale = quantise_rows(weights)
        # Another seed: from the same one, wo_a would be the numbers that wo_b is.
        inputs = make_inputs(dims, layer=LAYER, tokens=tokens, start=START, seed=seed + 1)
        inputs = dataclasses.replace(inputs, wo_b=wo_b, wo_b_scale=wo_b_scale)
        found = granularity[preset] = {}
        for name, draw in DRAWN.items():
            step(f"{preset}: {name}")
            found[name] = errors(draw(tokens, dims.groups, dims.o_lora_rank, generator), weights)
        step(f"{preset}: activations of the chain")
        o_r = reference.prefill_segments(*inputs.args(), window=inputs.window)["o_r"]
        found[CHAIN] = errors(o_r, weights)
        step(f"{preset}: error budget of the chain")
        budgets[preset] = budget(inputs, weights)
    return Study(datetime.date.today().isoformat(), tokens, seed, granularity, budgets)


def draw_weights(dims: Dims, generator: torch.Generator) -> torch.Tensor:
    """[D, G*R] fp32, N(0, 1/(G*R)) as in `make_inputs`, which keeps the INT8 ones only."""
    columns = dims.groups * dims.o_lora_rank
    return torch.randn(dims.hidden, columns, generator=generator) * columns**-0.5


def steps(presets: Sequence[str]) -> int:
    """How often `run` calls `step`."""
    return len(presets) * (len(DRAWN) + 3)
