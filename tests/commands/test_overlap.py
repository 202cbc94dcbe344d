"""What may run at a time: shares of what the compiled code moves and computes."""

import pytest
import torch

from dsv4_kernels.commands.overlap import _slots, run_of, shares
from dsv4_kernels.gates.ascend import compiler
from dsv4_kernels.gates.ascend.compiler import AscendKernel
from dsv4_kernels.gates.ascend.counted import Counted, counted_run
from dsv4_kernels.gates.ascend.counts import Counts
from dsv4_kernels.launcher.graph import Node


def node(lane: str, weighs: Counts, **fields) -> Counted:
    return Counted(Node("node", lane, weight=1, **fields), weighs)


def test_bytes_macs_and_instructions_weigh_by_themselves():
    """The second node waits for the first; the third for nothing, beside both."""
    run = (
        node("vector", Counts(gm_to_ub=1, ub_to_gm=2, vector=7), writes=("a",)),
        node("mix", Counts(gm_to_l1=4, l0c_to_gm=5, macs=3, vector=1), reads=("a",)),
        node("cube", Counts(gm_to_l1=8, macs=9), reads=("b",)),
        node("vector", Counts(gm_to_ub=16, vector=1), writes=("b",)),
        node("cube", Counts(l0c_to_gm=32, macs=1), reads=("b",)),
    )
    found = shares(run)
    # The first vector node lies beside the first cube node, the second is behind it and ahead of
    # the other: only in its own lane's order.
    assert (found.vector.bytes, found.vector.vector) == (3 / 19, 7 / 8)
    assert (found.mix.bytes, found.mix.macs, found.mix.vector) == (1, 1, 1)
    assert (found.cube.bytes, found.cube.macs) == (1, 1)
    assert (found.vector.macs, found.cube.vector) == (0, 0)  # there are none
    assert found.path == (8 + 16 + 32) / (3 + 9 + 8 + 16 + 32)
    assert found.launches == 5


def test_most_vector_work_may_run_beside_cube_work():
    """Of a chunk of 1024 tokens at FLASH, CSA: percent of the vector cores' bytes; nothing is
    measured."""

    def beside(schedule: str) -> int:
        return round(100 * shares(run_of("FLASH", "CSA", schedule, 1024, 4, 2)).vector.bytes)

    assert beside("decoupled") == 90
    assert beside("row_barrier") == 72


def test_lanes_of_one_wave_run_beside_those_of_another():
    """Likewise in lanes: of the softmax too, which has more of the bytes than are left out."""
    one, eight = (run_of("FLASH", "CSA", "decoupled", n, 4, 2, "lanes") for n in (128, 1024))
    assert round(100 * shares(eight).vector.bytes) == 90
    assert shares(one).vector.bytes < 0.2
    softmax = [c.counts.moved for c in one if c.node.name == "softmax"]
    vector = [c.counts.moved for c in one if c.node.lane in ("vector", "gather")]
    assert sum(softmax) > 0.13 * sum(vector)
    assert {c.node.lane for c in eight} == {"gather", "vector", "cube"}  # none is mixed


@pytest.mark.parametrize(
    ("layer", "slots"), [("SWA", 0), ("CSA", 512), ("HCA", (4000 + 1024) // 128)]
)
def test_a_chunk_begins_at_position_4000(layer, slots):
    """As the README says: what a token of its end may attend to beside its window."""
    assert _slots(layer, 1024, 512) == slots


def test_a_run_is_counted_as_it_is_issued():
    """Every launch of every wave; what of the same groups is counted once."""
    run = run_of("FLASH", "SWA", "decoupled", 256, 4, 2)
    assert len(run) == 2 * 13
    by_label: dict[str, set[int]] = {}
    for each in run:
        by_label.setdefault(each.node.label, set()).add(id(each.counts))
    assert {len(counts) for counts in by_label.values()} == {1}
    moved = {label: run[[c.node.label for c in run].index(label)].counts for label in by_label}
    mib = {label: counts.moved / 2**20 for label, counts in moved.items()}
    # Half of the partials and 2 MiB of sums out; in again, and half as much output.
    assert mib["dequant_sum[0:4]"] == pytest.approx(8 + 2, rel=0.01)
    assert mib["dequant_sum[4:8]"] == pytest.approx(8 + 2 + 1, rel=0.03)
    assert moved["proj_a[0:4]"].macs == moved["proj_a[4:8]"].macs == 128 * 4 * 1024 * 4096


def test_a_kernel_that_the_compiler_refuses_ends_the_count():
    launches: list = compiler.driver("Ascend910B3").launches
    refused = Node(
        "merge_norm", "vector",
        work=lambda buffers: launches.append(AscendKernel(refusal="ub overflow")),
    )  # fmt: skip

    def run(executor):
        executor([refused], [{"q": torch.empty(0, device="meta")}])

    with pytest.raises(ValueError, match=r"^merge_norm: ub overflow$"):
        counted_run("Ascend910B3", run)
