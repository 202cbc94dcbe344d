"""What a run costs the host beside its launches: ``python -m bench.host_cost``.

Kernels are compiled and looked up as ever, but their code is not called: what is left is the
launcher's own time and Triton's. The same launches through Triton alone are timed in the same run,
turn by turn; the ratio of the two is what the launcher adds.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from dsv4_kernels import PrefillSparseAttn, SparseAttn
from dsv4_kernels import device as devices
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.inputs.batch import Request, make_batch
from dsv4_kernels.inputs.prefill import make_inputs
from dsv4_kernels.segments.segment import Launch

RUNS = 1000  # of each side
TOKENS = 128
MOST = 1.1  # of the launches alone


class NoCode:
    """The driver of a device whose kernels do nothing."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        return lambda *launch: None


def prefill() -> tuple[Callable[[], Any], tuple[Any, ...]]:
    """Makes a plan of `prefill_sparse_attn` for a FLASH chunk; and what its run takes."""
    inputs = make_inputs(PRESETS["FLASH"], tokens=TOKENS, start=4000)
    return lambda: PrefillSparseAttn(*inputs.args(), window=inputs.window), inputs.args()


def batch() -> tuple[Callable[[], Any], tuple[Any, ...]]:
    """Likewise of `sparse_attn`, for two requests."""
    requests = [Request(500, TOKENS // 2, key=key) for key in range(2)]
    inputs = make_batch(PRESETS["FLASH"], requests, ratio=4)
    return lambda: SparseAttn(*inputs.args(), **inputs.options()), inputs.args()


def measure(made: tuple[Callable[[], Any], tuple[Any, ...]]) -> dict[str, float]:
    """Microseconds of a run, of its launches by Triton alone, and how many there are."""
    make, arguments = made
    launched: list[tuple[Launch, list[Any]]] = []
    keep = Launch.__call__

    def noted(launch: Launch, buffers: Mapping[str, Any]) -> None:
        values = [buffers[a] if isinstance(a, str) else a for a in launch.arguments]
        launched.append((launch, values))
        keep(launch, buffers)

    with devices.on(arguments[0]) as target:
        driver = NoCode(devices.require_triton().runtime.driver.active)
    with devices.route("cpu", target, driver):
        Launch.__call__ = noted  # type: ignore[method-assign]
        try:
            make().run(*arguments)
        finally:
            Launch.__call__ = keep  # type: ignore[method-assign]
        plan = make()

        def alone() -> None:
            for launch, values in launched:
                launch.kernel[launch.grid](*values, **launch.constants)

        with devices.on(arguments[0]):
            times = in_turns([lambda: plan.run(*arguments), alone])
    return dict(run_us=times[0], launches_us=times[1], launches=len(launched))


def in_turns(calls: list[Callable[[], Any]], runs: int = RUNS) -> list[float]:
    """Median microseconds of this thread's processor for every call, which take turns."""
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(runs):
        for call, sample in zip(calls, samples, strict=True):
            begin = time.thread_time()
            call()
            sample.append(1e6 * (time.thread_time() - begin))
    return [statistics.median(sample) for sample in samples]


def main() -> int:
    """Print both and their ratio, by entry; 1 where it is more than it may be."""
    torch.set_num_threads(1)
    ratios = []
    for name, made in (("prefill_sparse_attn", prefill), ("sparse_attn", batch)):
        found = measure(made())
        ratios.append(found["run_us"] / found["launches_us"])
        print(
            f"{name} of FLASH, {found['launches']:.0f} launches, kernels taken out, on this host: "
            f"{found['run_us']:.0f} us, through Triton alone {found['launches_us']:.0f} us: "
            f"{ratios[-1]:.2f}x (at most {MOST})"
        )
    return 0 if max(ratios) <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
