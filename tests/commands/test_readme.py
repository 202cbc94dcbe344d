"""What the README prints is what the commands print."""

from pathlib import Path

import pytest

from dsv4_kernels.__main__ import main
from dsv4_kernels.buffers import BUFFERS
from dsv4_kernels.chains.prefill import SCHEDULES, wave_nodes
from dsv4_kernels.commands.diagram import mermaid
from dsv4_kernels.commands.study.accuracy.study import Study
from dsv4_kernels.commands.study.accuracy.tables import markdown
from dsv4_kernels.commands.support_matrix import support_table
from dsv4_kernels.dims import PRESETS

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"


def between(start: str, end: str) -> str:
    text = README.read_text()
    begin = text.index("\n", text.index(start)) + 1
    return text[begin : text.index(end)].rstrip("\n")


def test_the_support_table_is_the_printed_one():
    assert between("<!-- support:", "<!-- end of support") == support_table()


def test_the_accuracy_tables_are_the_stored_results():
    stored = Study.from_json((ROOT / "bench" / "results" / "accuracy.json").read_text())
    assert between("<!-- accuracy:", "<!-- end of accuracy") == markdown(stored), (
        "paste: python -m dsv4_kernels accuracy --markdown --from bench/results/accuracy.json"
    )


def test_the_diagram_is_the_printed_one(capsys):
    assert main(["graph"]) == 0
    assert between("```mermaid", "```\n<!-- end of graph") == capsys.readouterr().out.rstrip("\n")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_diagram_has_every_launch_and_every_hand_over(schedule):
    nodes = wave_nodes(PRESETS["FLASH"], 128, schedule=schedule, groups_per_launch=2)
    text = mermaid(nodes)
    for place, node in enumerate(nodes):
        assert f'n{place}["{node.label}<br/>{node.lane}"]' in text
        for buffer in (*node.reads, *node.updates):
            if BUFFERS[buffer].lifetime != "wave":
                continue
            into = [line for line in text.splitlines() if line.endswith(f"--> n{place}")]
            assert any(buffer in line for line in into), (node.label, buffer)


def test_o_packed_comes_from_the_last_to_write_it():
    nodes = wave_nodes(PRESETS["FLASH"], 128, groups_per_launch=8)
    places = {node.name: place for place, node in enumerate(nodes)}
    text = mermaid(nodes)
    proj_a = places["proj_a"]
    assert f'n{places["inverse_rope"]} -- "o_packed" --> n{proj_a}' in text
    assert f"n{places['merge_norm']} --" in text
    into = [line for line in text.splitlines() if line.endswith(f"--> n{proj_a}")]
    assert len(into) == 1
