"""When launches began and ended, and which run is shown."""

from functools import partial

from mutants.mutant import Mutant

TESTS = "tests/commands/test_swimlane.py"
clock = partial(Mutant, file="dsv4_kernels/launcher/clocks.py", tests=TESTS)
command = partial(Mutant, file="dsv4_kernels/commands/swimlane/command.py", tests=TESTS)

MEDIAN = "key=lambda timeline: timeline.makespan)[runs // 2]"

MUTANTS = (
    command(
        "the fastest run is shown",
        MEDIAN,
        "key=lambda timeline: timeline.makespan)[0]",
        killed_by="test_of_the_runs_the_one_of_median_makespan_is_shown",
    ),
    command(
        "the run in the middle is shown",
        f"sorted(timelines, {MEDIAN}",
        "timelines[runs // 2]",
        killed_by="test_of_the_runs_the_one_of_median_makespan_is_shown",
    ),
    command(
        "the run that compiles is one of them",
        "clock.read()[1:]",
        "clock.read()",
        killed_by="test_of_the_runs_the_one_of_median_makespan_is_shown",
    ),
    clock(
        "the makespan is the last launch's",
        "return max(launch.end for launch in self.launches)",
        "return self.launches[-1].end",
        killed_by="test_a_makespan_ends_with_the_last_to_end",
    ),
    clock(
        "a duration is an end",
        "return self.end - self.begin",
        "return self.end",
        killed_by="test_a_makespan_ends_with_the_last_to_end",
    ),
    clock(
        "edges are not waited for",
        "waited_for[edge.after].add(edge.before)",
        "waited_for[edge.after].discard(edge.before)",
        killed_by="test_without_gaps_the_critical_path_is_as_long_as_the_run",
    ),
    clock(
        "the lane is not waited for",
        "                waited_for[place].add(on_lane[node.lane])\n",
        "                pass\n",
        killed_by="test_without_gaps_the_critical_path_is_as_long_as_the_run",
    ),
    clock(
        "times from the last begin",
        "first = min(begin for _, begin, _ in run)",
        "first = max(begin for _, begin, _ in run)",
        killed_by="test_every_launch_is_recorded_once",
    ),
    clock(
        "the second event stands before the launch",
        "        node.run(waves)\n        end.record(stream)",
        "        end.record(stream)\n        node.run(waves)",
        killed_by="test_events_stand_before_and_after_every_launch",
    ),
    clock(
        "event times as microseconds",
        "1e3 * since(end)) for",
        "since(end)) for",
        killed_by="test_events_stand_before_and_after_every_launch",
    ),
    clock(
        "a critical path of launches one after the other",
        "            return ()\n",
        "            pass\n",
        killed_by="test_launches_that_overlap_have_a_critical_path",
    ),
    clock(
        "launches are taken to run in their order of issue",
        "in_time = sorted(self.launches, key=lambda launch: launch.begin)",
        "in_time = self.launches",
        killed_by="test_launches_that_overlap_have_a_critical_path",
    ),
)
