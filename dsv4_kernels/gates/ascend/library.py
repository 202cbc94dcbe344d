"""The compiler's library functions, by what a call of one counts as."""

from __future__ import annotations

import functools
import re

# By the beginning of their names, those that move data between memories. nd2nz loads into L1 in the
# cube's fractal layout, fixpipe stores an accumulator.
_PATHS = {
    "nd2nz_": "gm_to_l1",
    "load_gm_to_ubuf_": "gm_to_ub",
    "store_ubuf_to_gm_": "ub_to_gm",
    "fixpipe_": "l0c_to_gm",
}
_VECTOR = re.compile(
    r"(v[a-z]+_|enablevc_reduce_|reduce_|broadcast_|arange_|copy_ubuf_to_ubuf_|gather_|(de)?interleave_)"
)


@functools.cache
def path(name: str) -> str | None:
    """Of a function that moves data between memories."""
    return next((path for prefix, path in _PATHS.items() if name.startswith(prefix)), None)


def is_matmul(name: str) -> bool:
    """On a cube core: its operands, whether it starts from nothing, M, K, N."""
    return name.startswith("mma_tile_")


def is_vector(name: str) -> bool:
    """On a vector core, within its memory."""
    return _VECTOR.match(name) is not None


def is_cast_of_bf16(name: str) -> bool:
    """To it too: of those that must be aligned."""
    return name.startswith("vcast_") and "bfloat16_t" in name


def is_known(name: str) -> bool:
    """set_l1 fills L1 with zeros: it neither moves nor computes."""
    return bool(path(name)) or is_matmul(name) or is_vector(name) or name.startswith("set_l1_")
