"""What a torch operator costs the host beside the run of a plan: ``python -m bench.op_cost``.

Kernels are taken out, as in `bench.host_cost`, for the rest of the process; both calls take turns.
What is left of their difference is torch's dispatcher and the look-up of the workspace.
"""

from __future__ import annotations

from typing import Any

import torch

from bench.host_cost import RUNS, NoCode, in_turns
from dsv4_kernels import PrefillSparseAttn, SparseAttn
from dsv4_kernels import device as devices
from dsv4_kernels.chains import ops  # noqa: F401 - registers the operators
from dsv4_kernels.dims import PRESETS, Dims
from dsv4_kernels.inputs.batch import Request, make_batch
from dsv4_kernels.inputs.prefill import make_inputs

TOKENS = 8  # a step of decode: one launch's worth of rows


def op_cost(dims: Dims, runs: int = RUNS) -> dict[str, tuple[float, float]]:
    """By the operator's name the microseconds of a plan's run and of its out form."""
    inputs = make_inputs(dims, tokens=TOKENS, start=4000)
    batch = make_batch(dims, [Request(400 + r, 1, key=r) for r in range(TOKENS)], ratio=4)
    out = torch.zeros((TOKENS, dims.hidden), dtype=torch.bfloat16)
    chunk: dict[str, Any] = dict(window=inputs.window)
    with devices.on(inputs.q) as target:
        driver = NoCode(devices.require_triton().runtime.driver.active)
    with devices.route("cpu", target, driver), devices.on(inputs.q):
        kinds = (
            ("prefill_sparse_attn", PrefillSparseAttn, inputs.args(), chunk),
            ("sparse_attn", SparseAttn, batch.args(), batch.options()),
        )
        found = {}
        for name, kind, args, options in kinds:
            plan, call = kind(*args, **options), getattr(torch.ops.dsv4, f"{name}_out")
            run, operator = in_turns(
                [
                    lambda plan=plan, args=args: plan.run(*args, out=out),
                    lambda call=call, args=args, options=options: call(*args, out=out, **options),
                ],
                runs,
            )
            found[name] = run, operator
    return found


def main() -> None:
    """A line for each operator."""
    torch.set_num_threads(1)
    for name, (run, operator) in op_cost(PRESETS["FLASH"]).items():
        print(
            f"{name}, FLASH, {TOKENS} tokens, kernels taken out, on this host: a plan's run "
            f"{run:.0f} us, the operator {operator:.0f} us: {operator - run:.0f} us more"
        )


if __name__ == "__main__":
    main()
