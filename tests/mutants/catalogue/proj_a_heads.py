"""proj_a of heads token by token: the distance between rows."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant,
    file="dsv4_kernels/segments/proj_a_heads.py",
    tests="tests/segments/test_proj_a_heads.py",
)
kernel = partial(
    mutant, file="dsv4_kernels/segments/proj_a.py", killed_by="test_the_bits_are_proj_as"
)
OWN = "a_ptr = o_packed_ptr + (t0.to(tl.int64) * G + g) * J + t[:, None] * (G * J)"

MUTANTS = (
    mutant(
        "heads are taken for sorted by group",
        'launch=functools.partial(launch_proj_a, heads="o_heads")',
        "launch=lambda *a: replace("
        'launch_proj_a(*a), arguments=("o_heads", *launch_proj_a(*a).arguments[1:]))',
        killed_by="test_the_bits_are_proj_as",
    ),
    mutant(
        "proj_a's tiles are its own",
        "tiles=ProjAHeadsTiles, reads",
        "tiles=ProjATiles, reads",
        killed_by="tests/segments/test_tiles.py::test_tiles_of_another_segment_are_refused[proj_a]",
    ),
    mutant(
        "the check blames what is not there",
        'check=functools.partial(check_proj_a, heads="o_heads")',
        "check=check_proj_a",
        killed_by="tests/segments/test_contract.py::test_wrong_sizes",
    ),
    mutant(
        "all groups are computed",
        "group_range=group_range",
        "group_range=None",
        killed_by="test_other_groups_stay",
    ),
    mutant("the output goes elsewhere", "o_r=o_r", "o_r=None", killed_by="test_other_groups_stay"),
    kernel("a row of heads is a group's", OWN, OWN.replace("* (G * J)", "* J")),
    kernel("every group's columns are the first's", OWN, OWN.replace("* G + g)", "* G)")),
    kernel("every tile has the first tokens", OWN, OWN.replace("(t0.to(tl.int64) * G + g)", "g")),
)
