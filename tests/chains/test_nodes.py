"""Segments as nodes: lanes, parts, weights."""

import pytest

from dsv4_kernels.buffers import BUFFERS
from dsv4_kernels.chains.prefill import SCHEDULES, wave_nodes
from dsv4_kernels.dims import PRESETS


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("preset", PRESETS)
def test_chunks_weigh_together_what_the_segment_does(preset, schedule):
    def weights(groups_per_launch: int) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        options = dict(schedule=schedule, groups_per_launch=groups_per_launch)
        for node in wave_nodes(PRESETS[preset], 128, **options):
            moved, flop = found.get(node.name, (0, 0))
            found[node.name] = moved + node.weight, flop + node.flop
        return found

    assert weights(2) == weights(16)


def test_a_group_has_a_part_of_every_buffer_that_has_groups():
    grouped = {name for name, buffer in BUFFERS.items() if "groups" in buffer.axes}
    assert grouped == {"o_packed", "wo_a", "wo_b", "o_r", "codes", "scale", "partial"}
    assert BUFFERS["wo_b"].axes == {"groups": 1}
    assert BUFFERS["scale"].axes == {"tokens": 1, "groups": 0}
