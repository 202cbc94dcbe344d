"""The dimensions of a DeepSeek-V4 attention layer, by word; the letters are those of the shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace

# Tokens per compressed slot by kind of layer; 0: no slots at all.
LAYER_RATIOS = {"SWA": 0, "CSA": 4, "HCA": 128}


@dataclass(frozen=True)
class Dims:
    """Sizes that a model fixes. The chunk capacity T is a matter of the call, not of the model.

    Attributes:
        heads: H, query heads; there is one KV head.
        head_dim: C, width of a head and of a KV row; its last ``rope_dim`` elements are rotated.
        rope_dim: P, rotated elements of a head, an even number; the kernels want a power of two
            from 16 on.
        groups: G, groups of the output projection; divides ``heads``.
        o_lora_rank: R, outputs of the low-rank projection per group.
        hidden: D, hidden size of the model.
        window: W, tokens of the sliding window, the token itself included.
        index_topk: compressed slots that the indexer of a CSA layer picks per token.
        page_rows: B, KV rows of a page.
    """

    heads: int
    head_dim: int
    rope_dim: int
    groups: int
    o_lora_rank: int
    hidden: int
    window: int
    index_topk: int
    page_rows: int

    def letters(self) -> dict[str, int]:
        """The sizes by the letters of the shapes."""
        return dict(
            H=self.heads, C=self.head_dim, P=self.rope_dim, G=self.groups, J=self.group_inputs,
            R=self.o_lora_rank, D=self.hidden, ori_B=self.page_rows, cmp_B=self.page_rows,
        )  # fmt: skip

    def of_rank(self, size: int) -> Dims:
        """What one of `size` ranks has, a divisor of the groups: its heads and groups."""
        return replace(self, heads=self.heads // size, groups=self.groups // size)

    @property
    def heads_per_group(self) -> int:
        """H/G, heads that one group of the output projection reads."""
        return self.heads // self.groups

    @property
    def group_inputs(self) -> int:
        """J = (H/G) * C, inputs of one group of the output projection."""
        return self.heads_per_group * self.head_dim

    @property
    def index_columns(self) -> int:
        """K = window + index_topk, index columns of a CSA layer."""
        return self.window + self.index_topk


PRESETS = {
    "FLASH": Dims(
        heads=64,
        head_dim=512,
        rope_dim=64,
        groups=8,
        o_lora_rank=1024,
        hidden=4096,
        window=128,
        index_topk=512,
        page_rows=128,
    ),
    "PRO": Dims(
        heads=128,
        head_dim=512,
        rope_dim=64,
        groups=16,
        o_lora_rank=1024,
        hidden=7168,
        window=128,
        index_topk=1024,
        page_rows=128,
    ),
}
