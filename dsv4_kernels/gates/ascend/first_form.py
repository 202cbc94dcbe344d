"""The form that this project began with, as this gate counted it: the baseline of what is moved.

It stood until slots had a segment of their own: gather_kv looked each row up by itself, with three
loads of single elements, and moved it by a DMA in and one out; column_bias looked it up again, with
two; qk_softmax_pv took all columns, dead or not; merge_norm and inverse_rope were two passes.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsv4_kernels.dims import Dims

BLOCK_COLUMNS = 128
TASK_COLUMNS = 32  # of a task of the gather, which loaded its token's length


@dataclass(frozen=True)
class FirstForm:
    """What it moves before proj_a: bytes of global memory, DMA instructions of the gather, loads
    of single elements by gather_kv and column_bias."""

    bytes: int
    gather_dma: int
    scalar_loads: int


def first_form(dims: Dims, tokens: int, columns: int, live: int) -> FirstForm:
    """Of a chunk. columns: K; live: slots of all tokens that are alive.

    A dead column, one past K too, was looked up and stored as a row of zeros, but not loaded.
    """
    H, C, P = dims.heads, dims.head_dim, dims.rope_dim
    row = 2 * C  # bytes
    blocks = -(-columns // BLOCK_COLUMNS)
    rows = tokens * blocks * BLOCK_COLUMNS
    # A block: its rows stored and loaded into L1, the bias twice either way; a head's q, its S and
    # P out and back, its o likewise in fp32, and m and l.
    of_a_block = BLOCK_COLUMNS * (2 * row + 16)
    of_a_block += H * (row + BLOCK_COLUMNS * (2 * 4 + 2 * 2) + 2 * 4 * C + 2 * 8)
    # A token: live_slots; a head's o packed, its sink, its rotated part out and back in fp32; a
    # group's halves of both tables.
    of_a_token = 4 + H * (row + 4 + 2 * 4 * P) + dims.groups * 2 * P
    return FirstForm(
        bytes=live * row + tokens * (blocks * of_a_block + of_a_token),
        gather_dma=rows + live,
        scalar_loads=5 * rows + rows // TASK_COLUMNS + tokens,
    )
