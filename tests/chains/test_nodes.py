"""Segments as nodes: lanes, parts, weights."""

import math

import pytest

from dsv4_kernels.buffers import BUFFERS, shapes
from dsv4_kernels.chains.prefill import SCHEDULES, wave_nodes
from dsv4_kernels.dims import PRESETS


@pytest.mark.parametrize(
    "form", [dict(schedule=s) for s in SCHEDULES] + [dict(attention="separate_tail")], ids=str
)
@pytest.mark.parametrize("preset", PRESETS)
def test_chunks_weigh_together_what_the_segment_does(preset, form):
    """And once more for each chunk what has neither groups nor heads; dequant_sum hands on its
    sums, and its last chunk alone has an output."""
    dims = PRESETS[preset]
    sizes = dims.letters() | dict(N=128, K=dims.index_columns, U=128, X=1)

    def weights(groups_per_launch: int) -> dict[str, int]:
        found: dict[str, int] = {}
        options = form | dict(groups_per_launch=groups_per_launch)
        for node in wave_nodes(dims, 128, **options):
            found[node.name] = found.get(node.name, 0) + node.weight
        return found

    def nbytes(name: str) -> int:
        (extent,) = shapes([name], sizes).values()
        return math.prod(extent) * BUFFERS[name].dtype.itemsize  # type: ignore[union-attr]

    tokens = nbytes("live_blocks") + nbytes("live_slots")
    tables = nbytes("freqs_cos") + nbytes("freqs_sin")
    more = dict(
        merge_norm=tokens,
        inverse_rope=nbytes("live_slots") + tables,
        merge_finish=tokens + tables,
        dequant_sum=2 * nbytes("sums"),
    )
    chunks = dims.groups // 2
    assert weights(2) == {
        name: moved + (chunks - 1) * more.get(name, 0) for name, moved in weights(16).items()
    }


def test_a_group_has_a_part_of_every_buffer_that_has_groups():
    grouped = {name for name, buffer in BUFFERS.items() if "groups" in buffer.axes}
    assert grouped == {
        "o_packed", "o_heads", "wo_a", "wo_b", "o_r", "codes", "scale", "partial",
    }  # fmt: skip
    assert BUFFERS["wo_b"].axes == {"groups": 1}
    assert BUFFERS["scale"].axes == {"tokens": 1, "groups": 0}
