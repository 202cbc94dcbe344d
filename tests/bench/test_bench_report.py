"""From results to tables, verdicts and a picture."""

import json

import pytest

from bench import report, sheets, targets
from bench.targets import OURS

H200 = dict(
    device="NVIDIA H200 (cuda:0)",
    device_type="cuda",
    roof=dict(copy_bytes_s=4.3e12, bf16_flop_s=7.9e14, int8_flop_s=None),
    versions={"torch": "2.11.0"},
    bytes=1 << 20, bf16_flop=10**9, int8_flop=0, host_us=30.0, device_us=1.0, cold=True,
    share_of_roof=0.5, share_of_copy=0.25, preset="FLASH", tokens=128,
)  # fmt: skip


def race(name, runner, us, **facts):
    return H200 | dict(table="races", race=name, runner=runner, us=us) | facts


RUN = [
    H200 | dict(table="segments", segment="proj_a", us=17.0, share_of_copy=0.9),
    H200 | dict(table="segments", segment="proj_b", us=17.0, share_of_copy=0.8),
    H200 | dict(table="segments", segment="proj_b", us=17.0, share_of_copy=0.99, preset="PRO"),
    *(
        H200
        | dict(table="tiles", segment="proj_a", tile="a_k_tile", value=value, own=value == 256)
        | dict(us=us, tiles=dict(num_stages=3), digest="c0ffee")
        for value, us in ((128, 20.0), (256, 17.0), (512, 21.5))
    ),
    H200
    | dict(table="chain", varied="tokens", layer="CSA", live_share=1.0, schedule="decoupled")
    | dict(groups_per_launch=4, captured=False, us=640.0),
    race("chain", OURS, 50.0),
    race("chain", "torch", 400.0),
    race("chain", "FlashMLA, torch", 60.0),
    race("attention", OURS, 900.0, tokens=4096),
    race("attention", "FlashMLA", 450.0, tokens=4096),
]
CPU_RUN = [result | dict(device="CPU, 2 threads", device_type="cpu") for result in RUN]


def cells(title, results=RUN):
    sheet = next(s for s in sheets.sheets(results) if s.title.startswith(title))
    return [dict(zip(sheet.headings, row, strict=True)) for row in sheet.rows]


def test_verdicts_hold_ratios_against_what_is_wanted():
    verdicts = [(v.measured, v.ratio, v.words) for v in targets.judge(RUN)]
    assert verdicts == [
        (50.0, 1.2, "reached"),
        (1.2, pytest.approx(0.8), "not reached"),  # 60 / 50, of 1.5
        (0.9, pytest.approx(0.9 / 0.85), "reached"),
        (0.8, pytest.approx(0.8 / 0.85), "not reached"),  # FLASH's, not PRO's
        (0.5, 0.5, "not reached"),
    ]


def test_what_was_not_run_is_not_judged():
    kept = [r for r in RUN if r.get("runner") != "FlashMLA" and r.get("segment") != "proj_b"]
    words = [verdict.words for verdict in targets.judge(kept)]
    assert words == ["reached", "not reached", "reached", "not measured", "not measured"]


def test_cpu_execution_is_not_judged_and_says_so():
    assert {v.words for v in targets.judge(CPU_RUN)} == {"not judged: CPU execution"}
    assert all(v.ratio is None for v in targets.judge(CPU_RUN))
    first = cells("segments", CPU_RUN)[0]
    assert first["us of CPU execution"] == "17.0"
    assert "us" not in first


def test_host_time_is_told_apart_only_where_the_work_is_done_elsewhere():
    assert cells("segments")[0]["host us"] == "30.0"
    on_cpu = [result | dict(device_us=None) for result in CPU_RUN]
    assert cells("segments", on_cpu)[0]["host us"] == "-"


def test_races_are_ratios_of_our_time():
    rows = [(row["race"], row["runner"], row["times ours"]) for row in cells("races")]
    assert rows == [
        ("chain", OURS, "1.00"),
        ("chain", "FlashMLA, torch", "1.20"),
        ("chain", "torch", "8.00"),
        ("attention", "FlashMLA", "0.50"),
        ("attention", OURS, "1.00"),
    ]


def test_the_sweep_has_a_row_per_tile():
    rows = [(row["value"], row["own"], row["us"], row["output"]) for row in cells("tiles")]
    assert rows == [
        ("128", "", "20.0", "c0ffee"),
        ("256", "own", "17.0", "c0ffee"),
        ("512", "", "21.5", "c0ffee"),
    ]


def test_the_command_writes_tables_and_a_picture(tmp_path, capsys):
    results, markdown, png = (tmp_path / name for name in ("r.json", "t.md", "p.png"))
    results.write_text(json.dumps({"benchmarks": [{"extra_info": result} for result in CPU_RUN]}))
    assert report.main([str(results), "--markdown", str(markdown), "--png", str(png)]) == 0
    for text in (capsys.readouterr().out, markdown.read_text()):
        assert "CPU, 2 threads" in text
        assert "not judged: CPU execution" in text
        assert text.count("c0ffee") == 3
    assert png.read_bytes().startswith(b"\x89PNG")


def test_an_empty_run_is_an_error(tmp_path, capsys):
    results = tmp_path / "r.json"
    results.write_text(json.dumps({"benchmarks": []}))
    assert report.main([str(results)]) == 1
    assert "no results" in capsys.readouterr().err
