"""The entry point: argument checks, then the pipeline, a wave of tokens at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from dsv4_kernels.contract import Contract
from dsv4_kernels.pipeline import PIPELINE, WORKSPACE, Buffers, Node, run
from dsv4_kernels.segments.proj_b import MAX_RANK
from dsv4_kernels.segments.slots import check_slots

Executor = Callable[[Sequence[Node], Buffers], None]

# Tokens per wave: the seed's prefill chunk. Scratch is about 1.8 MiB a token at FLASH (K = 640),
# so a wave needs about 230 MiB however long the chunk.
WAVE_TOKENS = 128

# Inputs with a row per token; a wave sees its own rows of them.
_PER_TOKEN = ("q", "cmp_sparse_indices", "cmp_sparse_lens", "freqs_cos", "freqs_sin")


def prefill_sparse_attn(
    q: torch.Tensor,  # [T, H, C] bf16
    ori_kv: torch.Tensor,  # [pages, B, C] or [pages, B, 1, C] bf16
    ori_block_table: torch.Tensor,  # [n] int32
    kv_overlay: torch.Tensor,  # [T, C] bf16
    cmp_kv: torch.Tensor,  # [pages, B, C] or [pages, B, 1, C] bf16
    cmp_block_table: torch.Tensor,  # [m] int32
    cmp_sparse_indices: torch.Tensor,  # [T, K] int32
    cmp_sparse_lens: torch.Tensor,  # [T] int32
    attn_sink: torch.Tensor,  # [H] fp32
    num_tokens: int,
    freqs_cos: torch.Tensor,  # [T, P] bf16
    freqs_sin: torch.Tensor,  # [T, P] bf16
    wo_a: torch.Tensor,  # [G, R, J] bf16
    wo_b: torch.Tensor,  # [D, G*R] int8
    wo_b_scale: torch.Tensor,  # [D] fp32
    *,
    window: int = 128,
    out: torch.Tensor | None = None,
    wave_tokens: int = WAVE_TOKENS,
    executor: Executor = run,
) -> torch.Tensor:
    """DeepSeek-V4's prefill sparse attention, through to its grouped INT8 output projection.

    Args:
        q: queries, rotated.
        ori_kv, ori_block_table: window ring, paged: history before this chunk. K and V are one row.
        kv_overlay: this chunk's own KV.
        cmp_kv, cmp_block_table: compressed KV, paged. Pools and tables may be empty.
        cmp_sparse_indices, cmp_sparse_lens: raw slot indices (contract in segments/slots.py) and
            the usable prefix of each row.
        attn_sink: logit per head that takes part in the denominator only.
        num_tokens: live tokens, 0..T; later rows of the output are zeros.
        freqs_cos, freqs_sin: RoPE tables of the tokens, the first P/2 columns are used.
        wo_a, wo_b, wo_b_scale: output projection; wo_b is quantised per output channel.
        window: rows of the window ring, i.e. where raw indices start to mean the overlay.
        out: output, [T, D] bf16; allocated if None.
        wave_tokens: tokens per pass through the pipeline. It bounds the workspace and changes no
            byte of the output.
        executor: runs the pipeline's nodes on a wave's buffers.

    Returns attn_out [T, D] bf16, on the current stream and without synchronising. Raises
    ContractError before anything is launched or written.
    """
    contract = Contract("prefill_sparse_attn")
    ori_kv, cmp_kv = _without_head_dim(ori_kv), _without_head_dim(cmp_kv)
    contract.tensor("q", q, "T H C", torch.bfloat16)
    check_slots(
        contract, ori_kv, ori_block_table, kv_overlay, cmp_kv, cmp_block_table,
        cmp_sparse_indices, cmp_sparse_lens, num_tokens, window, first_token=0, rows="T",
    )  # fmt: skip
    contract.tensor("attn_sink", attn_sink, "H", torch.float32)
    contract.tensor("freqs_cos", freqs_cos, "T P", torch.bfloat16)
    contract.tensor("freqs_sin", freqs_sin, "T P", torch.bfloat16)
    contract.tensor("wo_a", wo_a, "G R J", torch.bfloat16)
    contract.tensor("wo_b", wo_b, "D G*R", torch.int8)
    contract.tensor("wo_b_scale", wo_b_scale, "D", torch.float32)
    contract.integer("wave_tokens", wave_tokens, 1)
    _check_heads(contract)
    attn_out = contract.output("out", out, "T D", torch.bfloat16)

    inputs: Buffers = dict(
        q=q, ori_kv=ori_kv, ori_block_table=ori_block_table, kv_overlay=kv_overlay, cmp_kv=cmp_kv,
        cmp_block_table=cmp_block_table, cmp_sparse_indices=cmp_sparse_indices,
        cmp_sparse_lens=cmp_sparse_lens, attn_sink=attn_sink, num_tokens=num_tokens,
        freqs_cos=freqs_cos, freqs_sin=freqs_sin, wo_a=wo_a, wo_b=wo_b, wo_b_scale=wo_b_scale,
        window=window, groups=contract["G"], rope_dim=contract["P"],
    )  # fmt: skip
    # Waves past num_tokens hold dead rows only.
    first_dead_wave = min(-(-num_tokens // wave_tokens) * wave_tokens, contract["T"])
    attn_out[first_dead_wave:].zero_()
    workspace: Buffers = {}
    for first in range(0, first_dead_wave, wave_tokens):
        last = min(first + wave_tokens, first_dead_wave)
        if last - first < wave_tokens:
            workspace.clear()  # the last wave is shorter, and its buffers with it
        rows = {name: inputs[name][first:last] for name in _PER_TOKEN}
        wave = inputs | workspace | rows
        wave.update(first_token=first, attn_out=attn_out[first:last])
        executor(PIPELINE, wave)
        workspace = {name: wave[name] for name in WORKSPACE}
    return attn_out


def _without_head_dim(pool: torch.Tensor) -> torch.Tensor:
    """[pages, B, 1, C] as [pages, B, C]; anything else as it is, for the checks to judge."""
    is_pool = isinstance(pool, torch.Tensor) and pool.dim() == 4 and pool.shape[2] == 1
    return pool.squeeze(2) if is_pool else pool


def _check_heads(contract: Contract) -> None:
    """What H, C, G, J and P must be to each other, and what the segments' tiles ask of them."""
    H, C, G, J, P = (contract[letter] for letter in ("H", "C", "G", "J", "P"))
    contract.require(H >= 1, "q", "[T, H, C] with H >= 1", "H = 0")
    contract.power_of_two("C", "q", low=16)
    contract.require(
        G >= 1 and H % G == 0 and H * C == G * J,
        "wo_a",
        f"[G, R, J=(H/G)*C] with G a divisor of H={H}, C={C}",
        f"G = {G}, J = {J}",
    )
    contract.power_of_two("P", "freqs_cos", low=2)
    contract.require(P <= C, "freqs_cos", f"[T, P] with P <= C={C}", f"P = {P}")
    R = contract["R"]
    contract.require(1 <= R <= MAX_RANK, "wo_a", f"[G, R, J] with R in 1..{MAX_RANK}", f"R = {R}")
