"""The table of what may overlap: what is weighed, and of which chunk; and the diagram."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/commands/overlap.py", tests="tests/commands/test_overlap.py"
)
counted = partial(
    Mutant, file="dsv4_kernels/gates/ascend/counted.py", tests="tests/commands/test_overlap.py"
)
diagram = partial(
    Mutant, file="dsv4_kernels/commands/diagram.py", tests="tests/commands/test_readme.py"
)

OWN = "test_bytes_macs_and_instructions_weigh_by_themselves"

MUTANTS = (
    mutant(
        "lanes are counted as the fused form",
        "            attention=attention,\n",
        "",
        killed_by="test_lanes_of_one_wave_run_beside_those_of_another",
    ),
    mutant(
        "MACs weigh by their bytes",
        "_weighed(run, lambda counts: counts.macs),",
        "by_bytes,",
        killed_by=OWN,
    ),
    mutant(
        "vector instructions weigh by their bytes",
        "_weighed(run, lambda counts: counts.vector),",
        "by_bytes,",
        killed_by=OWN,
    ),
    mutant(
        "launches weigh what the scheduler takes them to",
        "replace(node, weight=weight(counts))",
        "node",
        killed_by=OWN,
    ),
    mutant(
        "vector work beside anything counts",
        'vector=share(VECTOR_LANES, "cube")',
        'vector=share(VECTOR_LANES, "any")',
        killed_by=OWN,
    ),
    mutant(
        "the gather keeps no vector core busy",
        'VECTOR_LANES = ("vector", "gather")',
        'VECTOR_LANES = ("vector",)',
        killed_by="test_most_vector_work_may_run_beside_cube_work",
    ),
    mutant(
        "the path is the share of the first launches",
        "for place in critical_path(by_bytes))",
        "for place in range(len(critical_path(by_bytes))))",
        killed_by=OWN,
    ),
    mutant(
        "one workspace, however many are asked for",
        "waves_in_flight=in_flight,",
        "waves_in_flight=1,",
        killed_by="test_most_vector_work_may_run_beside_cube_work",
    ),
    mutant(
        "what goes to the vector cores' memory is not moved",
        "return self.gm_to_l1 + self.gm_to_ub + self.ub_to_gm",
        "return self.gm_to_l1 + self.ub_to_gm",
        file="dsv4_kernels/gates/ascend/counts.py",
        killed_by=OWN,
    ),
    counted(
        "every launch is counted as the first of its name",
        "by_label[node.label] = count_launch(launch)",
        "by_label[node.label] = next((c for k, c in by_label.items() if k.split('[')[0] == "
        "node.name), None) or count_launch(launch)",
        killed_by="test_a_run_is_counted_as_it_is_issued",
    ),
    counted(
        "a refused kernel costs nothing",
        'raise ValueError(f"{node.label}: {launch.refusal}")',
        "continue",
        killed_by="test_a_kernel_that_the_compiler_refuses_ends_the_count",
    ),
    counted(
        "only the first wave is counted",
        "            found.append(Counted(node, by_label[node.label]))",
        "            found.extend([Counted(node, by_label[node.label])] * (node.wave == 0))",
        killed_by="test_a_run_is_counted_as_it_is_issued",
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
    mutant(
        "a chunk begins where the one before the demo's does",
        "START = 4000",
        "START = 3872",
        killed_by="test_a_chunk_begins_at_position_4000[HCA-39]",
    ),
    diagram(
        "what is only ordered is drawn",
        'if kind == "RAW":',
        'if kind != "WAR":',
        killed_by="test_what_is_ordered_without_handing_on_data_has_no_arrow",
    ),
    diagram(
        "eight groups, whatever is asked for",
        "dims = replace(flash, groups=groups, heads",
        "dims = replace(flash, heads",
        killed_by="test_a_diagram_is_of_the_schedule_and_groups_that_are_asked_for",
    ),
    diagram(
        "four groups a launch, whatever is asked for",
        "schedule=schedule, groups_per_launch=groups_per_launch)",
        "schedule=schedule)",
        killed_by="test_a_diagram_is_of_the_schedule_and_groups_that_are_asked_for",
    ),
)
