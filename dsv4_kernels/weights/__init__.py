"""From a checkpoint, or from tensors at hand, to the weights of a rank's output projection.

    from dsv4_kernels import weights

    loaded = weights.load("DeepSeek-V4-Flash", layer=3, rank=0, size=8)
    print(loaded)  # what was found, how it was converted, how many bytes were read
    loaded.oproj  # wo_a, wo_b, wo_b_scale, attn_sink of group 0

    rows.py        symmetric INT8 by rows
    oproj.py       OProj, and a rank's part of it
    wide.py        FP8 with a scale per block, and bf16, as fp32 rows
    convert.py     a layer's tensors to an OProj
    sources.py     ... of tensors in memory: from_fp8, from_bf16, from_int8, from_vllm_ascend
    names.py       how checkpoints spell them
    checkpoint.py  safetensors files, read by slices and counted
    load.py        ... of a checkpoint: load
    command.py     python -m dsv4_kernels weights PATH

Needs torch, and safetensors for checkpoints; no Triton.
"""

from dsv4_kernels.weights.checkpoint import Checkpoint
from dsv4_kernels.weights.load import Loaded, inspect, load, load_from
from dsv4_kernels.weights.oproj import OProj, shard
from dsv4_kernels.weights.rows import quantise_rows
from dsv4_kernels.weights.sources import from_bf16, from_fp8, from_int8, from_vllm_ascend

__all__ = [
    "Checkpoint",
    "Loaded",
    "OProj",
    "from_bf16",
    "from_fp8",
    "from_int8",
    "from_vllm_ascend",
    "inspect",
    "load",
    "load_from",
    "quantise_rows",
    "shard",
]
