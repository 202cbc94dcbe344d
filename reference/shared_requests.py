"""A batch's resolver for tokens that share their KV: a token's rows by the servers' contract, each
in the column that its tile has for it."""

from __future__ import annotations

import torch

from reference.batch import named_rows
from reference.bounds import Bound, Inputs, Outputs
from reference.gather_kv import numbered, page_numbers
from reference.resolve_slots import BLOCK_COLUMNS, POOL_GAP, RUN_COLUMNS, laid_out


def shared_requests(
    request: torch.Tensor,  # [N] int32
    position: torch.Tensor,  # [N] int32
    ori_kv: torch.Tensor,  # [pages, B1, C]
    cmp_kv: torch.Tensor,  # [pages, B2, C]
    ori_tables: torch.Tensor,  # [S, n1] int32 flat, rows ori_table_stride apart
    cmp_tables: torch.Tensor,
    tile_first: torch.Tensor,  # [U] int32
    tile_tokens: torch.Tensor,  # [U] int32
    tile_count: torch.Tensor,  # int32
    tile_of: torch.Tensor,  # [N] int32
    *,
    window: int,
    compress_ratio: int,
    cmp_columns: int,
    tail: int,
    sharers: int,
    **sizes: int,
) -> tuple[torch.Tensor, ...]:
    """(rows [U, KP] int32, bias [N, KP] fp32, runs [U, KP/16] int32, tile_blocks [U] int32,
    token_blocks [N] int32, live_slots [N] int32) as dsv4_kernels.segments.shared_requests says.

    sizes: of tables.
    """
    pools, flat = {"ori": ori_kv, "cmp": cmp_kv}, {"ori": ori_tables, "cmp": cmp_tables}
    base = {"ori": 0, "cmp": len(numbered(ori_kv)) + POOL_GAP + 1 + POOL_GAP}  # one row between
    tables = {}
    for name, table in flat.items():
        columns, stride = sizes[f"{name}_table_columns"], sizes[f"{name}_table_stride"]
        requests = (len(table) - columns) // stride + 1 if len(table) and stride else 0
        tables[name] = table.as_strided((requests, columns), (stride, 1))

    def number(pool: str, row: int) -> int:
        B = pools[pool].shape[1]
        return base[pool] + row // B * page_numbers(pools[pool]) + row % B

    wide = window + sharers - 1
    named = torch.full((len(request), max(wide + cmp_columns, 1)), -1)
    for t, u in enumerate(tile_of.tolist()):
        if u < 0:
            continue
        p = int(position[t])
        found = named_rows(
            (int(request[t]), p), ori_kv, tables["ori"], cmp_kv, tables["cmp"], None,
            compress_ratio=compress_ratio, window=window, columns=cmp_columns,
        )  # fmt: skip
        at = [p % sharers + w for w in range(window)] + [wide + k for k in range(cmp_columns)]
        for column, row in zip(at, found, strict=False):  # of no ratio there are no slots
            named[t, column] = -1 if row is None else number(*row)
    count = int(tile_count)
    lasts = (tile_first + tile_tokens).tolist()
    tiles = [slice(*ends) for ends in zip(tile_first.tolist(), lasts, strict=True)]
    tiles = [tokens if u < count else slice(0) for u, tokens in enumerate(tiles)]
    rows, bias, runs, blocks, live_slots = laid_out(named, tail=tail, tiles=tiles)
    token_blocks = torch.where(tile_of >= 0, blocks[tile_of.clamp_min(0).long()], 0)
    return rows, bias, runs, blocks, token_blocks, live_slots


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """The same numbers, and none behind live blocks and tiles."""
    columns = torch.arange(want["rows"].shape[1])
    dead, of_token = (
        columns >= want[name].long()[:, None] * BLOCK_COLUMNS
        for name in ("tile_blocks", "token_blocks")
    )
    no_tile = torch.arange(len(dead)) >= inputs["tile_count"]
    left = {"rows": dead, "runs": dead[:, ::RUN_COLUMNS], "bias": of_token, "tile_blocks": no_tile}
    because = "row numbers, 0, NEG and counts: the same bytes"
    return {name: Bound(0.0, because, left=left.get(name)) for name in want}
