"""The weights of one layer's output projection, as the kernels take them, and a rank's part."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from dsv4_kernels.contract import Contract


@dataclass(frozen=True)
class OProj:
    """Weights of one layer, of all groups or of a rank's. All contiguous and on one device.

    Attributes:
        wo_a: [G, R, J] bf16, first projection.
        wo_b: [D, G*R] int8, second projection; -128 is legal.
        wo_b_scale: [D] fp32, one scale per output channel, of the whole row whatever the rank.
        attn_sink: [H] fp32, heads of these groups; None where the source of the weights has none.
        wo_a_error, wo_b_error: what the conversion changed, || kept - source || / || source || in
            the Frobenius norm over the source's values that were read; 0 if nothing.

    Raises ContractError for other shapes or dtypes.
    """

    wo_a: torch.Tensor
    wo_b: torch.Tensor
    wo_b_scale: torch.Tensor
    attn_sink: torch.Tensor | None = None
    wo_a_error: float = 0.0
    wo_b_error: float = 0.0

    def __post_init__(self) -> None:
        contract = Contract("OProj")
        contract.buffer("wo_a", self.wo_a)
        contract.buffer("wo_b", self.wo_b)
        contract.buffer("wo_b_scale", self.wo_b_scale)
        if self.attn_sink is not None:
            contract.buffer("attn_sink", self.attn_sink)
            G, H = contract["G"], contract["H"]
            fits = G > 0 and H % G == 0
            contract.require(fits, "attn_sink", f"[H] with H a multiple of G={G}", f"H = {H}")

    @property
    def groups(self) -> int:
        """G, groups that are here."""
        return self.wo_a.shape[0]

    def to(self, device: torch.device | str) -> OProj:
        """The same weights on `device`."""
        tensors = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **tensors)


def groups_of(contract: Contract, groups: int, rank: int, size: int) -> range:
    """Groups of `rank` among `size` ranks: G / size in a row. Raises ContractError."""
    contract.integer("size", size, 1)
    contract.integer("rank", rank, 0, size - 1)
    contract.require(groups % size == 0, "size", f"a divisor of G={groups} groups", str(size))
    share = groups // size
    return range(rank * share, (rank + 1) * share)


def shard(oproj: OProj, rank: int, size: int) -> OProj:
    """The part of `rank` among `size` ranks: G/size groups, their columns of wo_b, their heads.

    Scales stay those of whole rows, so the codes of a rank are the codes of the whole. wo_a,
    wo_b_scale and attn_sink are views, wo_b is a copy.

    Raises ContractError where size does not divide G, or rank is not in 0..size-1.
    """
    part = groups_of(Contract("shard"), oproj.groups, rank, size)
    R = oproj.wo_a.shape[1]
    sink = oproj.attn_sink
    if sink is not None:
        heads = sink.shape[0] // oproj.groups
        sink = sink[part.start * heads : part.stop * heads]
    return replace(
        oproj,
        wo_a=oproj.wo_a[part.start : part.stop],
        wo_b=oproj.wo_b[:, part.start * R : part.stop * R].contiguous(),
        attn_sink=sink,
    )
