"""What this device can do at its best, measured in the same run: the roof that shares refer to."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench import clock
from dsv4_kernels.segments.cost import Cost

# On an accelerator each side of the copy is more than any cache holds, and a product fills all
# cores for a millisecond; on a CPU the same holds of smaller ones, in a tenth of a second.
COPY_BYTES, MATRIX = 2**30, 8192
CPU_COPY_BYTES, CPU_MATRIX = 2**27, 1024

int_mm = torch._int_mm  # pyright: ignore[reportPrivateImportUsage]  # torch's only INT8 product


@dataclass(frozen=True)
class Roof:
    """Bytes a second read and written by a copy; FLOP a second of torch's own products.

    int8_flop_s is None where torch multiplies no INT8 (NPU)."""

    copy_bytes_s: float
    bf16_flop_s: float
    int8_flop_s: float | None

    def floor_us(self, cost: Cost) -> float | None:
        """The least time for `cost`: its bytes, or its FLOP, whichever takes longer."""
        if cost.int8_flop and self.int8_flop_s is None:
            return None
        compute = cost.bf16_flop / self.bf16_flop_s
        compute += cost.int8_flop / self.int8_flop_s if self.int8_flop_s else 0.0
        return 1e6 * max(cost.bytes / self.copy_bytes_s, compute)


def measure_roof(device: torch.device) -> Roof:
    """Measure `device`."""
    on_cpu = device.type == "cpu"
    size, n = (CPU_COPY_BYTES, CPU_MATRIX) if on_cpu else (COPY_BYTES, MATRIX)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_us = _best_us(lambda: target.copy_(source), device)
    # Drawn, since a chip that is limited by power multiplies zeros faster.
    a, b = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
    bf16_us = _best_us(lambda: a @ b.t(), device)
    int8_flop_s = None
    if device.type != "npu":
        a8, b8 = (torch.randint(-127, 128, (n, n), device=device).to(torch.int8) for _ in range(2))
        int8_flop_s = 2e6 * n**3 / _best_us(lambda: int_mm(a8, b8.t()), device)
    return Roof(2e6 * size / copy_us, 2e6 * n**3 / bf16_us, int8_flop_s)


def _best_us(call: clock.Call, device: torch.device) -> float:
    call()
    return min(clock.measure([call], device, graph=False).us for _ in range(3))
