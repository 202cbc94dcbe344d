"""The servers' contract, written from its words: a batch as raw slots, and its fp64 oracle.

Shares nothing with the kernels that resolve: a golden with the same bug would hide it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from reference.oracle import projected

Place = tuple[int, int]  # a token's request and position


def places(query_start_loc: torch.Tensor, seq_lens: torch.Tensor, tokens: int) -> list[Place]:
    """Of every token its request and position, (-1, -1) for a dead one."""
    starts, lengths = query_start_loc.tolist(), seq_lens.tolist()
    found = []
    for t in range(tokens):
        place = (-1, -1)
        for r, length in enumerate(lengths):
            if starts[r] <= t < starts[r + 1]:
                p = length - starts[r + 1] + t
                place = (r, p) if p >= 0 else place
                break
        found.append(place)
    return found


def named_rows(
    place: Place,
    ori_kv: torch.Tensor,  # [pages, B1, C]
    ori_block_table: torch.Tensor,  # [S, n1]
    cmp_kv: torch.Tensor | None,  # [pages, B2, C]
    cmp_block_table: torch.Tensor | None,  # [S, n2]
    cmp_indices: torch.Tensor | None,  # [K], the token's
    *,
    compress_ratio: int,
    window: int,
    columns: int,
    ori_indices: torch.Tensor | None = None,  # [W], the token's
) -> list[tuple[str, int] | None]:
    """Of each column of a token the pool and the row page*B + offset, None where it is dead.

    columns: of compressed slots, where no list is given.
    """
    r, p = place
    named: list[tuple[str, int] | None] = []
    if ori_indices is None:
        for position in range(p - window + 1, p + 1):
            row = _through(ori_kv, ori_block_table, r, position) if r >= 0 else None
            named.append(None if row is None else ("ori", row))
    else:
        rows = ori_kv.shape[0] * ori_kv.shape[1]
        for row in ori_indices.tolist():
            named.append(("ori", row) if r >= 0 and 0 <= row < rows else None)
    if compress_ratio == 0:
        return named
    assert cmp_kv is not None
    assert cmp_block_table is not None
    slots = list(range(columns)) if cmp_indices is None else cmp_indices.tolist()
    for slot in slots:
        visible = r >= 0 and 0 <= slot < (p + 1) // compress_ratio
        row = _through(cmp_kv, cmp_block_table, r, slot) if visible else None
        named.append(None if row is None else ("cmp", row))
    return named


def _through(pool: torch.Tensor, table: torch.Tensor, r: int, slot: int) -> int | None:
    pages, B = pool.shape[:2]
    if slot < 0 or slot // B >= table.shape[1]:
        return None
    page = int(table[r, slot // B])
    return page * B + slot % B if 0 <= page < pages else None


def as_raw(
    q: torch.Tensor,
    ori_kv: torch.Tensor,
    ori_block_table: torch.Tensor,
    cmp_kv: torch.Tensor | None,
    cmp_block_table: torch.Tensor | None,
    cmp_indices: torch.Tensor | None,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    attn_sink: torch.Tensor,
    rope_cos: torch.Tensor,
    rope_sin: torch.Tensor,
    wo_a: torch.Tensor,
    wo_b: torch.Tensor,
    wo_b_scale: torch.Tensor,
    *,
    compress_ratio: int,
    window: int,
    ori_indices: torch.Tensor | None = None,
) -> tuple[tuple[object, ...], int]:
    """The arguments of prefill_sparse_attn that mean the same, and its window: pages of one row,
    tables that change nothing, a ring as long as the pool, and an overlay that nothing names."""
    T, _, C = q.shape
    pools = {"ori": ori_kv, "cmp": cmp_kv}
    pools = {k: v.reshape(v.shape[0], v.shape[1], C) for k, v in pools.items() if v is not None}
    pages = {k: v.reshape(-1, 1, C).contiguous() for k, v in pools.items()}
    pages.setdefault("cmp", q.new_empty(0, 1, C))
    ring = len(pages["ori"])
    columns = 0
    if cmp_kv is not None and cmp_block_table is not None:
        columns = cmp_block_table.shape[1] * cmp_kv.shape[1]
    base = {"ori": 0, "cmp": ring + T}
    raw = []
    for t, place in enumerate(places(query_start_loc, seq_lens, T)):
        own, drafts = (None if x is None else x[t].reshape(-1) for x in (cmp_indices, ori_indices))
        named = named_rows(
            place, pools["ori"], ori_block_table, pools.get("cmp"), cmp_block_table, own,
            compress_ratio=compress_ratio, window=window, columns=columns, ori_indices=drafts,
        )  # fmt: skip
        raw.append([-1 if at is None else base[at[0]] + at[1] for at in named])
    width = window if ori_indices is None else ori_indices.shape[-1]
    width += columns if cmp_indices is None else cmp_indices.shape[-1]
    if width == 0:  # which the raw entry does not take
        raw, width = [[-1]] * T, 1
    indices = torch.tensor(raw, dtype=torch.int32).reshape(T, width)
    half = (rope_cos, rope_sin)
    half = [torch.cat([x.reshape(T, x.shape[-1])[:, ::2]] * 2, dim=1) for x in half]
    tables = {k: torch.arange(len(v), dtype=torch.int32) for k, v in pages.items()}
    arguments = (
        q, pages["ori"], tables["ori"], torch.zeros_like(q[:, 0]), pages["cmp"], tables["cmp"],
        indices, torch.full((T,), indices.shape[1], dtype=torch.int32), attn_sink, T, *half,
        wo_a, wo_b, wo_b_scale,
    )  # fmt: skip
    return arguments, ring


def oracle(
    requests: list[tuple[torch.Tensor, torch.Tensor]],  # KV by position, KV by slot
    q: torch.Tensor,  # [T, H, C]
    cmp_indices: torch.Tensor | None,  # [T, K]
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    attn_sink: torch.Tensor,
    rope_cos: torch.Tensor,  # [T, P] interleaved
    rope_sin: torch.Tensor,
    wo_a: torch.Tensor,
    wo_b: torch.Tensor,
    wo_b_scale: torch.Tensor,
    *,
    compress_ratio: int,
    window: int,
    listed: Sequence[Sequence[int]] | None = None,
) -> torch.Tensor:
    """attn_out [T, D] fp64, from the KV of every request: no page, no table.

    listed: of each token the positions that ori_indices names.
    """
    T, H, C = q.shape
    P = rope_cos.shape[1]
    attended = torch.zeros(T, H, C, dtype=torch.float64)
    for t, (r, p) in enumerate(places(query_start_loc, seq_lens, T)):
        if r < 0:
            continue
        by_position, by_slot = requests[r]
        seen = range(max(p - window + 1, 0), p + 1) if listed is None else listed[t]
        kv = [by_position[[*seen]]]
        if compress_ratio:
            visible = (p + 1) // compress_ratio
            slots = range(visible) if cmp_indices is None else cmp_indices[t].tolist()
            kv += [by_slot[[s for s in slots if 0 <= s < visible]]]
        rows = torch.cat(kv).double()
        scores = q[t].double() @ rows.T * C**-0.5
        whole = torch.cat([scores, attn_sink.double()[:, None]], dim=1)
        head = torch.softmax(whole, dim=1)[:, :-1] @ rows
        pairs = torch.view_as_complex(head[:, C - P :].reshape(H, P // 2, 2).contiguous())
        turn = torch.complex(rope_cos[t, ::2].double(), -rope_sin[t, ::2].double())
        head[:, C - P :] = torch.view_as_real(pairs * turn).flatten(1)
        attended[t] = head
    return projected(attended, wo_a, wo_b, wo_b_scale)
