"""A chunk as a caller lays it out whose neighbouring tokens share their KV.

    shared = share(make_inputs(dims, layer="HCA", start=130944), sharers=8)
    prefill_sparse_attn(*shared.args(), window=shared.window, sharers=8)

Of 8 neighbouring tokens the windows are 135 rows, one after the other, and the slots that the last
of them sees hold those of all.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from dsv4_kernels.inputs.prefill import PrefillInputs


def share(inputs: PrefillInputs, sharers: int) -> PrefillInputs:
    """The same chunk with a column a row for each tile of `sharers` neighbouring tokens.

    A tile's columns are the rows that its tokens name, each once: those of windows first, in the
    order in which the tile's first tokens name them, then the compressed slots likewise. A token
    has -1 where a column is not its own; K is what the longest tile takes, and every column counts.
    """
    first_slot = inputs.window + inputs.kv_overlay.shape[0]
    rows, lens = inputs.cmp_sparse_indices.tolist(), inputs.cmp_sparse_lens.tolist()
    named = [row[: max(n, 0)] for row, n in zip(rows, lens, strict=True)]
    laid_out: list[list[int]] = []
    for first in range(0, len(named), sharers):
        tile = named[first : first + sharers]
        columns = dict.fromkeys(raw for own in tile for raw in own if raw >= 0)
        columns = sorted(columns, key=lambda raw: raw >= first_slot)  # keeps their order else
        laid_out += [[raw if raw in own else -1 for raw in columns] for own in map(set, tile)]
    K = max(map(len, laid_out), default=1)
    device = inputs.cmp_sparse_indices.device
    return replace(
        inputs,
        cmp_sparse_indices=torch.tensor(
            [row + [-1] * (K - len(row)) for row in laid_out], dtype=torch.int32, device=device
        ),
        cmp_sparse_lens=torch.full_like(inputs.cmp_sparse_lens, K),
    )
