"""Edges between nodes: kinds, parts, copies of the workspace."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/launcher/graph.py", tests="tests/launcher/test_lanes.py"
)

MUTANTS = (
    mutant(
        "a shorter wave has a group where the others have it",
        "a.tokens == b.tokens or not inside",
        "True",
        killed_by="test_a_shorter_wave_has_its_groups_elsewhere[o_packed-True]",
    ),
    mutant(
        "a shorter wave covers the groups of a longer one",
        "if not _laid_alike(a, b, buffer) and _axes(b, buffer):",
        "if False:",
        killed_by="test_a_shorter_wave_has_its_groups_elsewhere[o_packed-True]",
    ),
    mutant(
        "a wave is never shorter",
        "wave=wave, tokens=tokens, slot",
        "wave=wave, slot",
        file="dsv4_kernels/launcher/binding.py",
        killed_by="tests/launcher/test_plan.py::test_any_legal_order_gives_the_same_bytes"
        "[1-1-decoupled]",
    ),
    mutant(
        "a read does not wait for the write",
        '                yield from _meeting(written, after, node, buffer, "RAW")\n',
        "                pass\n",
        killed_by="test_the_three_kinds_of_edge",
    ),
    mutant(
        "a write does not wait for the write before",
        '                yield from _meeting(written, after, node, buffer, "WAW")\n',
        "",
        killed_by="test_the_three_kinds_of_edge",
    ),
    mutant(
        "a write does not wait for who still reads",
        '                yield from _meeting(read, after, node, buffer, "WAR")\n',
        "",
        killed_by="test_the_three_kinds_of_edge",
    ),
    mutant(
        "an update is no write",
        "taken, changed = {*node.reads, *node.updates}, {*node.writes, *node.updates}",
        "taken, changed = {*node.reads, *node.updates}, {*node.writes}",
        killed_by="test_every_conflict_is_ordered",
    ),
    mutant(
        "an update is no read",
        "taken, changed = {*node.reads, *node.updates}, {*node.writes, *node.updates}",
        "taken, changed = {*node.reads}, {*node.writes, *node.updates}",
        killed_by="tests/commands/test_readme.py::test_a_diagram_has_every_launch_and_every_hand_over",
    ),
    mutant(
        "a write of a part stands for all of it",
        "a for a in accesses if not _within(a.node, node, buffer)",
        "a for a in accesses if False",
        killed_by="test_every_conflict_is_ordered",
    ),
    mutant(
        "parts side by side overlap",
        "of_a[axis].stop <= of_b[axis].start or of_b[axis].stop <= of_a[axis].start",
        "of_a[axis].stop < of_b[axis].start or of_b[axis].stop < of_a[axis].start",
        killed_by="test_groups_apart_meet_only_in_buffers_without_groups",
    ),
    mutant(
        "parts that overlap are apart",
        "of_a[axis].stop <= of_b[axis].start or of_b[axis].stop <= of_a[axis].start",
        "of_a[axis].start != of_b[axis].start",
        killed_by="test_groups_apart_meet_only_in_buffers_without_groups",
    ),
    mutant(
        "every buffer has groups",
        "if known is not None and axis in known.axes}",
        "if known is not None}",
        killed_by="test_groups_apart_meet_only_in_buffers_without_groups",
    ),
    mutant(
        "a workspace belongs to its wave, not to its slot",
        "        return node.slot\n",
        "        return node.wave\n",
        killed_by="test_every_conflict_is_ordered",
    ),
    mutant(
        "every wave writes the same output rows",
        'return node.wave if known.lifetime in ("chunk", "output") else 0',
        "return 0",
        killed_by="test_no_wait_can_be_dropped",
    ),
)
