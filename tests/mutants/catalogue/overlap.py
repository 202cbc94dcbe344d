"""The table of what may overlap: what is weighed, and of which chunk."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/commands/overlap.py", tests="tests/launcher/test_lanes.py"
)

MUTANTS = (
    mutant(
        "FLOP weigh by their bytes",
        "replace(node, weight=node.flop) for node in nodes",
        "node for node in nodes",
        killed_by="test_flop_weigh_by_themselves",
    ),
    mutant(
        "a chunk of groups weighs as all of them",
        'own = {**sizes, "G": len(groups)}',
        "own = {**sizes}",
        file="dsv4_kernels/chains/node.py",
        killed_by="tests/chains/test_nodes.py::test_chunks_weigh_together_what_the_segment_does",
    ),
    mutant(
        "a chunk of groups has all heads",
        'own["H"] = sizes["H"] // sizes["G"] * len(groups)',
        'own["H"] = sizes["H"]',
        file="dsv4_kernels/chains/node.py",
        killed_by="tests/chains/test_nodes.py::test_chunks_weigh_together_what_the_segment_does",
    ),
    mutant(
        "every layer is a CSA layer",
        'return topk if layer == "CSA" else seen',
        "return topk",
        killed_by="tests/commands/test_readme.py::test_the_overlap_table_is_the_printed_one",
    ),
)
