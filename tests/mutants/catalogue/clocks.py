"""When launches began and ended, and which run is shown."""

from functools import partial

from mutants.mutant import Mutant

TESTS = "tests/commands/test_swimlane.py"
clock = partial(Mutant, file="dsv4_kernels/launcher/clocks.py", tests=TESTS)
command = partial(Mutant, file="dsv4_kernels/commands/swimlane/command.py", tests=TESTS)
picture = partial(
    Mutant,
    file="dsv4_kernels/commands/swimlane/picture.py",
    tests="tests/commands/test_swimlane.py",
)

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
    command(
        "who runs first runs last the next time",
        "for plan in plans:",
        "for plan in plans[:: 1 - 2 * (run % 2)]:",
        killed_by="test_of_the_runs_the_one_of_median_makespan_is_shown",
    ),
    command(
        "runs are queued behind the one that compiles",
        "        if run == 0:\n            devices.synchronize(device)\n",
        "",
        killed_by="test_of_the_runs_the_one_of_median_makespan_is_shown",
    ),
    command(
        "no launch of a trace is critical",
        'cat="critical" if place in timeline.critical_path else "launch"',
        'cat="launch"',
        killed_by="test_a_trace_has_a_process_for_a_schedule_and_a_thread_for_a_lane",
    ),
    command(
        "a trace has a launch's end for its duration",
        "dur=launch.duration,",
        "dur=launch.end,",
        killed_by="test_a_trace_has_a_process_for_a_schedule_and_a_thread_for_a_lane",
    ),
    command(
        "every launch of a table made the makespan",
        '["yes" if critical else ""]',
        '["yes"]',
        killed_by="test_a_table_says_which_launches_made_the_makespan",
    ),
    command(
        "a ratio is to the first schedule",
        "*others, base = timelines",
        "base, *others = timelines",
        killed_by="test_a_verdict_is_by_the_last_schedule_and_says_what_was_timed",
    ),
    picture(
        "bars begin where they end",
        "left=launch.begin / 1e3",
        "left=launch.end / 1e3",
        killed_by="test_bars_are_where_and_as_long_as_launches_were",
    ),
    picture(
        "all bars are on the critical path",
        "if place in timeline.critical_path:  # behind",
        "if timeline.critical_path:  # behind",
        killed_by="test_bars_are_where_and_as_long_as_launches_were",
    ),
    picture(
        "a label is told with those far before it",
        'if fits(" ", end, begin):',
        "if False:",
        killed_by="test_a_label_is_on_its_bar_or_beside_it_or_nowhere",
    ),
    picture(
        "a label lies over the next bar",
        "following.begin / 1e3 if following else span",
        "span",
        killed_by="test_a_label_is_on_its_bar_or_beside_it_or_nowhere",
    ),
    command(
        "every chunk begins where the default one does",
        "layer=layer, tokens=tokens, start=start,",
        "layer=layer, tokens=tokens,",
        killed_by="test_the_command_prints_and_writes_what_ran",
    ),
    picture(
        "the time of the first schedule is all that is shown",
        "span = max(timeline.makespan for timeline in timelines) / 1e3",
        "span = timelines[0].makespan / 1e3",
        killed_by="test_a_picture_has_all_lanes_in_every_panel_and_a_key_to_what_ran"
        "[timelines0-True]",
    ),
    picture(
        "nobody is told what a dark bar is",
        "if any(timeline.critical_path for timeline in timelines):",
        "if False:",
        killed_by="test_a_picture_has_all_lanes_in_every_panel_and_a_key_to_what_ran"
        "[timelines0-True]",
    ),
)
