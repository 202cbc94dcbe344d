"""Weights of a checkpoint as fp32 rows: FP8 with a scale per block, or bf16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from dsv4_kernels.contract import Contract
from dsv4_kernels.weights.matrix import Named

FP8 = torch.float8_e4m3fn
E8M0 = getattr(torch, "float8_e8m0fnu", None)  # since torch 2.7


class Wide(Protocol):
    """form: the format in a word, "fp8 128x128" or "bf16"."""

    @property
    def form(self) -> str: ...
    def rows(self, rows: slice) -> torch.Tensor:
        """Whole rows, [n, columns] fp32."""
        ...


@dataclass(frozen=True)
class Bf16:
    """A bf16 matrix."""

    weight: Named
    form: str = "bf16"

    def rows(self, rows: slice) -> torch.Tensor:
        return self.weight.matrix[rows].float()


@dataclass(frozen=True)
class BlockScaled:
    """weight[i, k] * scale[i // block, k // block], e4m3 codes with a scale per square block.

    The product is exact for a power of two (e8m0, 2**(e - 127)); any other fp32 scale rounds it
    once, as in fp32.
    """

    weight: Named  # [N, X]
    scale: Named  # [ceil(N/block), ceil(X/block)]
    block: int

    @property
    def form(self) -> str:
        return f"fp8 {self.block}x{self.block}"

    def rows(self, rows: slice) -> torch.Tensor:
        first = rows.start // self.block
        blocks = slice(first, -(-rows.stop // self.block))
        scale = self.scale.matrix[blocks].float()
        of_row = torch.arange(rows.start, rows.stop, device=scale.device) // self.block - first
        wide = self.weight.matrix[rows].float()
        return wide.mul_(scale[of_row].repeat_interleave(self.block, 1)[:, : wide.shape[1]])


def wide(contract: Contract, weight: Named, scale: Named | None) -> Wide:
    """The weights as fp32 rows; nothing is read yet.

    The block size follows from the shapes: the power of two (128 in DeepSeek-V4, 32 in V4.1) that
    cuts [N, X] into as many blocks as there are scales.

    Raises ContractError for a dtype that is neither, for FP8 without scales or scales that cut
    the weights into no such blocks, and for bf16 with scales.
    """
    weight.require(contract, "[rows, columns]", len(weight.shape) == 2, FP8, torch.bfloat16)
    if weight.matrix.dtype == torch.bfloat16:
        alone = "without a scale, for it is bf16"
        contract.require(scale is None, weight.name, alone, getattr(scale, "name", None))
        return Bf16(weight)
    if scale is None:
        contract.require(False, weight.name, "with a scale, for it is FP8", "none")
    assert scale is not None
    block = _block(weight.shape, scale.shape)
    blocks = f"one per square block (of a power of two) of {weight.name}'s {weight.shape}:"
    scale.require(contract, blocks, block > 0, E8M0, torch.float32)
    return BlockScaled(weight, scale, block)


def _block(shape: list[int], scales: list[int]) -> int:
    """The least power of two that cuts `shape` into `scales` blocks; 0 if none does."""
    block = 1
    while block < 2 * max(shape):
        if [-(-size // block) for size in shape] == scales:
            return block
        block *= 2
    return 0
