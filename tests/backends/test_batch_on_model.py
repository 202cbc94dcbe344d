"""What finds and moves a batch's rows, as final Ascend IR on the model of the cores."""

from __future__ import annotations

import pytest
import torch

from adversary import SMALL
from dsv4_kernels import sparse_attn
from dsv4_kernels.backends.hivm.report import Stopped
from dsv4_kernels.gates.ascend.execute import How, executing
from dsv4_kernels.inputs.batch import BatchInputs, Request, make_batch
from poison import SENTINELS

PART = "Ascend910B3"
STEPS = ("token_map", "resolve_requests", "gather_kv")

# A request that ends in the midst of a wave, a graph's padding, drafts, and a token far behind.
REQUESTS = (Request(100, 3, key=1), Request(0, 2), Request(7, 7, key=2), Request(610, 1, key=3))

KINDS = {
    "CSA": dict(ratio=4),
    "HCA": dict(ratio=3, listed=False),
    "SWA": dict(ratio=0),
    "drafts": dict(ratio=4, drafts=40),
    "pages of 12 and 5": dict(ratio=4, drafts=40, page_sizes=(12, 5)),
}


def found(batch: BatchInputs) -> dict[str, torch.Tensor]:
    """What the steps write, up to the last live block; behind it nothing is written."""
    kept: dict[str, torch.Tensor] = {}

    def executor(nodes, waves):
        (buffers,) = waves
        first = [node for node in nodes if node.name in STEPS]
        assert [node.name for node in first] == [*STEPS]
        for node in first:
            for name in node.writes:
                buffers[name].fill_(SENTINELS[buffers[name].dtype])
            node.run(waves)
            kept.update((name, buffers[name].clone()) for name in node.writes)

    sparse_attn(*batch.args(), **batch.options(), executor=executor)
    return kept


@pytest.mark.parametrize("gap", [0, 13])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_s_rows_are_the_cpu_path_s_and_nothing_is_found(kind, gap, seed):
    """In any order that the cores may take, over memory of either poison."""
    options = dict(capacity=15, page_sizes=(16, 8), gap=gap, seed=seed) | KINDS[kind]
    batch = make_batch(SMALL, REQUESTS, **options)
    want = found(batch)
    assert (want["rows"] >= 0).any()
    for how in (How(), How(seed=1, poison=0x55, checked=False), How(seed=2, checked=False)):
        try:
            with executing(PART, cube_cores=2, how=how) as reports:
                got = found(batch)
        except Stopped as stopped:
            pytest.fail(str(stopped))
        assert len(reports) == len(STEPS)
        assert not any(report.findings for report in reports), reports
        for name, value in want.items():
            same = torch.equal(got[name].view(torch.uint8), value.view(torch.uint8))
            assert same, name
