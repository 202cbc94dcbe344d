"""The bytes of a rank."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant,
    file="bench/ranks.py",
    tests="tests/bench/test_ranks.py",
    killed_by="test_a_rank_of_flash_by_hand",
)

MUTANTS = (
    mutant(
        "parts are sent in bf16",
        "part = tokens * dims.hidden * 4",
        "part = tokens * dims.hidden * 2",
    ),
    mutant(
        "a rank has all groups",
        "groups=self.groups // size",
        "groups=self.groups",
        file="dsv4_kernels/dims.py",
    ),
    mutant("every rank sends all", "2 * (size_ - 1) * part // size_", "2 * part"),
    mutant(
        "KV is shared out",
        "live_keys * dims.head_dim * 2)",
        "live_keys * dims.head_dim * 2) // size_",
    ),
)
