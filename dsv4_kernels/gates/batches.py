"""The batches of `sparse_attn` that the gates compile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dsv4_kernels.device import Target
from dsv4_kernels.dims import PRESETS, Dims
from dsv4_kernels.gates.chunk import Compiled, RecordingDriver, record_batch


@dataclass(frozen=True)
class Batch:
    """heads: of a rank. tokens: T, the capacity. layer: of LAYER_RATIOS. requests: S; one a token,
    as in decode, if None. sharers: neighbouring tokens of a request that share their KV."""

    heads: int
    tokens: int
    layer: str = "CSA"
    requests: int | None = None
    sharers: int = 1

    @property
    def preset(self) -> str:
        """The smallest model that has so many heads."""
        return next(name for name in ("FLASH", "PRO") if PRESETS[name].heads >= self.heads)

    @property
    def dims(self) -> Dims:
        """Of the rank."""
        whole = PRESETS[self.preset]
        return whole.of_rank(whole.heads // self.heads)

    @property
    def name(self) -> str:
        """In a few words."""
        kind = "decode" if self.requests is None else "prefill"
        shared = f", {self.sharers} a tile" if self.sharers > 1 else ""
        return f"{kind} {self.layer}, {self.heads} heads, T={self.tokens}{shared}"

    def record(
        self,
        target: Target,
        driver: RecordingDriver[Any],
        tiles: dict[str, Any],
        segments: Sequence[str],
    ) -> list[Compiled[Any]]:
        """Its kernels, compiled: the resolvers, and of the others those of `segments`."""
        return record_batch(
            target, driver, self.dims, tokens=self.tokens, requests=self.requests,
            layer=self.layer, sharers=self.sharers, tiles=tiles, segments=segments,
        )  # fmt: skip


# Decode of every rank that is deployed (FLASH on 1, 4 and 8 ranks, PRO on 1), for few tokens and
# many; the two other kinds of layer; and chunks of four requests, packed, KV by token and shared.
BATCHES = (
    *(Batch(heads, tokens) for heads in (8, 16, 64, 128) for tokens in (8, 64)),
    Batch(64, 64, "SWA"),
    Batch(128, 8, "HCA"),
    Batch(64, 512, "CSA", requests=4),
    Batch(128, 512, "HCA", requests=4),
    Batch(64, 512, "SWA", requests=4, sharers=8),
    Batch(64, 512, "HCA", requests=4, sharers=8),
    Batch(128, 512, "HCA", requests=4, sharers=8),
)


def batches_of(presets: Sequence[str]) -> list[Batch]:
    """Those of these models."""
    return [batch for batch in BATCHES if batch.preset in presets]
