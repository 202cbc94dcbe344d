"""Segment 2: each tile's KV rows, side by side."""

from __future__ import annotations

import torch

from reference.bounds import Bound, Inputs, Outputs
from reference.resolve_slots import BLOCK_COLUMNS, POOL_GAP


def gather_kv(
    ori_kv: torch.Tensor,  # [pages, B1, C] bf16
    kv_overlay: torch.Tensor,  # [T, C] bf16
    cmp_kv: torch.Tensor,  # [pages, B2, C] bf16
    rows: torch.Tensor,  # [U, KP] int32
    runs: torch.Tensor,  # [U, KP/16] int32
    live_blocks: torch.Tensor,  # [U] int32
) -> torch.Tensor:
    """kv[u, k, :] = the row that rows[u, k] names, else zeros: [U, KP, C] bf16.

    runs says how the rows may be moved, not which: it is not looked at. Nothing outside of a pool
    is a row.
    """
    kv = torch.zeros(*rows.shape, kv_overlay.shape[1], dtype=torch.bfloat16)
    base = 0
    for held in (numbered(ori_kv), kv_overlay, numbered(cmp_kv)):
        here = (rows >= base) & (rows < base + len(held))
        kv[here] = held[rows[here].long() - base]
        base += len(held) + POOL_GAP
    return torch.where(_behind(kv, live_blocks)[..., None], 0, kv)


def numbered(pool: torch.Tensor) -> torch.Tensor:
    """The rows of a pool [pages, B, C] by their numbers: where other memory lies between pages,
    the number between two of them is no row's, here one of NaN."""
    B = pool.shape[1]
    if page_numbers(pool) == B or len(pool) == 0:
        return pool.flatten(0, 1)
    return torch.nn.functional.pad(pool, (0, 0, 0, 1), value=torch.nan).flatten(0, 1)[:-1]


def page_numbers(pool: torch.Tensor) -> int:
    """From a page's first row to the next page's."""
    pages, B, C = pool.shape
    return B if pages < 2 or pool.stride(0) == B * C else B + 1


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """The same bytes, and none behind the live blocks."""
    behind = _behind(want["kv"], inputs["live_blocks"].cpu())
    left = behind[..., None].expand(want["kv"].shape)
    return {"kv": Bound(0.0, "moves only: the same bytes", left=left)}


def _behind(kv: torch.Tensor, live_blocks: torch.Tensor) -> torch.Tensor:
    """[U, KP] bool: columns behind the live blocks."""
    return torch.arange(kv.shape[1]) >= live_blocks.long()[:, None] * BLOCK_COLUMNS
