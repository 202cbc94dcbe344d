"""The chain as data: nodes, their edges, and groups."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/chains/pipeline.py", tests="tests/launcher/test_lanes.py"
)

CONFLICTS = '{"RAW": written & reads, "WAW": written & writes, "WAR": read & writes}'

MUTANTS = (
    mutant(
        "a read does not wait for the write",
        CONFLICTS,
        '{"WAW": written & writes, "WAR": read & writes}',
        killed_by="test_the_three_kinds_of_edge",
    ),
    mutant(
        "a write does not wait for the write before",
        CONFLICTS,
        '{"RAW": written & reads, "WAR": read & writes}',
        killed_by="test_the_three_kinds_of_edge",
    ),
    mutant(
        "a write does not wait for who still reads",
        CONFLICTS,
        '{"RAW": written & reads, "WAW": written & writes}',
        killed_by="test_the_three_kinds_of_edge",
    ),
    mutant(
        "an update is no write",
        "{*earlier.writes, *earlier.updates}",
        "{*earlier.writes}",
        killed_by="test_groups_are_independent_until_the_sum",
    ),
    mutant(
        "groups side by side overlap",
        "(a.stop <= b.start or b.stop <= a.start)",
        "(a.stop < b.start or b.stop < a.start)",
        killed_by="test_groups_apart_meet_only_in_buffers_without_groups",
    ),
    mutant(
        "groups that overlap are apart",
        "(a.stop <= b.start or b.stop <= a.start)",
        "(a.start != b.start)",
        killed_by="test_groups_apart_meet_only_in_buffers_without_groups",
    ),
    mutant(
        "a barrier before proj_b: codes have no groups",
        '"o_r", "codes", "scale"',
        '"o_r", "scale"',
        killed_by="test_groups_are_independent_until_the_sum",
    ),
    mutant(
        "a barrier before the quant: o_r has no groups",
        '"o_r", "codes", "scale"',
        '"codes", "scale"',
        killed_by="test_groups_are_independent_until_the_sum",
    ),
    mutant(
        "kv counts as a buffer of groups",
        'frozenset({"o_packed",',
        'frozenset({"kv", "o_packed",',
        killed_by="test_groups_apart_meet_only_in_buffers_without_groups",
    ),
    mutant(
        "the last groups are left out where they fill no launch",
        "range(0, groups, groups_per_launch)",
        "range(0, groups - groups_per_launch + 1, groups_per_launch)",
        killed_by="test_every_group_is_launched_once",
    ),
    mutant(
        "the last proj_b is left out",
        "(*nodes, replace(PROJ_B, groups=behind), DEQUANT_SUM)",
        "(*nodes, DEQUANT_SUM)",
        killed_by="test_every_group_is_launched_once",
    ),
    mutant(
        "no inverse RoPE",
        "MERGE_NORM, INVERSE_ROPE)",
        "MERGE_NORM)",
        killed_by="test_groups_are_independent_until_the_sum",
    ),
    mutant(
        "every launch is for all groups",
        'options["group_range"] = self.groups',
        'options["group_range"] = None',
        killed_by="tests/launcher/test_plan.py::test_a_launch_touches_its_own_groups_only",
    ),
)
