"""The entry point: what it hands to the plan."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(Mutant, file="dsv4_kernels/chains/prefill.py", tests="tests/chains/test_chain.py")

MUTANTS = (
    mutant(
        "always decoupled",
        "schedule=schedule,",
        'schedule="decoupled",',
        killed_by="tests/launcher/test_plan.py::test_the_schedules_differ_by_their_quantisation",
    ),
    mutant(
        "the wave is not handed on",
        "wave_tokens=wave_tokens,",
        "wave_tokens=WAVE_TOKENS,",
        killed_by="test_scratch_does_not_grow_with_the_chunk",
    ),
    mutant(
        "the groups of a launch are not handed on",
        "groups_per_launch=groups_per_launch,",
        "groups_per_launch=GROUPS_PER_LAUNCH,",
        killed_by="tests/segments/test_contract.py::test_wrong_integer",
    ),
    mutant(
        "the executor is not handed on",
        "executor=executor,",
        "executor=None,",
        killed_by="test_scratch_does_not_grow_with_the_chunk",
    ),
    mutant(
        "the output goes elsewhere",
        "plan.run(*arguments, out=out)",
        "plan.run(*arguments)",
        killed_by="test_out_is_written_and_returned",
    ),
)
