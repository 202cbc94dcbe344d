"""The entry point, what it hands to the plan, and the chain's own contract."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(Mutant, file="dsv4_kernels/chains/prefill.py", tests="tests/chains/test_chain.py")
PLAN = "tests/launcher/test_plan.py"
CONTRACT = "tests/segments/test_contract.py"

# What the entry point hands on, each behind the line before it there.
HANDED_ON = "        *arguments,\n        window=window,\n        wave_tokens=wave_tokens,\n"
SCHEDULE = "        schedule=schedule,\n        attention=attention,\n        sharers=sharers,\n"
SCHEDULE += "        groups_per_launch="
SCHEDULE += "groups_per_launch,\n"
REST = "        executor=executor,\n        tiles=tiles,\n        out_dtype=out_dtype,\n    )\n"

MUTANTS = (
    mutant(
        "always decoupled",
        SCHEDULE,
        SCHEDULE.replace("=schedule,", '="decoupled",'),
        killed_by=f"{PLAN}::test_the_schedules_differ_by_their_quantisation",
    ),
    mutant(
        "always fused",
        SCHEDULE,
        SCHEDULE.replace("=attention,", '="fused",'),
        killed_by="tests/chains/test_attention_forms.py::test_the_forms_differ_by_rounding_alone",
    ),
    mutant(
        "proj_a takes another form's output",
        'attention_forms.PROJ_A.get(attention, "proj_a")',
        '"proj_a"',
        killed_by="tests/chains/test_attention_forms.py::test_every_node_takes_what_others_made",
    ),
    mutant(
        "the wave is not handed on",
        HANDED_ON,
        HANDED_ON.replace("=wave_tokens", "=WAVE_TOKENS"),
        killed_by=f"{CONTRACT}::test_wrong_integer",
    ),
    mutant(
        "the groups of a launch are not handed on",
        SCHEDULE,
        SCHEDULE.replace("=groups_per_launch", "=GROUPS_PER_LAUNCH"),
        killed_by=f"{CONTRACT}::test_wrong_integer",
    ),
    mutant(
        "the executor is not handed on",
        REST,
        REST.replace("=executor", "=None"),
        killed_by=f"{PLAN}::test_an_order_against_an_edge_shows",
    ),
    mutant(
        "the tiles are not handed on",
        REST,
        REST.replace("=tiles", "=None"),
        killed_by="tests/gates/test_ascend_gate.py::test_an_oversized_tile_is_a_breach_with_both_numbers",
    ),
    mutant(
        "the output goes elsewhere",
        "plan.run(*arguments, out=out)",
        "plan.run(*arguments)",
        killed_by="test_out_is_written_and_returned",
    ),
    mutant(
        "the window is always 128",
        'window=sizes["window"]',
        "window=128",
        killed_by="test_any_chunk_length[5]",
    ),
    mutant(
        "K may not shrink",
        '"G": "wo_a", "R": "wo_a",',
        '"G": "wo_a", "R": "wo_a", "K": "cmp_sparse_indices",',
        killed_by=f"{PLAN}::test_fewer_columns_than_the_plan_has_room_for",
    ),
    mutant(
        "K may grow beyond the workspace",
        '{"K": "cmp_sparse_indices"}',
        "{}",
        killed_by=f"{PLAN}::test_fewer_columns_than_the_plan_has_room_for",
    ),
    mutant(
        "a run takes the plan's weights whatever it is given",
        "{**known, **given, **kwargs}",
        "{**given, **kwargs, **known}",
        killed_by=f"{PLAN}::test_weights_are_bound_once",
        file="dsv4_kernels/contract.py",
    ),
    mutant(
        "an argument may be given twice",
        "or twice or unknown",
        "or unknown",
        killed_by=f"{PLAN}::test_wrong_arguments_of_a_run_are_refused",
        file="dsv4_kernels/contract.py",
    ),
    mutant(
        "an unknown name is ignored",
        "or twice or unknown",
        "or twice",
        killed_by=f"{PLAN}::test_wrong_arguments_of_a_run_are_refused",
        file="dsv4_kernels/contract.py",
    ),
    mutant(
        "the rope part may be wider than the head",
        "contract.require(P <= C,",
        "contract.require(P <= 2 * C,",
        killed_by=f"{CONTRACT}::test_wrong_sizes",
    ),
)
