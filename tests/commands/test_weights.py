"""`python -m dsv4_kernels weights`: what it prints, and one line for what is no checkpoint."""

import json
import re

import pytest
import torch

import checkpoints
from checkpoints import CONFIG, by_hand, named, write
from dsv4_kernels.__main__ import main


def make(folder, generator, *forms, block=32, **config):
    """A checkpoint with a layer of each of these formats; the layers."""
    layers = [checkpoints.layer(generator, form, block) for form in forms]
    files = [named(tensors, "official", n) for n, tensors in enumerate(layers)]
    write(folder, *files, config=CONFIG | {"num_hidden_layers": len(forms)} | config)
    return layers


def refused(capsys, *call) -> str:
    """The one line on standard error of a call that is refused."""
    assert main(["weights", *map(str, call)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("dsv4_kernels: weights: ")
    assert printed.err.count("\n") == 1
    assert printed.err.endswith("\n")
    return printed.err


def test_every_layer_has_its_row(generator, tmp_path, capsys):
    layers = make(tmp_path, generator, *checkpoints.FORMATS)
    draft = checkpoints.layer(generator, "bf16", 32)
    write(tmp_path / "more", named(draft, "draft", 0), config=None)
    (tmp_path / "more" / "model-00000-of-00001.safetensors").rename(tmp_path / "mtp.safetensors")
    (tmp_path / "model.safetensors.index.json").unlink()
    assert main(["weights", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "6 layers, files: 6, as layers.N.attn, mtp.N.attn\n" in printed
    assert printed.count("wo_a [8, 40, 96], wo_b [72, 320], attn_sink [16]\n") == 1
    lines = [line.strip() for line in printed.splitlines()]
    rows = [re.split(r" {2,}", line) for line in lines if re.match(r"(layers|mtp)\.\d", line)]
    names = [*(f"layers.{n}" for n in range(5)), "mtp.0"]
    for row, name, tensors in zip(rows, names, [*layers, draft], strict=True):
        want = by_hand(tensors, 32)
        formats = [
            {torch.int8: "int8", torch.bfloat16: "bf16"}.get(tensors[key].dtype, "fp8 32x32")
            for key in ("wo_a", "wo_b")
        ]
        errors = [
            f"{100 * want[key]:.2f} %" if want[key] else "exact"
            for key in ("wo_a_error", "wo_b_error")
        ]
        read = sum(x.numel() * x.element_size() for x in tensors.values()) / 2**20
        cells = [name, formats[0], errors[0], formats[1], errors[1], f"{read:.1f}"]
        assert row == cells


@pytest.mark.parametrize("columns", ["80", "200"])
def test_it_fits_80_columns(columns, generator, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "ckpt", generator, "fp8", "fp8-fp32", block=128)
    assert main(["weights", "ckpt"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("fp8 128x128" in line for line in lines)


def test_one_file_need_not_hold_every_layer(generator, tmp_path, capsys):
    make(tmp_path, generator, "fp8", "int8", "bf16")
    assert main(["weights", str(tmp_path / "model-00001-of-00003.safetensors")]) == 0
    assert "1 layers, files: 1, as layers.N.attn\n" in capsys.readouterr().out


def test_groups_may_be_given(generator, tmp_path, capsys):
    write(tmp_path, named(checkpoints.layer(generator, "fp8", 32), "hf", 0), config=None)
    error = refused(capsys, tmp_path)
    assert "`groups` must be given where no config.json has o_groups" in error
    assert main(["weights", str(tmp_path), "--groups", "8"]) == 0


def test_a_layer_that_config_counts_is_missing(generator, tmp_path, capsys):
    make(tmp_path, generator, "fp8", num_hidden_layers=2)
    words = "`layers.1` must be in .*, for config.json counts 2 layers, got nothing"
    assert re.search(words, refused(capsys, tmp_path))


def test_other_models_are_foreign(tmp_path, capsys):
    write(tmp_path, {"model.layers.0.self_attn.o_proj.weight": torch.zeros(2, 2)})
    assert "must be a checkpoint of DeepSeek-V4, got other names" in refused(capsys, tmp_path)


def test_nothing_is_converted_before_all_is_checked(generator, tmp_path, capsys):
    """The last layer's shape is wrong: said at once, and no table begun."""
    layers = [checkpoints.layer(generator, "fp8", 32) for _ in range(2)]
    layers[1]["wo_b_scale"] = layers[1]["wo_b_scale"][:-1]
    layers[0]["wo_a"].view(torch.uint8)[3, 4] = 0x7F  # a NaN, which only a conversion sees
    write(tmp_path, *(named(tensors, "official", n) for n, tensors in enumerate(layers)))
    assert "`layers.1.attn.wo_b.scale` must be one per square block" in refused(capsys, tmp_path)


def test_a_value_that_no_weight_has(generator, tmp_path, capsys):
    layer = checkpoints.layer(generator, "fp8", 32)
    layer["wo_b"].view(torch.uint8)[3, 4] = 0xFF
    write(tmp_path, named(layer, "official", 0))
    error = refused(capsys, tmp_path)
    assert "`layers.0.attn.wo_b.weight` must be finite, got a NaN or an Inf" in error


def test_files_that_are_broken(generator, tmp_path, capsys):
    make(tmp_path, generator, "fp8", "int8")
    file = tmp_path / "model-00001-of-00002.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert "must be a whole safetensors file, got Error while" in refused(capsys, tmp_path)
    file.unlink()
    assert "must be there, for the index names it" in refused(capsys, tmp_path)
    file.write_bytes(whole)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": "two"}))
    assert "`num_hidden_layers` must be an integer >= 0, got 'two'" in refused(capsys, tmp_path)
    assert "must be a safetensors file or a folder" in refused(capsys, tmp_path / "nowhere")
