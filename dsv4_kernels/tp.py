"""Tensor parallelism over groups: the sum of the ranks' parts, rounded once.

A rank has G/size groups: their heads, their wo_a, their columns of wo_b (`weights.load`). Its
`out_dtype=torch.float32` output is its part of the layer's; the codes and each group's sum are
those of one rank with all groups, whatever the size, since scales are per group and per whole row.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from dsv4_kernels.contract import Contract
from dsv4_kernels.device.untraced import untraced


@untraced
@torch.no_grad()
def reduce(
    partial: torch.Tensor,  # [T, D] fp32
    group: Any = None,
    *,
    scatter: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """attn_out = bf16( sum over the ranks of partial ), added in fp32 by torch.distributed.

    Args:
        partial: this rank's part, as `out_dtype=torch.float32` gives it. An all-reduce leaves the
            sum in it; with `scatter` it is left alone.
        group: the process group of the ranks; all processes if None. Its backend is the device's:
            HCCL, NCCL or gloo.
        scatter: each rank gets its T/size tokens only (a reduce-scatter, for sequence parallelism).
        out: output, [T, D] or [T/size, D] bf16; allocated if None.

    Returns attn_out, the same bytes on every rank, or this rank's tokens of it. What a peer's
    failure makes of the collective is an error of torch.distributed, raised here with the rank.

    Raises ContractError, RuntimeError.
    """
    contract = Contract("tp.reduce")
    contract.tensor("partial", partial, "T D", torch.float32)
    initialised = dist.is_available() and dist.is_initialized()
    contract.require(
        initialised, "group", "of an initialised torch.distributed", "none: init_process_group"
    )
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    contract.require(rank >= 0, "group", "a group that this process is in", "another")
    T, D = contract["T"], contract["D"]
    if scatter:
        contract.require(
            T % size == 0, "partial", f"[T, D] with T a multiple of {size}", f"T = {T}"
        )
        T //= size
    if out is None:
        out = torch.empty((T, D), dtype=torch.bfloat16, device=partial.device)
    contract.tensor("out", out, f"{T} D", torch.bfloat16)
    try:
        if scatter:
            total = torch.empty((T, D), dtype=torch.float32, device=partial.device)
            dist.reduce_scatter_tensor(total, partial, group=group)
        else:
            total = partial
            dist.all_reduce(total, group=group)
    except RuntimeError as error:
        raise RuntimeError(f"tp.reduce: rank {rank} of {size}: {error}") from error
    return out.copy_(total)
