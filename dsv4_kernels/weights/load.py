"""From a checkpoint to a rank's weights of one layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsv4_kernels.contract import Contract
from dsv4_kernels.weights.checkpoint import Checkpoint
from dsv4_kernels.weights.convert import Conversion, Projection
from dsv4_kernels.weights.matrix import Named
from dsv4_kernels.weights.oproj import OProj


@dataclass(frozen=True)
class Loaded:
    """A layer's weights and where they come from; str() says it in one line.

    Attributes:
        oproj: the weights, those of the rank.
        prefix: how the checkpoint spells the layer, "model.layers.3.self_attn", say.
        forms: formats that wo_a and wo_b have there: "fp8 128x128", "bf16" or "int8".
        rank, size: which part it is, of how many.
        bytes_read: bytes of tensors that were read for it.
    """

    oproj: OProj
    prefix: str
    forms: tuple[str, str]
    rank: int
    size: int
    bytes_read: int

    def __str__(self) -> str:
        o = self.oproj
        return (
            f"{self.prefix}: wo_a {list(o.wo_a.shape)} from {self.forms[0]}"
            f" (error {100 * o.wo_a_error:.2f} %), wo_b {list(o.wo_b.shape)} from {self.forms[1]}"
            f" (error {100 * o.wo_b_error:.2f} %), rank {self.rank} of {self.size},"
            f" {self.bytes_read} bytes read"
        )


def load(
    path: str | Path, layer: int | str, rank: int = 0, size: int = 1, *, groups: int | None = None
) -> Loaded:
    """Read and convert what one rank needs of one layer's output projection, and nothing else.

    Of wo_a that is the rank's groups, of an INT8 wo_b its columns. An FP8 or bf16 wo_b is read
    whole, block by block, for its scales are of whole rows: codes are the same for every size.

    Args:
        path: a safetensors file, or a folder of them, with its index if there is one.
        layer: a number, or "mtp.0" for a draft layer; "layers.3" is 3.
        rank: of the `size` ranks that share the layer by groups.
        groups: G, config.json's o_groups if None.

    Raises ContractError for a tensor or file that is missing, truncated, foreign or mis-shaped,
    for a size that does not divide G, and where nobody says G; MissingDependency without
    safetensors.
    """
    with Checkpoint(path) as checkpoint:
        return load_from(checkpoint, layer, rank, size, groups=groups)


def load_from(
    checkpoint: Checkpoint,
    layer: int | str,
    rank: int = 0,
    size: int = 1,
    *,
    groups: int | None = None,
) -> Loaded:
    """`load` from a checkpoint that is open already, for many layers of one."""
    before = checkpoint.bytes_read
    conversion = inspect(checkpoint, layer, groups=groups)
    oproj = conversion.oproj(rank, size)
    prefix = checkpoint.layers[_key(layer)].prefix
    read = checkpoint.bytes_read - before
    return Loaded(oproj, prefix, conversion.forms, rank, size, read)


def inspect(checkpoint: Checkpoint, layer: int | str, *, groups: int | None = None) -> Conversion:
    """What a checkpoint holds of a layer, checked by names, shapes and dtypes; no value is read.

    Sizes that config.json names (o_groups, o_lora_rank, hidden_size, num_attention_heads,
    head_dim) must be those of the tensors.

    Raises ContractError as `load`.
    """
    contract, config = Contract("weights"), checkpoint.config
    key, layers = _key(layer), checkpoint.layers
    if key not in layers:
        held = f"{len(layers)} others" if layers else "no output projection at all"
        contract.require(False, key, f"a layer of {checkpoint.path}", held)
    layers[key].check(contract)
    tensors = {role: checkpoint[name] for role, name in layers[key].tensors.items()}
    groups = config.get("o_groups") if groups is None else groups
    if groups is None:
        contract.require(False, "groups", "given where no config.json has o_groups", groups)
    assert groups is not None
    conversion = Conversion(
        contract, _projection(tensors, "wo_a"), _projection(tensors, "wo_b"),
        tensors["attn_sink"], groups,
    )  # fmt: skip
    for name, role, letter, found in (
        ("o_groups", "wo_a.weight", "G", conversion.groups),
        ("o_lora_rank", "wo_a.weight", "R", conversion.o_lora_rank),
        ("hidden_size", "wo_b.weight", "D", conversion.hidden),
        ("num_attention_heads", "attn_sink", "H", conversion.heads),
        ("head_dim", "wo_a.weight", "J*G/H", conversion.head_dim),
    ):
        size = config.get(name, found)
        words = f"of {letter} = {size}, config.json's {name}"
        contract.require(found == size, tensors[role].name, words, f"{found} in {tensors[role]}")
    return conversion


def _projection(tensors: dict[str, Named], name: str) -> Projection:
    return Projection(
        tensors[f"{name}.weight"], tensors.get(f"{name}.scale"), tensors.get(f"{name}.offset")
    )


def _key(layer: int | str) -> str:
    return f"layers.{layer}" if isinstance(layer, int) else layer
