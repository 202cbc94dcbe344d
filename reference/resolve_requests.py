"""A batch's resolver: the row of each column by the servers' contract, laid out as resolve_slots
lays out its own."""

from __future__ import annotations

import torch

from reference.batch import named_rows
from reference.bounds import Bound, Inputs, Outputs
from reference.gather_kv import numbered, page_numbers
from reference.resolve_slots import POOL_GAP, laid_out
from reference.resolve_slots import bound as layout_bound


def resolve_requests(
    request: torch.Tensor,  # [N] int32
    position: torch.Tensor,  # [N] int32
    seq_lens: torch.Tensor,  # [S] int32, of which the number counts
    ori_kv: torch.Tensor,  # [pages, B1, C]
    cmp_kv: torch.Tensor,  # [pages, B2, C]
    ori_tables: torch.Tensor,  # [S, n1] int32 flat, rows ori_table_stride apart
    cmp_tables: torch.Tensor,
    ori_indices: torch.Tensor,  # [N, W] int32
    cmp_indices: torch.Tensor,  # [N, I] int32
    *,
    window: int,
    ori_listed: bool,
    compress_ratio: int,
    listed: bool,
    cmp_columns: int,
    **sizes: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(rows [N, KP] int32, bias [N, KP] fp32, runs [N, KP/16] int32, live_blocks [N] int32,
    live_slots [N] int32) as dsv4_kernels.segments.requests says.

    window: columns of the window or of ori_indices, whichever there is. sizes: of tables;
    the tail.
    """
    S, pools = len(seq_lens), {"ori": ori_kv, "cmp": cmp_kv}
    tables = {"ori": ori_tables, "cmp": cmp_tables}
    for name, table in tables.items():
        columns, stride = sizes[f"{name}_table_columns"], sizes[f"{name}_table_stride"]
        tables[name] = table.as_strided((S, columns), (stride, 1))
    base = {"ori": 0, "cmp": len(numbered(ori_kv)) + POOL_GAP + 1 + POOL_GAP}  # one row between

    def number(named: tuple[str, int] | None) -> int:
        if named is None:
            return -1
        pool, row = named
        B = pools[pool].shape[1]
        return base[pool] + row // B * page_numbers(pools[pool]) + row % B

    rows = []
    for t, (r, p) in enumerate(zip(request.tolist(), position.tolist(), strict=True)):
        place = (r, p) if 0 <= r < S and p >= 0 else (-1, -1)
        named = named_rows(
            place, pools["ori"], tables["ori"], pools["cmp"], tables["cmp"],
            cmp_indices[t] if listed else None, compress_ratio=compress_ratio, window=window,
            columns=cmp_columns, ori_indices=ori_indices[t] if ori_listed else None,
        )  # fmt: skip
        rows.append([number(row) for row in named] or [-1])
    named = torch.tensor(rows, dtype=torch.int64).reshape(len(rows), -1)
    return laid_out(named, tail=sizes["tail"])


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """As resolve_slots of one sharer."""
    return layout_bound({}, want)
