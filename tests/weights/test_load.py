"""Checkpoints of every spelling to a rank's weights: by hand bit for bit, and no byte too many."""

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import checkpoints
from checkpoints import CONFIG, SPELLINGS, D, G, H, J, R, assert_by_hand, assert_slice, named, write
from dsv4_kernels import ContractError, MissingDependency
from dsv4_kernels.weights import Checkpoint, load, load_from
from dsv4_kernels.weights import checkpoint as checkpoint_module

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("block", [32, 128])
@pytest.mark.parametrize("form", checkpoints.FORMATS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_and_format(spelling, form, block, generator, tmp_path):
    layers = {n: checkpoints.layer(generator, form, block) for n in (2, 10)}
    write(tmp_path, *(named(tensors, spelling, n) for n, tensors in layers.items()))
    prefix, *_ = SPELLINGS[spelling]
    for n, tensors in layers.items():
        loaded = load(tmp_path, f"mtp.{n}" if spelling == "draft" else n)
        assert_by_hand(loaded.oproj, tensors, block)
        first = f"fp8 {block}x{block}" if form.startswith("fp8") else "bf16"
        second = {"bf16": "bf16", "int8": "int8", "fp8-int8": "int8"}.get(form, first)
        assert (loaded.prefix, loaded.forms) == (prefix.format(n), (first, second))
        assert str(loaded).startswith(f"{prefix.format(n)}: wo_a [8, 40, 96] from {first} (error")
        assert loaded.bytes_read == sum(x.numel() * x.element_size() for x in tensors.values())


@pytest.mark.parametrize("shape", ["one file", "files", "files and index", "folder of one"])
def test_files_with_and_without_an_index(shape, generator, tmp_path):
    """The tensors of a layer may lie in different files."""
    tensors = checkpoints.layer(generator, "fp8", 32)
    flat = named(tensors, "official", 4)
    if shape.startswith("files"):
        names = sorted(flat)
        parts = [{k: flat[k] for k in names[i::3]} for i in range(3)]
        path = write(tmp_path, *parts, index="index" in shape)
    else:
        path = write(tmp_path, flat, index=False)
    if shape == "one file":
        (path,) = tmp_path.glob("*.safetensors")
    assert_by_hand(load(path, 4).oproj, tensors, 32)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("form", checkpoints.FORMATS)
def test_ranks_are_slices_of_the_whole(form, size, generator, tmp_path):
    tensors = checkpoints.layer(generator, form, 32)
    write(tmp_path, named(tensors, "hf", 0))
    whole = load(tmp_path, 0)
    for rank in range(size):
        part = load(tmp_path, 0, rank, size)
        assert_slice(part.oproj, whole.oproj, rank, size)
        assert part.oproj.wo_b_error == whole.oproj.wo_b_error
        assert f"rank {rank} of {size}" in str(part)


class Counting:
    """A handle of safetensors that writes down what is read of which tensor."""

    def __init__(self, handle, log):
        self.handle, self.log = handle, log

    def __enter__(self):
        self.handle.__enter__()
        return self

    def __exit__(self, *error):
        return self.handle.__exit__(*error)

    def keys(self):
        return self.handle.keys()

    def get_slice(self, name):
        return CountingSlice(self.handle.get_slice(name), name, self.log)


class CountingSlice:
    def __init__(self, part, name, log):
        self.part, self.name, self.log = part, name, log

    def get_dtype(self):
        return self.part.get_dtype()

    def get_shape(self):
        return self.part.get_shape()

    def __getitem__(self, index):
        values = self.part[index]
        read = values.numel() * values.element_size()
        self.log[self.name] = self.log.get(self.name, 0) + read
        return values


@pytest.fixture
def reads(monkeypatch):
    """Bytes that were taken from safetensors, by tensor."""
    safe_open, error = checkpoint_module._safetensors()
    log = {}

    def counted(*args, **options):
        return Counting(safe_open(*args, **options), log)

    monkeypatch.setattr(checkpoint_module, "_safetensors", lambda: (counted, error))
    return log


def flash_layer(generator: torch.Generator, number: int) -> checkpoints.Tensors:
    """64 MiB: wo_a and wo_b of FLASH in FP8."""

    def fp8(rows, columns):
        codes = checkpoints.fp8(generator, 128, columns).view(torch.uint8)
        return codes.repeat(rows // 128, 1).view(torch.float8_e4m3fn)

    e8m0 = torch.float8_e8m0fnu
    tensors = {
        "wo_a": fp8(8192, 4096),
        "wo_a_scale": checkpoints.scales(generator, 8192, 4096, 128, e8m0),
        "wo_b": fp8(4096, 8192),
        "wo_b_scale": checkpoints.scales(generator, 4096, 8192, 128, e8m0),
        "sink": torch.zeros(64),
    }
    return named(tensors, "official", number)


FLASH = {
    "o_groups": 8, "o_lora_rank": 1024, "hidden_size": 4096, "num_attention_heads": 64,
    "head_dim": 512,
}  # fmt: skip
SCALES_AND_SINK = 64 * 32 + 32 * 64 + 64 * 4
MIB = 1 << 20


def mapped(path: Path) -> int:
    """Bytes of `path` that this process has in memory, by the pages of its mappings."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = line.endswith(str(path))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_a_layer_of_64_mib_is_read_alone(reads, generator, tmp_path):
    """Counted three times: by the loader, at safetensors' door, and by the kernel in pages."""
    layers = [flash_layer(generator, n) for n in range(3)]
    write(tmp_path, {k: v for layer in layers for k, v in layer.items()}, config=FLASH)
    (file,) = tmp_path.glob("*.safetensors")
    assert file.stat().st_size > 192 * MIB
    for rank, size, wo_a, wo_b, scales in (
        (0, 1, 32 * MIB, 32 * MIB, SCALES_AND_SINK),
        (7, 8, 4 * MIB, 32 * MIB, 8 * 32 + 32 * 64 + 8 * 4),  # wo_b's rows whole, for their scales
    ):
        reads.clear()
        with Checkpoint(file) as checkpoint:
            loaded = load_from(checkpoint, 1, rank, size)
            pages = mapped(file)
        assert loaded.bytes_read == sum(reads.values()) == wo_a + wo_b + scales
        assert {name.rsplit(".attn.")[0] for name in reads} == {"layers.1"}
        # What is not asked for and yet mapped: 16 pages around a fault, at the ends of tensors, and
        # a last page of the header's.
        assert loaded.bytes_read <= pages <= loaded.bytes_read + 2 * MIB
        assert mapped(file) == 0  # nothing that was loaded holds on to the file


def test_a_rank_reads_its_columns_of_int8(reads, generator, tmp_path):
    tensors = checkpoints.layer(generator, "int8", 32)
    write(tmp_path, named(tensors, "hf", 5))
    loaded = load(tmp_path, 5, rank=3, size=4)
    prefix = "model.layers.5.self_attn"
    assert reads == {
        f"{prefix}.o_a_proj.weight": 2 * G * R * J // 4,
        f"{prefix}.o_b_proj.weight": D * G * R // 4,
        f"{prefix}.o_b_proj.weight_scale_inv": 4 * D,
        f"{prefix}.o_b_proj.weight_offset": 4 * D,
        f"{prefix}.sinks": 4 * H // 4,
    }
    assert loaded.bytes_read == sum(reads.values())


def test_other_files_are_not_opened(generator, tmp_path):
    layers = [checkpoints.layer(generator, "fp8", 32) for _ in range(3)]
    write(tmp_path, *(named(tensors, "official", n) for n, tensors in enumerate(layers)))
    files = sorted(tmp_path.glob("*.safetensors"))
    files[0].unlink()
    files[2].write_text("rubbish")
    assert_by_hand(load(tmp_path, 1).oproj, layers[1], 32)


def test_files_are_closed(generator, tmp_path):
    write(tmp_path, named(checkpoints.layer(generator, "fp8", 32), "official", 0))
    (file,) = tmp_path.glob("*.safetensors")
    with Checkpoint(file) as checkpoint:
        load_from(checkpoint, 0)
        assert mapped(file) > 0
    assert mapped(file) == 0


def test_what_the_index_does_not_name_is_not_there(generator, tmp_path):
    tensors = checkpoints.layer(generator, "bf16", 32)
    write(tmp_path / "old", named(tensors, "official", 7))
    write(tmp_path, named(tensors, "official", 0))
    (file,) = (tmp_path / "old").glob("*.safetensors")
    file.rename(tmp_path / "old.safetensors")
    with Checkpoint(tmp_path) as checkpoint:
        assert [*checkpoint.layers] == ["layers.0"]


def test_groups_that_config_contradicts(generator, tmp_path):
    tensors = checkpoints.layer(generator, "fp8", 32)
    write(tmp_path, named(tensors, "official", 0), config={"o_groups": 4})
    assert load(tmp_path, 0).oproj.groups == 4
    with pytest.raises(ContractError, match=r"must be of G = 4, config\.json's o_groups, got 8"):
        load(tmp_path, 0, groups=G)


def test_groups_without_a_config(generator, tmp_path):
    tensors = checkpoints.layer(generator, "fp8", 32)
    write(tmp_path, named(tensors, "official", 0), config=None)
    with pytest.raises(ContractError, match="`groups` must be given where no config"):
        load(tmp_path, 0)
    assert_by_hand(load(tmp_path, 0, groups=G).oproj, tensors, 32)


def test_sinks_in_bf16_are_widened(generator, tmp_path):
    tensors = checkpoints.layer(generator, "bf16", 32)
    tensors["sink"] = tensors["sink"].bfloat16()
    write(tmp_path, named(tensors, "hf", 0))
    sink = load(tmp_path, 0).oproj.attn_sink
    assert sink is not None
    assert sink.dtype == torch.float32
    assert torch.equal(sink, tensors["sink"].float())


# -- what is refused, in one line


def broken(edit):
    """A checkpoint of three layers, edited: a function of {name: tensor} of the middle one."""

    def make(folder, generator):
        layers = [checkpoints.layer(generator, "fp8", 32) for _ in range(3)]
        files = [named(tensors, "official", n) for n, tensors in enumerate(layers)]
        edit(files[1])
        write(folder, *files)

    return make


def disk(edit):
    """The same, edited as files: a function of the folder."""

    def make(folder, generator):
        broken(lambda tensors: None)(folder, generator)
        edit(folder)

    return make


SECOND = "model-00001-of-00003.safetensors"
INDEX = "model.safetensors.index.json"
A, B = "layers.1.attn.wo_a", "layers.1.attn.wo_b"


def cut(folder):
    file = folder / SECOND
    file.write_bytes(file.read_bytes()[:-10])


def rename(old, new):
    return lambda tensors: tensors.update({new: tensors.pop(old)})


def setting(**change):
    return lambda folder: (folder / "config.json").write_text(json.dumps(CONFIG | change))


def both_indices(folder):
    (folder / "other.safetensors.index.json").write_text("{}")


def foreign_dtype(folder):
    """wo_b in a format of four bits, which this torch may not even know."""
    head = {
        f"{B}.weight": {"dtype": "F4", "shape": [D, G * R], "data_offsets": [0, D * G * R // 2]}
    }
    text = json.dumps(head).encode()
    data = bytes(D * G * R // 2)
    (folder / "extra.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][f"{B}.weight"] = "extra.safetensors"
    (folder / INDEX).write_text(json.dumps(index))


REFUSALS = {
    "no wo_b": (
        broken(lambda t: t.pop(f"{B}.weight")),
        "weights: `layers.1.attn` must be a layer with wo_b.weight, got",
    ),
    "no sink": (
        broken(lambda t: t.pop("layers.1.attn.attn_sink")),
        "`layers.1.attn` must be a layer with attn_sink, got",
    ),
    "no scale": (
        broken(lambda t: t.pop(f"{B}.scale")),
        f"`{B}.weight` must be with a scale, for it is FP8, got none",
    ),
    "a scale for bf16": (
        broken(lambda t: t.update({f"{A}.weight": torch.zeros(G * R, J).bfloat16()})),
        f"`{A}.weight` must be without a scale, for it is bf16, got {A}.scale",
    ),
    "an offset for FP8": (
        broken(lambda t: t.update({f"{B}.weight_offset": torch.zeros(D)})),
        f"`{B}.weight` must be without an offset, if not int8, got {B}.weight_offset",
    ),
    "an offset of wo_a": (
        broken(lambda t: t.update({f"{A}.weight_offset": torch.zeros(G * R)})),
        f"`{A}.weight` must be without an offset, got {A}.weight_offset",
    ),
    "int8 without a scale": (
        broken(lambda t: (t.pop(f"{B}.scale"), t.update({f"{B}.weight": codes()}))),
        f"`{B}.weight` must be with a scale, for it is int8, got none",
    ),
    "an offset that is not zero": (
        broken(
            lambda t: t.update(
                {
                    f"{B}.weight": codes(),
                    f"{B}.scale": torch.ones(D),
                    f"{B}.weight_offset": torch.ones(D),
                }
            )
        ),
        f"`{B}.weight_offset` must be all zero, got {D} that are not",
    ),
    "int8 wo_a": (
        broken(lambda t: t.update({f"{A}.weight": torch.zeros(G * R, J, dtype=torch.int8)})),
        f"`{A}.weight` must be [rows, columns] float8_e4m3fn or bfloat16, got [320, 96] int8",
    ),
    "one bias": (
        broken(lambda t: t.update({f"{B}.quant_bias": torch.zeros(D)})),
        f"`{B}.quant_bias` must be one of .weight, .scale, .weight_scale,",
    ),
    "two scales": (
        broken(lambda t: t.update({f"{B}.weight_scale_inv": t[f"{B}.scale"].float()})),
        f"`{B}.weight_scale_inv` must be the only wo_b.scale of its layer, got {B}.scale",
    ),
    "two spellings": (
        broken(lambda t: t.update({"model.layers.1.self_attn.sinks": torch.zeros(H)})),
        "`model.layers.1.self_attn.sinks` must be the only attn_sink of its layer",
    ),
    "other names": (
        broken(rename(f"{B}.weight", "layers.1.attn.o_proj.weight")),
        "`layers.1.attn` must be a layer with wo_b.weight, got",
    ),
    "mis-shaped scale": (
        broken(lambda t: t.update({f"{B}.scale": t[f"{B}.scale"][:-1]})),
        f"`{B}.scale` must be one per square block (of a power of two) of {B}.weight's [72, 320]:",
    ),
    "hidden size": (
        broken(
            lambda t: t.update(
                {f"{B}.weight": t[f"{B}.weight"][:70], f"{B}.scale": t[f"{B}.scale"]}
            )
        ),
        f"`{B}.weight` must be of D = 72, config.json's hidden_size, got 70",
    ),
    "another rank": (
        disk(setting(o_lora_rank=20)),
        "`layers.1.attn.wo_a.weight` must be of R = 20, config.json's o_lora_rank, got 40",
    ),
    "other heads": (
        disk(setting(num_attention_heads=32)),
        "`layers.1.attn.attn_sink` must be of H = 32, config.json's num_attention_heads, got 16",
    ),
    "another head": (
        disk(setting(head_dim=512)),
        "`layers.1.attn.wo_a.weight` must be of J*G/H = 512, config.json's head_dim, got 48",
    ),
    "groups that do not divide": (
        disk(setting(o_groups=7)),
        "`layers.1.attn.wo_a.weight` must be [G*R, J] with G = 7, got [320, 96] float8_e4m3fn",
    ),
    "groups in words": (disk(setting(o_groups="8")), "`groups` must be an integer >= 1, got '8'"),
    "truncated": (disk(cut), f"{SECOND}` must be a whole safetensors file, got Error while"),
    "empty": (
        disk(lambda folder: (folder / SECOND).write_bytes(b"")),
        f"{SECOND}` must be a whole safetensors file, got",
    ),
    "a missing file": (
        disk(lambda folder: (folder / SECOND).unlink()),
        f"{SECOND}` must be there, for the index names it, got nothing",
    ),
    "a missing file without an index": (
        disk(lambda folder: [(folder / name).unlink() for name in (SECOND, INDEX)]),
        "weights: `layers.1` must be a layer of",
    ),
    "an index that errs": (
        disk(
            lambda folder: (folder / SECOND).write_bytes(
                (folder / SECOND.replace("1-", "0-", 1)).read_bytes()
            )
        ),
        f"` must be in {SECOND}, as the index says, got none",
    ),
    "two indices": (disk(both_indices), "must be a folder with at most one index, got model.saf"),
    "an index of lists": (
        disk(lambda folder: (folder / INDEX).write_text('{"weight_map": [1]}')),
        f"{INDEX}` must be an index with a weight_map of file names, got none",
    ),
    "an index that is no JSON": (
        disk(lambda folder: (folder / INDEX).write_text("{")),
        f"{INDEX}` must be a JSON object, got Expecting property name",
    ),
    "a config that is a list": (
        disk(lambda folder: (folder / "config.json").write_text("[]")),
        "config.json` must be a JSON object, got []",
    ),
    "the same tensor twice": (
        disk(lambda folder: [(folder / INDEX).unlink(), copy(folder)]),
        f"in one file, got it in {SECOND} and model-00009.safetensors",
    ),
    "a foreign dtype": (
        disk(foreign_dtype),
        f"`{B}.weight` must be of a dtype that torch has, got",
    ),
    "no file at all": (
        disk(lambda folder: [file.unlink() for file in folder.iterdir()]),
        "must be a folder with *.safetensors, got none of them",
    ),
}


def codes():
    return torch.ones(D, G * R, dtype=torch.int8)


def copy(folder):
    (folder / "model-00009.safetensors").write_bytes((folder / SECOND).read_bytes())


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_in_one_line(case, generator, tmp_path):
    make, message = REFUSALS[case]
    make(tmp_path, generator)
    with pytest.raises(ContractError) as caught:
        load(tmp_path, 1)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("weights: `")


@pytest.mark.parametrize(("arguments", "message"), [
    ((7,), "weights: `layers.7` must be a layer of"),
    (("mtp.0",), "weights: `mtp.0` must be a layer of"),
    ((1, 0, 3), "weights: `size` must be a divisor of G=8 groups, got 3"),
    ((1, 2, 2), "weights: `rank` must be an integer in 0..1, got 2"),
])  # fmt: skip
def test_no_part_of_this_checkpoint(arguments, message, generator, tmp_path):
    broken(lambda tensors: None)(tmp_path, generator)
    with pytest.raises(ContractError, match=re.escape(message)):
        load(tmp_path, *arguments)


def test_a_path_to_nothing(tmp_path):
    with pytest.raises(ContractError, match="must be a safetensors file or a folder, got nothing"):
        load(tmp_path / "nowhere", 0)


def test_a_missing_safetensors_is_said(tmp_path, monkeypatch):
    (tmp_path / "a.safetensors").touch()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingDependency, match=r"pip install -e '\.\[weights\]'"):
        load(tmp_path, 0)


def test_weights_import_without_triton_and_safetensors():
    script = (
        "import sys; sys.modules.update(dict.fromkeys(['triton', 'safetensors']));"
        "import dsv4_kernels.weights"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)
