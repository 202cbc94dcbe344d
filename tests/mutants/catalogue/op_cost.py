"""The benches of the operators' host time and of segments."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant,
    file="bench/op_cost.py",
    tests="tests/bench/test_op_cost.py",
    killed_by="test_both_calls_launch_alike_and_run_no_kernel",
)

MUTANTS = (
    mutant(
        "kernels are left in",
        'devices.route("cpu", target, driver), devices.on(inputs.q):',
        "devices.on(inputs.q):",
    ),
    mutant(
        "a run is timed twice a turn",
        "plan.run(*args, out=out),",
        "(plan.run(*args, out=out), plan.run(*args, out=out)),",
    ),
    mutant(
        "segments of attention in lanes have no buffers to be timed on",
        '    dict(attention="lanes"), dict',
        "    dict",
        file="bench/workloads.py",
        tests="tests/bench/test_bench.py",
        killed_by="test_every_segment_is_in_a_form_that_a_bench_knows",
    ),
)
