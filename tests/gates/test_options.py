"""What the gates' commands have in common: settings of tiles, and jobs in processes."""

import os

from dsv4_kernels.device import Target
from dsv4_kernels.gates.options import chosen_tiles, in_parallel
from dsv4_kernels.segments.proj_a import ProjATiles


def test_settings_of_a_segment_add_up():
    target = Target("npu", "Ascend910B3", 20, 40)
    settings = ["proj_a.block_r=64", "proj_a.a_k_tile=512", "proj_a.block_r=32"]
    assert chosen_tiles(settings, target) == {"proj_a": ProjATiles(block_r=32, a_k_tile=512)}
    assert chosen_tiles([], target) == {}


def test_several_jobs_have_processes_of_their_own_and_keep_their_order():
    assert [*in_parallel(abs, [-3, 2, -1])] == [3, 2, 1]
    me = "__import__('os').getpid()"
    assert os.getpid() not in [*in_parallel(eval, [me, me])]
    assert [*in_parallel(eval, [me])] == [os.getpid()]
