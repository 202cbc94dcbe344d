"""The event waits: one dropped, one too many, one for the wrong node."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/launcher/lanes.py", tests="tests/launcher/test_lanes.py"
)

MUTANTS = (
    mutant(
        "the latest of a step's waits is dropped",
        "return tuple(waits)",
        "return tuple(waits[1:])",
        killed_by="test_every_conflict_is_ordered",
    ),
    mutant(
        "all but the latest of a step's waits are dropped",
        "return tuple(waits)",
        "return tuple(waits[:1])",
        killed_by="test_any_schedule_is_enforced_without_a_needless_wait",
    ),
    mutant(
        "lanes do not wait for the caller's work",
        "[{FORK} for _ in nodes]",
        "[set() for _ in nodes]",
        killed_by="test_every_conflict_is_ordered",
    ),
    mutant(
        "the caller does not wait for the last node",
        "wait(_CALLER, set(range(len(nodes))))",
        "wait(_CALLER, set(range(len(nodes) - 1)))",
        killed_by="test_every_conflict_is_ordered",
    ),
    mutant(
        "a node knows what its lane learns later",
        "done[place] = dict(clocks[node.lane])",
        "done[place] = clocks[node.lane]",
        killed_by="test_every_conflict_is_ordered",
    ),
    mutant(
        "a lane that waited knows no more than before",
        "clock[other] = max(last, clock.get(other, last))",
        "clock[other] = min(last, clock.get(other, last))",
        killed_by="test_no_wait_can_be_dropped",
    ),
    mutant(
        "a node one place too early is known to be done",
        "if clock.get(lane_of[place], FORK - 1) < place:",
        "if clock.get(lane_of[place], FORK - 1) < place - 1:",
        killed_by="test_every_conflict_is_ordered",
    ),
    mutant(
        "the earliest node is waited for first",
        "sorted(places, reverse=True)",
        "sorted(places)",
        killed_by="test_no_wait_can_be_dropped",
    ),
    mutant(
        "every node records an event",
        "records=place in awaited",
        "records=True",
        killed_by="test_no_event_is_recorded_for_nobody",
    ),
)
