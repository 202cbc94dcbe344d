"""What the README prints is what the commands print."""

from pathlib import Path

import pytest

from dsv4_kernels.__main__ import main
from dsv4_kernels.chains import pipeline
from dsv4_kernels.commands.diagram import mermaid
from dsv4_kernels.commands.study.accuracy.study import Study
from dsv4_kernels.commands.study.accuracy.tables import markdown
from dsv4_kernels.commands.support_matrix import support_table

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


@pytest.mark.parametrize("schedule", pipeline.SCHEDULES)
def test_a_diagram_has_every_launch_and_every_hand_over(schedule):
    nodes = pipeline.SCHEDULES[schedule](8, 2)
    text = mermaid(nodes)
    for place, node in enumerate(nodes):
        assert f'n{place}["{node.label}<br/>{node.lane}"]' in text
        for buffer in {*node.reads, *node.updates} & {*pipeline.WORKSPACE}:
            into = [line for line in text.splitlines() if line.endswith(f"--> n{place}")]
            assert any(buffer in line for line in into), (node.label, buffer)


def test_o_packed_comes_from_the_last_to_write_it():
    places = {node.name: place for place, node in enumerate(pipeline.PIPELINE)}
    text = mermaid(pipeline.PIPELINE)
    proj_a = places["proj_a"]
    assert f'n{places["inverse_rope"]} -- "o_packed" --> n{proj_a}' in text
    assert f"n{places['merge_norm']} --" in text
    into = [line for line in text.splitlines() if line.endswith(f"--> n{proj_a}")]
    assert len(into) == 1
