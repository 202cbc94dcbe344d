"""What a segment claims of an Ascend core, as arithmetic on its tiles.

`python -m dsv4_kernels ascend` holds the compiler's own memory plan against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Core = Literal["AIC", "AIV", "MIX"]  # cube, vector, or a cube with its pair of vector cores
KIB = 1024


@dataclass(frozen=True)
class Budget:
    """Bytes per core: unified buffer of a vector core, L1 and L0C of a cube core.

    L1 and L0C are what the kernel's tiles take, to the byte. The unified buffer also holds the
    compiler's temporaries; its budget counts them in tiles and rounds up.
    """

    ub: int = 0
    l1: int = 0
    l0c: int = 0
