"""Every buffer once: its name, shape, dtype, how long it lives, and what it means.

A buffer has one name everywhere: argument of the entry point, argument of a segment, output, graph,
documentation, test. Shapes are in the glossary's letters: N tokens of a wave (at the entry point
the T of the whole chunk), H heads, C head_dim, P rope dim, G groups, J = (H/G)*C, R o_lora_rank,
D hidden size, K index columns, KP = K in whole blocks of 128, NB = KP/128, KR = KP/16, U tiles of X
tokens that share their KV, ori_B and cmp_B rows of a page of either pool.

    call       differs by chunk             wave     made by one segment for another, re-used
    cache      grows from chunk to chunk    output   what is returned
    weights    bound once by layer                     chunk    likewise, a row for every token
    batch      of a server's requests, `sparse_attn`'s own arguments
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

Lifetime = Literal["call", "cache", "weights", "batch", "wave", "chunk", "output"]
Axis = Literal["tokens", "groups"]
Buffers = dict[str, Any]  # tensors and sizes, by name

# Columns that gather_kv moves at once where they are rows in a row: 16 rows are 16 KiB, and three
# pools of them doubled fit the unified buffer, where 32 do not.
RUN_COLUMNS = 16

# Elements of a block: rows that other memory lies between are whole blocks apart, so that a row
# of bf16 begins where Ascend's 32 bytes and a GPU's loads of 16 do.
BLOCK = 16

# An axis is where its letter stands; wo_b's second entry, G*R, has a part for every group too.
_LETTER: dict[Axis, str] = {"tokens": "N", "groups": "G"}


def span(tensor: torch.Tensor) -> int:
    """Elements of a strided tensor's memory, what lies between its rows included: from its first
    to its last."""
    if tensor.numel() == 0:
        return 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((n - 1) * step for n, step in steps)


def span_bytes(tensor: torch.Tensor) -> int:
    """Of its memory; 0 where it is no strided one, which a check refuses."""
    return span(tensor) * tensor.element_size() if tensor.layout == torch.strided else 0


@dataclass(frozen=True)
class Buffer:
    """shape: entries apart by blanks, each a letter or a product of letters. dtype: of a tensor, or
    `int` for a plain number. wider: a dtype that a caller may want instead. apart: where other
    memory may lie between what stands along the first axis, as in a slice of something wider, the
    elements that a step along it is a multiple of; 0 where none may."""

    name: str
    shape: str
    dtype: torch.dtype | type[int]
    lifetime: Lifetime
    meaning: str
    wider: torch.dtype | None = None
    apart: int = 0

    @functools.cached_property
    def axes(self) -> dict[Axis, int]:
        """The place in the shape of every axis that it has a part for each of."""
        entries = [entry.split("*") for entry in self.shape.split()]
        return {
            axis: place
            for axis, letter in _LETTER.items()
            for place, factors in enumerate(entries)
            if letter in factors
        }


def _table() -> Iterator[Buffer]:
    bf16, fp32, int32, int8 = torch.bfloat16, torch.float32, torch.int32, torch.int8

    # The arguments of prefill_sparse_attn, in its order (spec section 3).
    yield Buffer("q", "N H C", bf16, "call", "rotated queries", apart=BLOCK)
    ring = "window ring: history before the chunk"
    yield Buffer("ori_kv", "ori_pages ori_B C", bf16, "cache", ring, apart=1)
    yield Buffer("ori_block_table", "ori_entries", int32, "cache", "physical pages of the ring")
    yield Buffer("kv_overlay", "T C", bf16, "call", "the chunk's own KV; K and V are one row")
    yield Buffer("cmp_kv", "cmp_pages cmp_B C", bf16, "cache", "compressed KV", apart=1)
    yield Buffer("cmp_block_table", "cmp_entries", int32, "cache", "physical pages of cmp_kv")
    yield Buffer("cmp_sparse_indices", "N K", int32, "call", "raw slot indices (slots.py)")
    yield Buffer("cmp_sparse_lens", "N", int32, "call", "usable prefix of a row of indices")
    yield Buffer("attn_sink", "H", fp32, "weights", "logit in the softmax's denominator only")
    yield Buffer("num_tokens", "", int, "call", "live tokens, 0..T; later output rows are zeros")
    rope = "RoPE table; its first P/2 columns are used"
    yield Buffer("freqs_cos", "N P", bf16, "call", rope, wider=fp32, apart=BLOCK)
    yield Buffer("freqs_sin", "N P", bf16, "call", "likewise", wider=fp32, apart=BLOCK)
    yield Buffer("wo_a", "G R J", bf16, "weights", "first output projection")
    yield Buffer("wo_b", "D G*R", int8, "weights", "second output projection")
    yield Buffer("wo_b_scale", "D", fp32, "weights", "scale of wo_b per output channel")

    # What sparse_attn takes instead of ring, overlay and raw slots: S requests.
    yield Buffer("query_start_loc", "S1", int32, "batch", "first token of a request; S1 = S + 1")
    yield Buffer("seq_lens", "S", int32, "batch", "KV length of a request, this step included")
    yield Buffer("ori_tables", "ori_table_size", int32, "batch", "page tables, rows at a stride")
    yield Buffer("cmp_tables", "cmp_table_size", int32, "batch", "likewise, of cmp_kv")
    listed = "rows page*B + offset instead of a window"
    yield Buffer("ori_indices", "N W", int32, "batch", listed, apart=1)
    listed = "compressed slots of the token's request"
    yield Buffer("cmp_indices", "N I", int32, "batch", listed, apart=1)

    yield Buffer("request", "N", int32, "chunk", "a token's request, -1 where it is dead")
    yield Buffer("position", "N", int32, "chunk", "a token's position in it, -1 where it is dead")
    # Where tiles of a batch's tokens lie that share their KV. Of a wave: a wave begins a tile.
    yield Buffer("tile_first", "U", int32, "wave", "a tile's first token")
    yield Buffer("tile_tokens", "U", int32, "wave", "how many it has")
    yield Buffer("tile_count", "", int32, "wave", "tiles of the wave; there is room for U")
    yield Buffer("tile_of", "N", int32, "wave", "a token's tile, -1 where it is in none")
    yield Buffer("rows", "U KP", int32, "wave", "row of all pools per column, -1 where dead")
    yield Buffer("runs", "U KR", int32, "wave", "how each 16 columns split into runs of rows")
    yield Buffer("bias", "N KP", fp32, "wave", "0 for a live column, NEG for a dead one")
    # Later segments read these two as well: kept by wave, they would hold up the next wave but one.
    yield Buffer("live_blocks", "U", int32, "chunk", "blocks of 128 columns with a live slot")
    yield Buffer("live_slots", "N", int32, "chunk", "live columns of a token")
    # live_blocks where tiles are a batch's, for what goes by tile and for what goes by token.
    yield Buffer("tile_blocks", "U", int32, "wave", "a tile's blocks with a live slot")
    yield Buffer("token_blocks", "N", int32, "chunk", "those of a token's tile, 0 without one")
    yield Buffer("kv", "U KP C", bf16, "wave", "a KV row per column, zeros where dead")
    yield Buffer("scores", "N H KP", fp32, "wave", "q . kv, neither scaled nor masked")
    yield Buffer("p", "N H KP", bf16, "wave", "softmax of the scores, the sink in its denominator")
    yield Buffer("m", "N NB H", fp32, "wave", "row maximum of a block's scores")
    yield Buffer("l", "N NB H", fp32, "wave", "row sum of a block's exponentials")
    yield Buffer("o", "N NB H C", fp32, "wave", "unnormalised output of a block")
    yield Buffer("o_packed", "G N J", bf16, "wave", "attention's output, group by group")
    yield Buffer("o_rope", "N H P", fp32, "wave", "its rope columns before inverse RoPE")
    yield Buffer("o_heads", "N G J", bf16, "wave", "attention's output, token by token")
    yield Buffer("o_r", "N G R", fp32, "wave", "first projection, not rounded")
    yield Buffer("codes", "N G R", int8, "wave", "o_r quantised")
    yield Buffer("scale", "G N", fp32, "wave", "scale of the codes per group and token")
    yield Buffer("row_scale", "N", fp32, "wave", "scale of the codes per token")
    yield Buffer("partial", "G N D", int32, "wave", "second projection, a sum per group")
    yield Buffer("sums", "N D", fp32, "wave", "of the groups so far, their scales applied")

    # fp32 is a rank's part of it, which `tp.reduce` adds to the others' before the one rounding.
    yield Buffer("attn_out", "N D", bf16, "output", "the layer's attention output", wider=fp32)


BUFFERS: dict[str, Buffer] = {buffer.name: buffer for buffer in _table()}

# What an entry point takes, in order: all that no segment makes.
ARGUMENTS = tuple(b.name for b in BUFFERS.values() if b.lifetime in ("call", "cache", "weights"))
PER_TOKEN = tuple(name for name in ARGUMENTS if "tokens" in BUFFERS[name].axes)
WEIGHTS = tuple(b.name for b in BUFFERS.values() if b.lifetime == "weights")


def shapes(names: Iterable[str], sizes: Mapping[str, int]) -> dict[str, list[int]]:
    """The sizes of each buffer's shape, from the sizes of the letters; U and KR follow from others
    where they are not among them."""
    sizes = {**sizes}
    if "N" in sizes:
        sizes.setdefault("U", _tiles(sizes))
    if "KP" in sizes:
        sizes.setdefault("KR", sizes["KP"] // RUN_COLUMNS)
    return {name: _extent(BUFFERS[name].shape, sizes) for name in names}


def _tiles(sizes: Mapping[str, int]) -> int:
    """U: tiles of X tokens one behind the other, or room for those of a batch."""
    N, X = sizes["N"], sizes.get("X", 1)
    return most_tiles(N, X, sizes["S"]) if "tiled" in sizes else -(-N // X)


def most_tiles(tokens: int, sharers: int, requests: int) -> int:
    """Of so many tokens the most tiles of neighbouring positions p // sharers.

    Wherever S requests begin and end, they are at most 2*S - 1 stretches of neighbouring tokens,
    whose positions are neighbours: n of them are of (n + sharers - 2) // sharers + 1 tiles at most.
    """
    stretches = max(2 * requests - 1, 1)
    return min(tokens, (tokens + stretches * (sharers - 2)) // sharers + stretches)


def _extent(shape: str, sizes: Mapping[str, int]) -> list[int]:
    extent = []
    for entry in shape.split():
        size = 1
        for letter in entry.split("*"):
            size *= sizes[letter]
        extent.append(size)
    return extent


def columns(part: Literal["nope", "rope"], C: int, P: int) -> slice:
    """The columns of a head that are not rotated, or the last P, which are."""
    return slice(0, C - P) if part == "nope" else slice(C - P, C)
