"""Synthetic checkpoints of every spelling and format, and their values by hand.

Values by hand are computed by numpy from the bits of the codes, in fp64 where that is exact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dsv4_kernels.weights import OProj

Tensors = dict[str, torch.Tensor]

# A layer too small for its blocks: a rank's 40 rows begin inside a block of 32 or of 128, and no
# side but J = 96 is a multiple of either.
G, R, J, D, H = 8, 40, 96, 72, 16
CONFIG = {
    "o_groups": G, "o_lora_rank": R, "hidden_size": D, "num_attention_heads": H, "head_dim": 48,
}  # fmt: skip

# Prefix of layer N or draft layer K, names of the two projections, of the sink, of a scale.
SPELLINGS = {
    "official": ("layers.{}.attn", "wo_a", "wo_b", "attn_sink", "scale"),
    "draft": ("mtp.{}.attn", "wo_a", "wo_b", "attn_sink", "scale"),
    "hf": ("model.layers.{}.self_attn", "o_a_proj", "o_b_proj", "sinks", "weight_scale_inv"),
    "vllm": ("model.layers.{}.self_attn", "wo_a", "wo_b", "attn_sink", "weight_scale"),
    "vllm-attn": ("model.layers.{}.attn", "wo_a", "wo_b", "attn_sink", "weight_scale_inv"),
}
FORMATS = ("fp8", "fp8-fp32", "bf16", "int8", "fp8-int8")


def fp8(generator: torch.Generator, rows: int, columns: int) -> torch.Tensor:
    """Every finite e4m3 code, signed zeros and subnormals included."""
    codes = torch.randint(0, 127, (rows, columns), generator=generator, dtype=torch.uint8)
    sign = torch.randint(0, 2, (rows, columns), generator=generator, dtype=torch.uint8) << 7
    return (codes | sign).view(torch.float8_e4m3fn)


def scales(
    generator: torch.Generator, rows: int, columns: int, block: int, dtype: torch.dtype
) -> torch.Tensor:
    """One per block: powers of two as e8m0, anything in fp32."""
    shape = -(-rows // block), -(-columns // block)
    if dtype == torch.float32:
        return torch.rand(shape, generator=generator) + 0.01
    exponents = torch.randint(110, 130, shape, generator=generator, dtype=torch.uint8)
    return exponents.view(torch.float8_e8m0fnu)


def layer(generator: torch.Generator, form: str, block: int) -> Tensors:
    """The tensors of a layer by role: wo_a, wo_a_scale, wo_b, wo_b_scale, wo_b_offset, sink."""
    scale_dtype = torch.float32 if form == "fp8-fp32" else torch.float8_e8m0fnu
    tensors: Tensors = {"sink": torch.randn(H, generator=generator)}
    if form.startswith("fp8"):
        tensors["wo_a"] = fp8(generator, G * R, J)
        tensors["wo_a_scale"] = scales(generator, G * R, J, block, scale_dtype)
    else:
        tensors["wo_a"] = torch.randn(G * R, J, generator=generator).bfloat16()
    if form in ("fp8", "fp8-fp32"):
        tensors["wo_b"] = fp8(generator, D, G * R)
        tensors["wo_b_scale"] = scales(generator, D, G * R, block, scale_dtype)
    elif form == "bf16":
        tensors["wo_b"] = torch.randn(D, G * R, generator=generator).bfloat16()
    else:
        codes = torch.randint(-128, 128, (D, G * R), generator=generator, dtype=torch.int8)
        codes[3, 5] = -128
        tensors |= {"wo_b": codes, "wo_b_scale": torch.rand(D, 1, generator=generator) + 0.01}
        tensors["wo_b_offset"] = torch.zeros(D, 1)
    return tensors


def named(tensors: Mapping[str, torch.Tensor], spelling: str, number: int) -> Tensors:
    """The same by the names of a checkpoint."""
    prefix, a, b, sink, scale = SPELLINGS[spelling]
    kinds = {"": "weight", "_scale": scale, "_offset": "weight_offset"}
    names = {f"wo_a{k}": f"{a}.{v}" for k, v in kinds.items()}
    names |= {f"wo_b{k}": f"{b}.{v}" for k, v in kinds.items()} | {"sink": sink}
    return {f"{prefix.format(number)}.{names[role]}": value for role, value in tensors.items()}


def write(
    folder: Path, *files: Tensors, index: bool = True, config: Mapping[str, Any] | None = CONFIG
) -> Path:
    """A checkpoint of these files, with an index if wanted, and config.json."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    places = {}
    for number, tensors in enumerate(files):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name)
        places |= dict.fromkeys(tensors, name)
    if index:
        text = json.dumps({"metadata": {}, "weight_map": places})
        (folder / "model.safetensors.index.json").write_text(text)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def e4m3(codes: torch.Tensor) -> np.ndarray:
    """Values of e4m3 codes, fp64: (-1)**s * 2**(e - 7) * 1.m, or 2**-6 * 0.m for e = 0."""
    bits = codes.view(torch.uint8).numpy().astype(np.int64)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    size = np.where(exponent == 0, mantissa / 8 * 2.0**-6, normal)
    return np.where(bits >> 7, -size, size)


def by_block(scale: torch.Tensor, block: int, shape: tuple[int, ...]) -> np.ndarray:
    """A scale for every element, fp64: 2**(e - 127) for e8m0."""
    if scale.dtype == torch.float32:
        values = scale.numpy().astype(np.float64)
    else:
        values = 2.0 ** (scale.view(torch.uint8).numpy().astype(np.float64) - 127)
    return np.array(
        [[values[i // block, k // block] for k in range(shape[1])] for i in range(shape[0])]
    )


def widened(weight: torch.Tensor, scale: torch.Tensor | None, block: int) -> np.ndarray:
    """The weights that a checkpoint stands for, fp32; a product rounds once."""
    if weight.dtype == torch.bfloat16:
        return from_bf16_bits(weight.view(torch.int16).numpy())
    assert scale is not None
    return (e4m3(weight) * by_block(scale, block, tuple(weight.shape))).astype(np.float32)


def from_bf16_bits(bits: np.ndarray) -> np.ndarray:
    """fp32 of bf16 bits."""
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """bf16 of finite fp32 by its bits, ties to even: int16."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).view(np.int16)


def by_hand(tensors: Tensors, block: int) -> dict[str, Any]:
    """What an OProj of these tensors must hold: wo_a as bits of bf16, and its two errors."""
    exact = widened(tensors["wo_a"], tensors.get("wo_a_scale"), block)
    bits = bf16_bits(exact)
    found: dict[str, Any] = {"wo_a": bits.reshape(G, R, J), "attn_sink": tensors["sink"].numpy()}
    found["wo_a_error"] = _relative(from_bf16_bits(bits), exact)
    if tensors["wo_b"].dtype == torch.int8:
        scale = tensors["wo_b_scale"].numpy().reshape(D)
        codes, error = tensors["wo_b"].numpy(), 0.0
    else:
        exact = widened(tensors["wo_b"], tensors.get("wo_b_scale"), block)
        scale = np.abs(exact).max(axis=1) / np.float32(127)
        codes = np.rint(exact / scale[:, None]).astype(np.int8)
        error = _relative(codes * scale[:, None].astype(np.float64), exact)
    return found | {"wo_b": codes, "wo_b_scale": scale, "wo_b_error": error}


def assert_by_hand(oproj: OProj, tensors: Tensors, block: int) -> None:
    """Bit for bit; the errors but for what fp32 rounds off of a difference of near values."""
    want = by_hand(tensors, block)
    assert np.array_equal(oproj.wo_a.view(torch.int16).numpy(), want["wo_a"])
    for name in ("wo_b", "wo_b_scale", "attn_sink"):
        assert np.array_equal(getattr(oproj, name).numpy(), want[name]), name
    for name in ("wo_a_error", "wo_b_error"):
        # A product of up to 127 steps is off by 127 * 2**-24 steps, an error is 0.3 steps or so.
        assert abs(getattr(oproj, name) - want[name]) <= 127 * 2.0**-24 * want[name] / 0.1, name


def assert_slice(part: OProj, whole: OProj, rank: int, size: int) -> None:
    """`part` is the whole's groups, columns and heads of a rank, and all its scales."""
    groups = slice(rank * G // size, (rank + 1) * G // size)
    heads = slice(groups.start * H // G, groups.stop * H // G)
    assert torch.equal(part.wo_a, whole.wo_a[groups])
    assert torch.equal(part.wo_b, whole.wo_b[:, groups.start * R : groups.stop * R])
    assert torch.equal(part.wo_b_scale, whole.wo_b_scale)
    assert part.attn_sink is not None
    assert whole.attn_sink is not None
    assert torch.equal(part.attn_sink, whole.attn_sink[heads])
    assert part.groups == G // size
    assert part.wo_b.is_contiguous()


def _relative(kept: np.ndarray, exact: np.ndarray) -> float:
    wide = exact.astype(np.float64)
    return float(np.linalg.norm(kept.astype(np.float64) - wide) / np.linalg.norm(wide))
