"""Conversion of a layer's checkpoint tensors to what the kernels take, exact wherever it can be.

wo_a   FP8  -> bf16   exact for scales that are powers of two: four significant bits of eight
       BF16 -> bf16   as it is
wo_b   FP8, BF16 -> int8   quantised by rows; a scale comes from its whole row, so the codes of
                           a rank are columns of the codes of the whole
       INT8 -> int8   as it is, -128 included, with the checkpoint's scales
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from dsv4_kernels.contract import Contract
from dsv4_kernels.weights.matrix import Named
from dsv4_kernels.weights.oproj import OProj, groups_of
from dsv4_kernels.weights.rows import quantise_rows, row_blocks
from dsv4_kernels.weights.wide import Wide, wide


@dataclass(frozen=True)
class Projection:
    """The tensors of one projection, as they are stored."""

    weight: Named
    scale: Named | None = None
    offset: Named | None = None


class Conversion:
    """A layer's tensors, checked by their shapes and dtypes; `oproj` reads and converts them."""

    def __init__(
        self,
        contract: Contract,
        wo_a: Projection,
        wo_b: Projection,
        attn_sink: Named | None,
        groups: int,
    ) -> None:
        """Reads no value. Raises ContractError.

        Args:
            contract: whose name starts the messages.
            wo_a: [G*R, J] FP8 or bf16.
            wo_b: [D, G*R] FP8, bf16 or int8.
            attn_sink: [H] fp32 or bf16, where there is one.
            groups: G.
        """
        self._contract = contract
        contract.integer("groups", groups, 1)
        if wo_a.offset is not None:
            contract.require(False, wo_a.weight.name, "without an offset", wo_a.offset.name)
        self._wo_a = wide(contract, wo_a.weight, wo_a.scale)
        rows, J = wo_a.weight.shape
        fits = rows >= groups and rows % groups == 0
        contract.require(fits, wo_a.weight.name, f"[G*R, J] with G = {groups}", wo_a.weight)
        if len(wo_b.weight.shape) != 2 or wo_b.weight.shape[1] != rows:
            contract.require(False, wo_b.weight.name, f"[D, G*R={rows}]", wo_b.weight)
        self._wo_b = _second(contract, wo_b)
        self._attn_sink = attn_sink
        if attn_sink is not None:
            heads = attn_sink.shape[0] if len(attn_sink.shape) == 1 else 0
            fits = heads > 0 and heads % groups == 0 and J % (heads // groups) == 0
            words = f"[H] with H a multiple of G = {groups} and H/G a divisor of J = {J}:"
            attn_sink.require(contract, words, fits, torch.float32, torch.bfloat16)
        self.groups, self.o_lora_rank, self.group_inputs = groups, rows // groups, J
        self.hidden = wo_b.weight.shape[0]
        self.heads = attn_sink.shape[0] if attn_sink is not None else 0
        self.head_dim = J * groups // self.heads if self.heads else 0
        self._weight = wo_a.weight

    @property
    def forms(self) -> tuple[str, str]:
        """Formats of wo_a and wo_b: "fp8 128x128", "bf16" or "int8"."""
        return self._wo_a.form, self._wo_b.form

    def oproj(self, rank: int = 0, size: int = 1) -> OProj:
        """Read and convert what `rank` of `size` needs: its groups of wo_a, its heads, and of wo_b
        its columns where codes are stored, whole rows where they are made.

        Raises ContractError where size does not divide G, for a weight or scale that is no finite
        number, and for an offset that is not zero.
        """
        part = groups_of(self._contract, self.groups, rank, size)
        wo_a, wo_a_error = self._first(part)
        R = self.o_lora_rank
        wo_b, scale, wo_b_error = self._wo_b.codes(slice(part.start * R, part.stop * R))
        return OProj(wo_a, wo_b, scale, self._sink(part), wo_a_error, wo_b_error)

    def _first(self, part: range) -> tuple[torch.Tensor, float]:
        """wo_a [g, R, J] bf16 of the groups of `part`, and its error."""
        R, J = self.o_lora_rank, self.group_inputs
        first, error = part.start * R, _Error(self._contract, self._weight.name)
        kept = self._weight.empty(len(part) * R, J, dtype=torch.bfloat16)
        for block in row_blocks(len(part) * R, J):
            exact = self._wo_a.rows(slice(first + block.start, first + block.stop))
            kept[block] = exact.bfloat16()
            error.add(kept[block].float(), exact)
        return kept.view(len(part), R, J), error.relative

    def _sink(self, part: range) -> torch.Tensor | None:
        if self._attn_sink is None:
            return None
        heads = self.heads // self.groups
        sink = self._attn_sink.matrix[part.start * heads : part.stop * heads]
        return sink.to(torch.float32, copy=True)


@dataclass(frozen=True)
class _Quantised:
    """wo_b from weights that are no codes yet."""

    contract: Contract
    weight: Named
    source: Wide

    @property
    def form(self) -> str:
        return self.source.form

    def codes(self, columns: slice) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Codes of `columns`, scales of whole rows, and the error of whole rows."""
        D, error = self.weight.shape[0], _Error(self.contract, self.weight.name)
        codes = self.weight.empty(D, columns.stop - columns.start, dtype=torch.int8)
        scale = self.weight.empty(D, dtype=torch.float32)
        for block in row_blocks(*self.weight.shape):
            exact = self.source.rows(block)
            whole, scale[block] = quantise_rows(exact)
            codes[block] = whole[:, columns]
            error.add(whole.float().mul_(scale[block, None]), exact)
        return codes, scale, error.relative


@dataclass(frozen=True)
class _Kept:
    """wo_b whose codes and scales are the checkpoint's."""

    contract: Contract
    weight: Named
    scale: Named
    offset: Named | None
    form: str = "int8"

    def codes(self, columns: slice) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Codes of `columns` and the scales as they are stored: no error."""
        if self.offset is not None:
            wrong = int((self.offset.matrix[:] != 0).sum())
            self.contract.require(wrong == 0, self.offset.name, "all zero", f"{wrong} that are not")
        scale = self.scale.matrix[:].reshape(-1)
        wrong = int((~scale.isfinite()).sum())
        self.contract.require(wrong == 0, self.scale.name, "finite", f"{wrong} that are not")
        codes = self.weight.matrix[:, columns]
        # Copies: a slice of a file is a view that would keep all of the file mapped.
        return codes.clone(memory_format=torch.contiguous_format), scale.clone(), 0.0


def _second(contract: Contract, wo_b: Projection) -> _Quantised | _Kept:
    """wo_b's way to codes, by its dtype."""
    weight, scale, offset = wo_b.weight, wo_b.scale, wo_b.offset
    if weight.matrix.dtype != torch.int8:
        if offset is not None:
            contract.require(False, weight.name, "without an offset, if not int8", offset.name)
        return _Quantised(contract, weight, wide(contract, weight, scale))
    D = weight.shape[0]
    if scale is None:
        contract.require(False, weight.name, "with a scale, for it is int8", "none")
    assert scale is not None
    scale.require(contract, f"[{D}] or [{D}, 1]", scale.shape in ([D], [D, 1]), torch.float32)
    if offset is not None:
        fits = offset.shape in ([D], [D, 1])
        contract.require(fits, offset.name, f"[{D}] or [{D}, 1]", offset)
    return _Kept(contract, weight, scale, offset)


class _Error:
    """|| kept - exact || / || exact ||, Frobenius, summed in fp64 block by block."""

    def __init__(self, contract: Contract, name: str) -> None:
        self._contract, self._name = contract, name
        self._off = self._all = 0.0

    def add(self, kept: torch.Tensor, exact: torch.Tensor) -> None:
        """Overwrites `kept`. Raises ContractError where either holds a NaN or an Inf."""
        # The squares of 2**24 fp32 numbers stay far below fp64's largest.
        size = float(torch.linalg.vector_norm(exact, dtype=torch.float64))
        off = float(torch.linalg.vector_norm(kept.sub_(exact), dtype=torch.float64))
        finite = math.isfinite(size) and math.isfinite(off)
        self._contract.require(finite, self._name, "finite", "a NaN or an Inf")
        self._all += size**2
        self._off += off**2

    @property
    def relative(self) -> float:
        return math.sqrt(self._off / self._all) if self._all else 0.0
