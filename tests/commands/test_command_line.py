"""A wrong call of a command is one line on standard error and exit code 2, never a traceback."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dsv4_kernels.__main__ import COMMANDS, main
from dsv4_kernels.chains.prefill import GROUPS_PER_LAUNCH
from dsv4_kernels.commands import hopper, options, terminal
from dsv4_kernels.commands.study.accuracy.study import Study
from dsv4_kernels.commands.study.accuracy.tables import sheets
from dsv4_kernels.gates.ascend.launches import PARTS
from dsv4_kernels.gates.hopper.gate import HopperRow
from dsv4_kernels.gates.hopper.ptxas import Assembly
from dsv4_kernels.segments import segments_on

ROOT = Path(__file__).resolve().parents[2]

WRONG = [
    ("", "the following arguments are required: command"),
    ("sparse", "invalid choice: 'sparse' (choose from 'demo', "),
    ("demo --tokens -1", "`tokens` must be >= 0, got -1"),
    ("demo --tokens many", "argument --tokens: invalid int value: 'many'"),
    ("demo --start -5", "`start` must be a position >= 0, got -5"),
    ("demo --start 16777216", "`start` must leave all positions below 16777216, got 16777216"),
    (f"demo --tokens {10**26}", "`start` must leave all positions below 16777216, got 4000"),
    ("demo --preset LARGE", "argument --preset: invalid choice: 'LARGE' (choose from 'FLASH'"),
    ("demo --layer MLA", "argument --layer: invalid choice: 'MLA' (choose from 'SWA'"),
    ("demo --mtp 2", "--mtp says how requests decode: give --decode or --batch with it"),
    ("demo --decode --batch", "argument --batch: not allowed with argument --decode"),
    ("demo --decode --mtp 3 --tokens 3", "`tokens` must be 0 or at least 4, a request's, got 3"),
    ("demo --batch --mtp -1", "`mtp` must be >= 0, got -1"),
    ("demo --depth 3", "unrecognized arguments: --depth 3"),
    ("graph --schedule row", "unknown schedule 'row': known are decoupled, row_barrier"),
    ("weights nowhere --groups 0", "argument --groups: must be a whole number above 0, got 0"),
    ("graph --groups 0", "argument --groups: must be a whole number above 0, got 0"),
    ("graph --groups ²", "argument --groups: must be a whole number above 0, got ²"),
    ("graph --groups-per-launch -1", "--groups-per-launch: must be a whole number above 0, got -1"),
    (
        "ascend --segment proj_a --tile proj_a.block_t=1048576",
        "proj_a: `tiles` must be of block_t * block_r <= 1048576, got 1048576 * 128",
    ),
    (
        f"ascend --preset PRO --part Ascend910B3 --segment proj_a --tile proj_a.block_t={2**40}",
        f"a block_t that is a power of two in 16..1048576, got block_t = {2**40}",
    ),
    ("accuracy --tokens 0", "`--tokens` must be at least 1, got 0"),
    ("accuracy --json /no/such/folder/x.json", "no folder to write /no/such/folder/x.json to"),
    ("accuracy --png /no/such/folder/x.png", "no folder to write /no/such/folder/x.png to"),
    ("swimlane --json /no/such/folder/x.json", "no folder to write /no/such/folder/x.json to"),
    ("ascend --save /dev/null/there", "Not a directory: '/dev/null/there'"),
    ("accuracy --from nowhere.json", "No such file or directory: 'nowhere.json'"),
    (f"accuracy --from {ROOT / 'pyproject.toml'}", "not the JSON of a study"),
]


def check_one_line(code: int, error: str, sentence: str) -> None:
    assert code == 2
    assert error.startswith("dsv4_kernels: ")
    assert sentence in error
    assert error.endswith("\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize(("call", "sentence"), WRONG, ids=[call for call, _ in WRONG])
def test_a_wrong_call_is_one_line(call, sentence, capsys):
    code = main(call.split())
    check_one_line(code, capsys.readouterr().err, sentence)


@pytest.mark.parametrize("other", [[], {}, {"granularity": 3}, {"granularity": {}, "budgets": {}}])
def test_other_json_is_no_study(other, tmp_path, capsys):
    file = tmp_path / "other.json"
    file.write_text(json.dumps(other))
    code = main(["accuracy", "--from", str(file)])
    check_one_line(code, capsys.readouterr().err, "not the JSON of a study")


def stored_study():
    return Study.from_json((ROOT / "bench" / "results" / "accuracy.json").read_text())


def printed_in_80_columns(printed: str) -> None:
    """Nothing is wider, and no figure was cut to fit."""
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize(
    "call",
    [
        "demo --tokens 1",
        "demo --decode --tokens 3",
        "ascend --preset FLASH --part Ascend910B3",
        "ascend --preset PRO --part Ascend910_9392 --tile group_quant.block_r=512",
        "graph --overlap --preset FLASH",
        f"accuracy --from {ROOT / 'bench' / 'results' / 'accuracy.json'}",
    ],
)
def test_tables_fit_80_columns(call, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(call.split()) in (0, 1)
    tables = [line for line in capsys.readouterr().out.splitlines() if "breach " not in line]
    printed_in_80_columns("\n".join(tables))
    if call.startswith("accuracy"):
        figures = [row[1:] for sheet in sheets(stored_study()) for row in sheet.rows]
        printed = {word for line in tables for word in line.split()}
        assert {word for row in figures for cell in row for word in cell.split()} <= printed


def test_the_table_for_hopper_fits_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    row = HopperRow(
        "proj_b_dequant", "dequant_sum[12:16] fp32", "FLASH", (), grid=20480, num_warps=8,
        num_stages=4, shared=232448, assembly=Assembly(255, 6324, 6328),
        wgmma={"m64n128k32.s32.s8.s8": 16}, resident=12,
    )  # fmt: skip
    terminal.console(80).print(hopper._table([row], "FLASH", verbose=False))
    printed = capsys.readouterr().out
    printed_in_80_columns(printed)
    assert "20480" in printed
    assert "6324/6328" in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_defaults_and_what_there_is_to_choose(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    printed = capsys.readouterr().out
    printed_in_80_columns(printed)
    words = " ".join(printed.split())
    if "--tokens" in words:
        assert "(default: 128)" in words
    if command in ("ascend", "hopper"):
        own = segments_on({"ascend": "npu", "hopper": "cuda"}[command])
        assert all(f"'{name}'" in words for name in own)
    if command == "ascend":
        assert all(part in words for part in PARTS)


def test_the_process_ends_with_the_code():
    call = [sys.executable, "-m", "dsv4_kernels", "demo", "--tokens", "-1"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=300)
    check_one_line(done.returncode, done.stderr, "`tokens` must be >= 0, got -1")


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n    {command} " in printed


def test_what_is_taken_where_nothing_is_said(tmp_path, monkeypatch):
    parser = argparse.ArgumentParser()
    options.add_chunk(parser)
    options.add_verbose(parser, "")
    options.add_groups_per_launch(parser)
    assert vars(parser.parse_args([])) == dict(
        preset="FLASH", layer="CSA", tokens=128, start=4000, seed=0, verbose=False,
        groups_per_launch=GROUPS_PER_LAUNCH,
    )  # fmt: skip
    presets = argparse.ArgumentParser()
    options.add_presets(presets)
    assert presets.parse_args(["--preset", "PRO", "FLASH"]).presets == ["PRO", "FLASH"]
    with pytest.raises(SystemExit):
        presets.parse_args(["--preset", "LARGE"])
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    options.require_folders("x.json", None)
    with pytest.raises(ValueError, match=r"^no folder to write file/x.json to$"):
        options.require_folders("file/x.json")


HELP = {
    "demo": ("(default: FLASH)", "(default: 128)", "a server's decode step", "mixed step"),
    "graph": ("decoupled or row_barrier (default: decoupled)",),
    "swimlane": ("(default: swimlane.json)", "(default: swimlane.png)"),
    "ascend": (*segments_on("npu"), *PARTS),
    "hopper": (*segments_on("cuda"), "e.g. proj_a.num_stages=5\n"),
    "accuracy": ("(default: ['FLASH', 'PRO'])", "print tables as Markdown\n"),
    "weights": ("where no config.json has o_groups\n",),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_defaults_and_what_may_be_named(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert all(words in printed for words in HELP[command])
    assert "(default: None)" not in printed
    assert "(default: False)" not in printed


@pytest.mark.parametrize("command", ["demo", "accuracy"])
def test_what_is_not_in_the_wheel_says_where_it_is(command, monkeypatch, capsys):
    def blind(name, *args):
        raise ModuleNotFoundError(name=name.rpartition(".")[0].removesuffix(".accuracy"))

    monkeypatch.setattr("importlib.import_module", blind)
    code = main([command])
    check_one_line(code, capsys.readouterr().err, "run it from a checkout of the repository")
