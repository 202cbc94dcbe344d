"""Which tokens of a batch share their KV: neighbours of a request whose positions have one
p // sharers."""

from __future__ import annotations

import torch

from reference.bounds import Bound, Inputs, Outputs


def tile_map(
    request: torch.Tensor,  # [N] int32
    position: torch.Tensor,  # [N] int32
    seq_lens: torch.Tensor,  # [S] int32, of which the number counts
    sharers: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(tile_first [U] int32, tile_tokens [U] int32, tile_count int32, tile_of [N] int32).

    A dead token is in no tile, nor is one behind the U tiles that there is room for.
    """
    N, S, U = len(request), len(seq_lens), room(len(request), len(seq_lens), sharers)
    tiles: list[list[int]] = []
    before: tuple[int, int] | None = None
    for t, (r, p) in enumerate(zip(request.tolist(), position.tolist(), strict=True)):
        if not (0 <= r < S and p >= 0):
            before = None
            continue
        if before == (r, p - 1) and p // sharers == (p - 1) // sharers:
            tiles[-1].append(t)
        else:
            tiles.append([t])
        before = (r, p)
    tiles = tiles[:U]
    first, tokens = torch.zeros(U, dtype=torch.int32), torch.zeros(U, dtype=torch.int32)
    tile_of = torch.full((N,), -1, dtype=torch.int32)
    for u, tile in enumerate(tiles):
        first[u], tokens[u] = tile[0], len(tile)
        tile_of[tile] = u
    return first, tokens, torch.tensor(len(tiles), dtype=torch.int32), tile_of


def room(N: int, S: int, X: int) -> int:
    """The most tiles that N tokens of S requests have, found by looking at every number of them.

    2*S - 1 stretches of tokens at most, each of which begins anywhere in a tile.
    """
    stretches = max(2 * S - 1, 1)
    found = 0
    for many in range(1, min(stretches, N) + 1):
        # One token each, the last of a tile; two more tokens of it and a tile more; then X a tile.
        seconds = min(many, N - many)
        found = max(found, many + seconds + (N - many - seconds) // X)
    return min(N, found)


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """The same numbers; of tiles that are not there, none is written."""
    behind = torch.arange(len(want["tile_first"])) >= want["tile_count"]
    because = "tokens and tiles: the same numbers"
    left = {"tile_first": behind, "tile_tokens": behind}
    return {name: Bound(0.0, because, left=left.get(name)) for name in want}
