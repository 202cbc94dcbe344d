"""What the README prints is what the commands print."""

import re
from pathlib import Path

import pytest

from dsv4_kernels.__main__ import main
from dsv4_kernels.buffers import ARGUMENTS, BUFFERS
from dsv4_kernels.chains.prefill import SCHEDULES, wave_nodes
from dsv4_kernels.commands.diagram import mermaid
from dsv4_kernels.commands.study.accuracy.study import Study
from dsv4_kernels.commands.study.accuracy.tables import markdown
from dsv4_kernels.commands.support_matrix import support_table
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.launcher.graph import Node

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dsv4_kernels"
LAUNCHER = PACKAGE / "launcher" / "README.md"
ACCURACY = PACKAGE / "commands" / "study" / "accuracy" / "README.md"


def between(start: str, end: str, readme: Path = ROOT / "README.md") -> str:
    text = readme.read_text()
    begin = text.index("\n", text.index(start)) + 1
    return text[begin : text.index(end)].rstrip("\n")


def test_the_support_table_is_the_printed_one():
    assert between("<!-- support:", "<!-- end of support") == support_table()


def test_the_accuracy_tables_are_the_stored_results():
    stored = Study.from_json((ROOT / "bench" / "results" / "accuracy.json").read_text())
    assert between("<!-- accuracy:", "<!-- end of accuracy", ACCURACY) == markdown(stored), (
        "paste: python -m dsv4_kernels accuracy --markdown --from bench/results/accuracy.json"
    )


def test_the_diagram_is_the_printed_one(capsys):
    assert main(["graph"]) == 0
    assert between(
        "```mermaid", "```\n<!-- end of graph", LAUNCHER
    ) == capsys.readouterr().out.rstrip("\n")


def test_a_diagram_is_of_the_schedule_and_groups_that_are_asked_for(capsys):
    call = ["graph", "--schedule", "row_barrier", "--groups", "3", "--groups-per-launch", "2"]
    assert main(call) == 0
    boxes = re.findall(r'n\d+\["(.*?)<br/>', capsys.readouterr().out)
    attention = ["resolve_slots", "gather_kv", "qk_softmax_pv"]
    by_groups = [
        f"{name}[{part}]" for name in ("merge_finish", "proj_a") for part in ("0:2", "2:3")
    ]
    assert boxes == [*attention, *by_groups, "row_quant", "proj_b_dequant"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_diagram_has_every_launch_and_every_hand_over(schedule):
    nodes = wave_nodes(PRESETS["FLASH"], 128, schedule=schedule, groups_per_launch=2)
    text = mermaid(nodes)
    for place, node in enumerate(nodes):
        assert f'n{place}["{node.label}<br/>{node.lane}"]' in text
        for buffer in (*node.reads, *node.updates):
            if BUFFERS[buffer].lifetime not in ("wave", "chunk"):
                continue
            into = [line for line in text.splitlines() if line.endswith(f"--> n{place}")]
            assert any(buffer in line for line in into), (node.label, buffer)


def test_what_is_ordered_without_handing_on_data_has_no_arrow():
    """Written again, and again while it is read; what was not written again is still handed on."""

    def one(name, first, last, **access):
        return Node(name, "cube", parts=(("groups", range(first, last)),), **access)

    nodes = (
        one("whole", 0, 4, writes=("o_r",)),
        one("half", 0, 2, writes=("o_r",)),
        one("reader", 0, 4, reads=("o_r",)),
        one("last", 0, 4, writes=("o_r",)),
    )
    arrows = [line.strip() for line in mermaid(nodes).splitlines() if "-->" in line]
    assert arrows == ['n0 -- "o_r" --> n2', 'n1 -- "o_r" --> n2']


def test_o_packed_comes_from_the_last_to_write_it():
    nodes = wave_nodes(PRESETS["FLASH"], 128, groups_per_launch=8, attention="separate_tail")
    places = {node.name: place for place, node in enumerate(nodes)}
    text = mermaid(nodes)
    proj_a = places["proj_a"]
    assert f'n{places["inverse_rope"]} -- "o_packed" --> n{proj_a}' in text
    assert f"n{places['merge_norm']} --" in text
    into = [line for line in text.splitlines() if line.endswith(f"--> n{proj_a}")]
    assert len(into) == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_the_overlap_table_is_the_printed_one(preset, capsys):
    """A preset at a time; figures of the Ascend compiler's code."""
    assert main(["graph", "--overlap", "--markdown", "--preset", preset]) == 0
    told = between("<!-- overlap:", "<!-- end of overlap", LAUNCHER).splitlines()
    own = [line for line in told if line.startswith((f"| {preset} ", "| layer", "| ---"))]
    assert own == capsys.readouterr().out.splitlines()
    assert len(told) == 2 + 2 * (len(own) - 2)


def test_the_example_runs_as_it_stands():
    text = (ROOT / "README.md").read_text()
    example, *_ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)  # others: tests/test_tp.py
    exec(compile(example, "README.md", "exec"), {})


def test_every_argument_is_in_the_table():
    table = between("| argument | shape", "A raw index is")
    named = [name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row)]
    assert named == [*ARGUMENTS]


def test_the_first_page_is_short():
    """Two printed pages of text, tables and code apart."""
    text = (ROOT / "README.md").read_text()
    prose = [line for line in text.splitlines() if not line.startswith(("|", "```", "    "))]
    assert len(" ".join(prose).split()) <= 1000


READMES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
READMES += [
    path
    for folder in ("dsv4_kernels", "bench", "tests")
    for path in (ROOT / folder).rglob("README.md")
]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(readme):
    for target in re.findall(r"\]\(([^)#:]+)\)", readme.read_text()):
        assert (readme.parent / target).exists(), target
