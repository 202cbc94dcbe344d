"""Which tokens of a batch share their KV, and how segments go by such tiles.

    tile of t      the neighbouring tokens of t's request whose positions have t's p // X
    tile_first[u], tile_tokens[u]    of the tiles of a wave, in their order; a dead token is in none

Neighbours have all of a window but a few columns in common, and all slots of a layer without an
index. Tiles begin at positions that X divides, wherever the request lies in the batch and whatever
part of it a wave or a chunk has: a column is a token's own by its position, so that its bytes are
the same in any batch. How many tiles there are is the device's to know; U is room for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import triton
import triton.language as tl

from dsv4_kernels.buffers import most_tiles
from dsv4_kernels.contract import Contract
from dsv4_kernels.device import Target
from dsv4_kernels.segments.kernel import kernel
from dsv4_kernels.segments.segment import Launch, Segment
from dsv4_kernels.segments.slots import check_sharers
from dsv4_kernels.segments.tiles import KIB, Budget, Core, Tiles, extent


@dataclass(frozen=True, kw_only=True)
class TileMapTiles(Tiles):
    """block_n: tokens at a time, twice those of a wave by default."""

    core: ClassVar[Core] = "AIV"
    block_n: int = extent(256)

    def budget(self, sizes: Mapping[str, int]) -> Budget:
        """Requests and positions of tokens and of their neighbours, doubled; masks, candidates."""
        return Budget(ub=18 * self.block_n * 4 + KIB)


@triton.jit
def _follows(
    request,
    position,
    before,  # request of the token before
    position_before,
    X: tl.constexpr,
):
    """Whether a token is in the tile of the one before it."""
    return (request == before) & (position == position_before + 1) & ((position & (X - 1)) != 0)


@kernel
def _tile_map_kernel(
    request_ptr,  # [N] int32
    position_ptr,  # [N] int32
    tile_first_ptr,  # [U] int32
    tile_tokens_ptr,  # [U] int32
    tile_count_ptr,  # int32
    tile_of_ptr,  # [N] int32
    S,
    N,
    U,
    X: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # One task: a token. It counts the tiles that begin up to it, and the first of a tile looks for
    # the first behind it that is in no or another tile. Of a pair of neighbours, t and t + 1.
    i = tl.arange(0, BLOCK_N)
    r0 = tl.load(request_ptr)
    first_is_live = (r0 >= 0) & (r0 < S) & (tl.load(position_ptr) >= 0)
    for n in range(tl.program_id(0), N, tl.num_programs(0)):
        begun = tl.where(first_is_live, 1.0, 0.0)
        behind = 0  # tokens from the first behind the tile on
        for t0 in range(0, N, BLOCK_N):
            t = t0 + i
            r_t = tl.load(request_ptr + t, mask=t < N, other=-1)
            p_t = tl.load(position_ptr + t, mask=t < N, other=-1)
            r_next = tl.load(request_ptr + 1 + t, mask=t + 1 < N, other=-1)
            p_next = tl.load(position_ptr + 1 + t, mask=t + 1 < N, other=-1)
            alive = (r_next >= 0) & (r_next < S) & (p_next >= 0)
            joins = alive & _follows(r_next, p_next, r_t, p_t, X)
            begun += tl.sum(tl.where(alive & ~joins & (t < n), 1.0, 0.0), axis=0)
            behind = tl.maximum(behind, tl.max(tl.where(~joins & (t >= n), N - 1 - t, 0), axis=0))
        r = tl.load(request_ptr + n)
        p = tl.load(position_ptr + n)
        u = begun.to(tl.int32) - 1
        # More tiles than there is room for come of a caller's map only: their tokens are in none.
        live = (r >= 0) & (r < S) & (p >= 0) & (u < U)
        tl.store(tile_of_ptr + n, tl.where(live, u, -1))
        if live:
            before = tl.load(request_ptr + tl.maximum(n - 1, 0))
            p_before = tl.load(position_ptr + tl.maximum(n - 1, 0))
            if (n == 0) | (_follows(r, p, before, p_before, X) == 0):
                tl.store(tile_first_ptr + u, n)
                tl.store(tile_tokens_ptr + u, N - behind - n)
        if n == N - 1:
            tl.store(tile_count_ptr, tl.minimum(u + 1, U))


def _check(contract: Contract, sharers: int) -> None:
    X, S = check_sharers(contract, sharers), contract["S"]
    contract.sizes["U"] = most_tiles(contract["N"], X, S)


def _launch(contract: Contract, target: Target, tiles: TileMapTiles) -> Launch:
    N, S, U = contract["N"], contract["S"], contract["U"]
    return Launch(
        _tile_map_kernel,
        target.grid("vector", N),
        (
            "request", "position", "tile_first", "tile_tokens", "tile_count", "tile_of", S, N, U,
        ),
        dict(X=contract["X"], BLOCK_N=tiles.block_n, **tiles.options(target)),
    )  # fmt: skip


TILE_MAP = Segment(
    "tile_map", TileMapTiles, reads=("request", "position", "seq_lens"),
    writes=("tile_first", "tile_tokens", "tile_count", "tile_of"), numbers=("sharers",),
    check=_check, launch=_launch,
)  # fmt: skip


def by_tile(segment: Segment) -> Segment:
    """The same segment, of kernels that go by tile, for a batch's tiles."""

    def check(contract: Contract, **numbers: Any) -> None:
        contract.sizes["tiled"] = 1
        segment.check(contract, **numbers)

    own = ("tile_first", "tile_tokens", "tile_count")
    return replace(_with_blocks(segment, "tile_blocks", own), check=check)


def by_token(segment: Segment) -> Segment:
    """The same segment, of kernels that go by token, which need not know of a batch's tiles."""

    def check(contract: Contract, **numbers: Any) -> None:
        segment.check(contract, **numbers | {"sharers": 1})

    return replace(_with_blocks(segment, "token_blocks"), check=check)


def _with_blocks(segment: Segment, blocks: str, own: tuple[str, ...] = ()) -> Segment:
    """The same segment, with a buffer in place of live_blocks, and some more."""

    def launch(contract: Contract, target: Target, tiles: Any) -> Launch:
        made = segment.launch(contract, target, tiles)
        named = (blocks if name == "live_blocks" else name for name in made.arguments)
        return replace(made, arguments=tuple(named))

    reads = (blocks if name == "live_blocks" else name for name in segment.reads)
    return replace(segment, reads=(*reads, *own), launch=launch)
