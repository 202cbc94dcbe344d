"""The demo: what it draws, what its references take, what it lets pass."""

from functools import partial

from mutants.mutant import Mutant

TESTS = "tests/commands/test_demo.py"
case = partial(Mutant, file="dsv4_kernels/commands/study/cases.py", tests=TESTS)
defaults = partial(
    Mutant,
    file="dsv4_kernels/commands/options.py",
    tests="tests/commands/test_command_line.py",
)
command = partial(Mutant, file="dsv4_kernels/commands/study/demo.py", tests=TESTS)
step = partial(
    Mutant, file="dsv4_kernels/inputs/requests.py", tests="tests/inputs/test_requests.py"
)
resolver = partial(Mutant, file="reference/resolve_requests.py", tests=TESTS)

MUTANTS = (
    defaults(
        "another layer is drawn",
        'default="CSA"',
        'default="HCA"',
        killed_by="test_what_is_taken_where_nothing_is_said",
    ),
    defaults(
        "another seed is drawn from",
        '"--seed", type=int, default=0',
        '"--seed", type=int, default=1',
        killed_by="test_what_is_taken_where_nothing_is_said",
    ),
    defaults(
        "a file is a folder",
        "parent.is_dir()",
        "parent.exists()",
        killed_by="test_what_is_taken_where_nothing_is_said",
    ),
    case(
        "a batch's tables are judged as if of the other layout",
        "buffers[name][:, ::2]",
        "buffers[name]",
        killed_by="test_the_demo_holds[--decode-CSA]",
    ),
    case(
        "a batch's tables are judged as half as wide",
        "torch.cat([buffers[name][:, ::2]] * 2, dim=1)",
        "buffers[name][:, ::2]",
        killed_by="test_the_demo_holds[--decode-CSA]",
    ),
    case(
        "a mixed step is a decode step",
        "(mixed_step if mixed else decode_step)",
        "(decode_step if mixed else decode_step)",
        killed_by="test_the_demo_holds[--batch-CSA]",
    ),
    command(
        "a segment's verdict does not count",
        "holds = all(verdict.holds for row in rows.values() for verdict in row.verdicts)",
        "holds = True",
        killed_by="test_a_segment_that_fails_by_itself_fails_the_demo[--decode]",
    ),
    command(
        "a run that differs does not count",
        "    holds &= torch.equal(out, checked)\n",
        "",
        killed_by="test_a_run_that_differs_fails_the_demo",
    ),
    command(
        "a verdict without a bound is not the worst",
        "(not verdict.holds, verdict.used)",
        "verdict.used",
        killed_by="test_a_segment_s_worst_verdict_is_shown",
    ),
    command(
        "the last wave's time is a segment's",
        "rows[node.name].seconds += ",
        "rows[node.name].seconds = ",
        killed_by="test_the_demo_holds[-CSA]",
    ),
    command(
        "one draft where none is asked for",
        "mtp=1 if mtp is None else mtp",
        "mtp=mtp or 1",
        killed_by="test_the_demo_of_other_drafts[--decode-0]",
    ),
    case(
        "live requests are called padding",
        "request.length == 0 for",
        "request.length > 0 for",
        killed_by="test_the_demo_of_other_drafts[--decode-0]",
    ),
    command(
        "a hand-over's verdict does not count",
        "within = all(verdict.holds for verdict in judged.verdicts.values())",
        "within = True",
        killed_by="test_a_code_that_changes_on_its_way_fails_the_chain[--decode]",
    ),
    command(
        "drafts of a chunk are ignored without a word",
        "if mtp is not None and not (decode or batch):",
        "if False:",
        killed_by="tests/commands/test_command_line.py::"
        "test_a_wrong_call_is_one_line[demo --mtp 2]",
    ),
    step(
        "a graph has no padding",
        "[Request(0, each)] * padded",
        "[Request(each, each)] * padded",
        killed_by="test_a_decode_step_is_one_graph[128-1]",
    ),
    step(
        "prompts come first",
        "for first, part in zip((0, anywhere, start), parts, strict=True):\n        if part:\n"
        "            batch.append(",
        "for first, part in zip((0, anywhere, start), parts, strict=True):\n        if part:\n"
        "            batch.insert(0, ",
        killed_by="test_a_mixed_step_decodes_first[128-1]",
    ),
    resolver(
        "a batch's pages lie without a gap",
        "row // B * page_numbers(pools[pool])",
        "row // B * B",
        killed_by="test_the_demo_holds[--decode-CSA]",
    ),
    resolver(
        "a batch's lists are not looked at",
        "cmp_indices[t] if listed else None",
        "None",
        killed_by="test_the_demo_holds[--decode-CSA]",
    ),
)
