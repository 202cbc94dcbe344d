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
    mutant(
        "a process outside of the group takes part",
        "rank >= 0",
        "rank >= -1",
        killed_by="test_what_is_no_part",
    ),
    mutant(
        "tokens are left over",
        "T % size == 0",
        "T >= size",
        killed_by="test_the_ranks_are_those_of_the_group",
    ),
    mutant(
        "all ranks take part in a sum",
        "dist.all_reduce(total, group=group)",
        "dist.all_reduce(total, group=None)",
        killed_by="test_the_ranks_are_those_of_the_group",
    ),
    mutant(
        "all ranks take part in a scatter",
        "dist.reduce_scatter_tensor(total, partial, group=group)",
        "dist.reduce_scatter_tensor(total, partial, group=None)",
        killed_by="test_the_ranks_are_those_of_the_group",
    ),
    mutant(
        "a sum has a gradient",
        "@torch.no_grad()\n",
        "",
        killed_by="test_what_is_no_part",
    ),
    mutant(
        "a compiler looks into a collective",
        "@untraced\n",
        "",
        killed_by="test_a_compiler_does_not_look_into_a_collective",
    ),
    mutant(
        "the output is made on the CPU",
        "dtype=torch.bfloat16, device=partial.device)",
        "dtype=torch.bfloat16)",
        killed_by="test_the_ranks_are_those_of_the_group",
    ),
)
