"""A checkpoint on disk: one safetensors file, or a folder of them with or without an index.

Opening it reads names only. Tensors are read by slices, and what is read is counted.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dsv4_kernels.contract import Contract
from dsv4_kernels.device import MissingDependency, with_extra
from dsv4_kernels.weights.matrix import Named
from dsv4_kernels.weights.names import LayerNames, layer_names

INDEX = "*.safetensors.index.json"

# safetensors' words for dtypes; those of packed or future formats are in none of our messages.
DTYPES = {
    "BF16": "bfloat16",
    "BOOL": "bool",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "I8": "int8",
    "U8": "uint8",
}


class Checkpoint:
    """Names, configuration and slices of the tensors of a checkpoint; a context manager.

    Attributes:
        path: file or folder.
        config: config.json beside the tensors, empty where there is none.
        layers: what there is of output projections, "layers.0" .. "mtp.0" .., in this order.
        bytes_read: bytes of tensors that have been read; headers are not counted.

    Raises ContractError for a file that is missing, truncated or none of safetensors,
    MissingDependency without the package safetensors.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.bytes_read = 0
        self._contract = Contract("weights")
        self._open_files: dict[Path, Any] = {}
        self._closing = contextlib.ExitStack()
        try:
            self._files = self._find()
            folder = self.path if self.path.is_dir() else self.path.parent
            config = folder / "config.json"
            self.config: Mapping[str, Any] = self._json(config) if config.exists() else {}
        except BaseException:
            self.close()
            raise
        self.layers: dict[str, LayerNames] = layer_names(self._files)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; tensors that were read stay."""
        self._open_files.clear()
        self._closing.close()

    @property
    def files(self) -> int:
        """How many files hold tensors."""
        return len(set(self._files.values()))

    def __getitem__(self, name: str) -> Named:
        """The tensor of that name; its header is read, its values are not."""
        file = self._files[name]
        opened = self._open(file)
        there = name in opened.keys()  # noqa: SIM118 (a handle, not a dict)
        self._contract.require(there, name, f"in {file.name}, as the index says", "none")
        part = opened.get_slice(name)
        word = part.get_dtype()
        dtype = getattr(torch, DTYPES.get(word, ""), None)
        self._contract.require(dtype is not None, name, "of a dtype that torch has", word)
        assert dtype is not None
        return Named(name, _Stored(self, part, tuple(part.get_shape()), dtype))

    def _find(self) -> dict[str, Path]:
        """The file of every tensor."""
        if self.path.is_file():
            return dict.fromkeys(self._open(self.path).keys(), self.path)
        self._require(self.path.is_dir(), self.path, "a safetensors file or a folder", "nothing")
        indices = sorted(self.path.glob(INDEX))
        names = ", ".join(index.name for index in indices)
        self._require(len(indices) <= 1, self.path, "a folder with at most one index", names)
        if indices:
            return self._from_index(indices[0])
        files = sorted(self.path.glob("*.safetensors"))
        self._require(bool(files), self.path, "a folder with *.safetensors", "none of them")
        found: dict[str, Path] = {}
        for file in files:
            for name in self._open(file).keys():  # noqa: SIM118
                first = found.setdefault(name, file)
                actual = f"it in {first.name} and {file.name}"
                self._contract.require(first == file, name, "in one file", actual)
        return found

    def _from_index(self, index: Path) -> dict[str, Path]:
        places = self._json(index).get("weight_map", {})
        fits = isinstance(places, dict) and all(isinstance(file, str) for file in places.values())
        self._require(fits, index, "an index with a weight_map of file names", "none")
        return {name: self.path / file for name, file in places.items()}

    def _json(self, file: Path) -> Mapping[str, Any]:
        try:
            found: Any = json.loads(file.read_text())
        except ValueError as error:
            found = error
        self._require(isinstance(found, dict), file, "a JSON object", found)
        return found

    def _open(self, file: Path) -> Any:
        if file not in self._open_files:
            safe_open, SafetensorError = _safetensors()
            try:
                opened = safe_open(str(file), framework="pt")
            except FileNotFoundError:
                self._require(False, file, "there, for the index names it", "nothing")
            except (SafetensorError, OSError) as error:
                self._require(False, file, "a whole safetensors file", error)
            else:
                self._open_files[file] = self._closing.enter_context(opened)
        return self._open_files[file]

    def _require(self, holds: bool, path: Path, contract: str, actual: Any) -> None:
        self._contract.require(holds, str(path), contract, actual)


@dataclass(frozen=True)
class _Stored:
    """A tensor in a file, read by slices."""

    checkpoint: Checkpoint
    part: Any
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def __getitem__(self, index: Any) -> torch.Tensor:
        values = self.part[index]
        self.checkpoint.bytes_read += math.prod(values.shape) * values.element_size()
        return values


def _safetensors() -> tuple[Any, type[Exception]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise MissingDependency(f"checkpoints need safetensors: {with_extra('weights')}") from error
    return safe_open, SafetensorError
