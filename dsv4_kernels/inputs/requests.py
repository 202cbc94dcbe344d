"""The requests of a server's step, as its scheduler puts them into one batch.

requests = decode_step(128, start=4000, mtp=1, seed=0)
batch = make_batch(dims, requests, ratio=4, capacity=128, seed=0)
"""

from __future__ import annotations

import torch

from dsv4_kernels.inputs.batch import Request
from dsv4_kernels.inputs.rope import MAX_POSITIONS

PADDED_SHARE = 8  # one of so many requests of a decode step is a graph's padding
DECODE_SHARE = 4  # one of so many tokens of a mixed step is decoded


def decode_step(tokens: int, *, start: int, mtp: int, seed: int) -> list[Request]:
    """Requests of 1 + mtp tokens each, as a graph of this many tokens is replayed: the last of
    them are padding, of length 0, and tokens that make no whole request are in none.

    Args:
        tokens: T, the capacity of the graph.
        start: position of the first request's first token, and the furthest of all.
        mtp: tokens of a request beside the one that is certain.
        seed: of the lengths.

    Raises ValueError: a number below 0, fewer tokens than a request has, or positions past
    MAX_POSITIONS.
    """
    each = _tokens_each(tokens, start, mtp)
    if 0 < tokens < each:
        raise ValueError(f"`tokens` must be 0 or at least {each}, a request's, got {tokens}")
    count = tokens // each
    padded = -(-count // PADDED_SHARE) if count > 1 else 0
    first = _starts(count - padded, start, seed)
    live = [Request(p + each, each, key=key) for key, p in enumerate(first)]
    return live + [Request(0, each)] * padded


def mixed_step(tokens: int, *, start: int, mtp: int, seed: int) -> list[Request]:
    """Decodes of 1 + mtp tokens first, then chunks of prompts: a whole prompt, one that goes on
    at any position, and one that goes on at `start`. Arguments and errors as `decode_step`."""
    each = _tokens_each(tokens, start, mtp)
    decoded = tokens // DECODE_SHARE // each
    rest = tokens - decoded * each
    decodes = _starts(decoded, start, seed)
    batch = [Request(p + each, each, key=key) for key, p in enumerate(decodes)]
    anywhere = _starts(2, start, seed + 1)[1]
    parts = (rest // 3, rest // 3, rest - 2 * (rest // 3))
    for first, part in zip((0, anywhere, start), parts, strict=True):
        if part:
            batch.append(Request(first + part, part, key=len(batch)))
    return batch


def _tokens_each(tokens: int, start: int, mtp: int) -> int:
    """Of a request that decodes."""
    for name, value in (("tokens", tokens), ("start", start), ("mtp", mtp)):
        if value < 0:
            raise ValueError(f"`{name}` must be >= 0, got {value}")
    if start + tokens > MAX_POSITIONS:
        raise ValueError(
            f"`start` must leave all positions below {MAX_POSITIONS}, got {start} for {tokens} "
            "tokens"
        )
    return 1 + mtp


def _starts(count: int, start: int, seed: int) -> list[int]:
    """Positions up to `start`, itself the first of them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, start + 1, (count,), generator=generator).tolist()
    return [start, *drawn[1:]] if count else []
