"""The sum of the ranks' parts."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(Mutant, file="dsv4_kernels/tp.py", tests="tests/test_tp.py")
OUTPUT = "test_ranks_give_the_output_of_one[2]"

MUTANTS = (
    mutant(
        "nothing is added",
        "            dist.all_reduce(total, group=group)\n",
        "            pass\n",
        killed_by=OUTPUT,
    ),
    mutant(
        "parts are rounded before they are added",
        "total = partial\n",
        "total = partial.copy_(partial.bfloat16())\n",
        killed_by=OUTPUT,
    ),
    mutant(
        "every rank keeps the first tokens",
        "dist.reduce_scatter_tensor(total, partial, group=group)",
        "total = partial[:T]; dist.all_reduce(total, group=group)",
        killed_by=OUTPUT,
    ),
    mutant(
        "parts that are no fp32 are let through",
        'contract.tensor("partial", partial, "T D", torch.float32)',
        'contract.tensor("partial", partial, "T D", partial.dtype)',
        killed_by="test_what_is_no_part",
    ),
    mutant(
        "who failed is not said",
        'f"tp.reduce: rank {rank} of {size}: {error}"',
        'f"{error}"',
        killed_by="test_a_rank_that_fails_says_why_and_hangs_nobody",
    ),
)
