"""The model of the Ascend cores, and who sends launches to it and judges them."""

from functools import partial

from mutants.mutant import Mutant

HIVM = "dsv4_kernels/backends/hivm"
GATE = "dsv4_kernels/gates/ascend"
DAMAGE = "tests/backends/test_ir_damage.py"
MODEL = "tests/backends/test_npu_model.py"
EXECUTE = "tests/gates/test_ascend_execute.py"
order = partial(Mutant, file=f"{HIVM}/order.py", tests=DAMAGE)
machine = partial(Mutant, file=f"{HIVM}/machine.py", tests=DAMAGE)
cube = partial(Mutant, file=f"{HIVM}/cube.py", tests=MODEL)
vector = partial(Mutant, file=f"{HIVM}/vector.py", tests=MODEL)
memory = partial(Mutant, file=f"{HIVM}/memory.py", tests=MODEL)
scalar = partial(Mutant, file=f"{HIVM}/scalar.py", tests=MODEL)
execute = partial(Mutant, file=f"{GATE}/execute.py", tests=MODEL)
against = partial(Mutant, file=f"{GATE}/against_cpu.py", tests=EXECUTE)
option = partial(Mutant, file="tests/conftest.py", tests="tests/test_model_option.py")

# The tests that most of them fail.
MISSING = "test_a_missing_wait_is_a_race"
SEEN = "test_damage_is_seen_by_its_name"
EQUAL = f"{MODEL}::test_a_segment_equals_the_cpu_path_and_nothing_is_found"
STALE = f"{MODEL}::test_columns_that_no_product_was_written_to_reach_nobody"
NOT_ZERO = "test_an_accumulator_whose_loop_does_not_run_is_not_zero"

MUTANTS = (
    order(
        "a write after a read is no race",
        '            self._check(agent, label, view, "write", shadow.reads, "read")\n',
        "",
        killed_by=MISSING,
    ),
    order(
        "a write after a write is no race",
        '            self._check(agent, label, view, "write", shadow.writes, "write")\n',
        "",
        killed_by=MISSING,
    ),
    order(
        "a read after a write is no race",
        '            self._check(agent, label, view, "read", shadow.writes, "write")\n',
        "",
        killed_by=MISSING,
    ),
    order(
        "every pipe is in order by itself",
        "        if agent.in_order:\n",
        "        if True:\n",
        killed_by=MISSING,
    ),
    order(
        "no pipe is in order by itself",
        "        if agent.in_order:\n",
        "        if False:\n",
        killed_by=EQUAL,
    ),
    order(
        "a barrier teaches a pipe nothing",
        "self._known[agent.index, agent.index] = self._done[agent.index]",
        "pass",
        killed_by=EQUAL,
    ),
    order(
        "what is learnt replaces what was known",
        "np.maximum(known, clock, out=known)",
        "known[:] = clock",
        killed_by=EQUAL,
    ),
    order(
        "an instruction knows itself",
        "clock[agent.index] = self._done[agent.index]",
        "clock[:] = self._done",
        killed_by=MISSING,
    ),
    order(
        "one byte that somebody wrote is enough",
        "enough = np.any if partly else np.all",
        "enough = np.any",
        killed_by=SEEN,
    ),
    order(
        "all bytes must have been written, stale columns too",
        "enough = np.any if partly else np.all",
        "enough = np.all",
        killed_by=STALE,
    ),
    order(
        "a workspace holds data from the start",
        'not self.space.is_global or self.space.name == "gm:workspace"',
        "not self.space.is_global",
        killed_by=SEEN,
    ),
    order(
        "another program is not named",
        "self._agents[other].program != agent.program",
        "False",
        killed_by="test_programs_that_share_are_named_so",
    ),
    order(
        "reads of a tensor before its first write are forgotten",
        "            for view, agent, number in self._early:\n",
        "            for view, agent, number in ():\n",
        killed_by="test_a_tensor_that_is_read_and_then_written_needs_order",
    ),
    order(
        "what the launch wrote counts as the caller's",
        "return shadow is not None and shadow.has_writes and",
        "return False and",
        killed_by="test_a_scalar_load_of_what_the_launch_wrote_is_named",
    ),
    machine(
        "a wait teaches nothing",
        "            self._machine.order.learn(self.agents[pipe], clock)\n",
        "            pass\n",
        killed_by=EQUAL,
    ),
    machine(
        "an instruction does not know what the scalar unit knew",
        "        if issued is not None:\n",
        "        if False:\n",
        killed_by=EQUAL,
    ),
    machine(
        "one vector core's flag is enough for a cube core",
        'range(2) if self.kind == "AIC" else range(1)',
        "range(1)",
        killed_by=EQUAL,
    ),
    machine(
        "a missing wait does not take its flag",
        "        if self.raised:\n            self.raised.popleft()\n        else:\n"
        "            self._owed += 1\n",
        "        pass\n",
        killed_by=MISSING,
    ),
    machine(
        "a missing barrier is there",
        "        if line in self._machine.deaf:\n",
        "        if False:\n",
        killed_by=MISSING,
    ),
    machine(
        "flags that are left over are not looked for",
        'self.report.note("flag left", flag, core.name)',
        "pass",
        killed_by="test_a_flag_that_nobody_takes_is_left",
    ),
    machine(
        "a random order is the text's",
        "if self._random is None else",
        "if True else",
        killed_by="test_a_random_order_is_another_order",
    ),
    machine(
        "memories start as zeros",
        "np.full(size, self._poison, np.uint8)",
        "np.zeros(size, np.uint8)",
        killed_by=NOT_ZERO,
    ),
    cube(
        "a product always starts afresh",
        "fresh=bool(p.init) and first",
        "fresh=first",
        killed_by=EQUAL,
    ),
    cube(
        "a product never starts afresh",
        "fresh=bool(p.init) and first",
        "fresh=False",
        killed_by=EQUAL,
    ),
    cube(
        "an operand is given back before it is read",
        '                yield Wait(("MTE2", "MTE1", p.wait_a))\n'
        "            yield self._load_a(part, a)\n"
        "            if last and p.free_a != -1:\n"
        '                yield Set(("MTE1", "MTE2", p.free_a))\n',
        '                yield Wait(("MTE2", "MTE1", p.wait_a))\n'
        "            if last and p.free_a != -1:\n"
        '                yield Set(("MTE1", "MTE2", p.free_a))\n'
        "            yield self._load_a(part, a)\n",
        killed_by=EQUAL,
    ),
    cube(
        "a stale column is a finding in the workspace, and none elsewhere",
        'workspace = gm.space.name == "gm:workspace"',
        'workspace = gm.space.name != "gm:workspace"',
        killed_by=STALE,
    ),
    vector(
        "exp is numpy's",
        '"exp": _exp,',
        '"exp": np.exp,',
        killed_by=EQUAL,
    ),
    vector(
        "sums are pairwise",
        '"sum": _sum,',
        '"sum": np.sum,',
        killed_by=EQUAL,
    ),
    vector(
        "a row behind its end holds what it held",
        "        if tail:\n            whole.put(value if mode == 2 else 0)\n",
        "",
        killed_by="test_a_load_fills_whole_blocks_behind_a_row",
    ),
    vector(
        "padding is zero",
        "value if mode == 2 else 0",
        "0",
        killed_by="test_a_load_fills_whole_blocks_behind_a_row",
    ),
    vector(
        "a load writes no further than its row",
        "tail = -(gm.shape[-1] * size) % ALIGNMENT // size",
        "tail = 0",
        killed_by="test_a_load_fills_whole_blocks_behind_a_row",
    ),
    vector(
        "scratch may lie on an operand",
        "if any(buffer.overlaps(view) for view in (*views, result)):",
        "if False:",
        killed_by=f"{DAMAGE}::{SEEN}",
    ),
    vector(
        "rows may start anywhere",
        "view.offset % bits or any(stride * view.bits % bits for stride in rows)",
        "view.offset % bits",
        killed_by="test_every_row_of_an_operand_is_on_32_bytes",
    ),
    vector(
        "true and false change places",
        "_vector(np.where, 3)",
        "_vector(lambda c, a, b: np.where(c, b, a), 3)",
        killed_by=EQUAL,
    ),
    memory(
        "bf16 truncates",
        "bits + 0x7FFF + ((bits >> 16) & 1)",
        "bits",
        killed_by=EQUAL,
    ),
    memory(
        "bf16 ties go up",
        "bits + 0x7FFF + ((bits >> 16) & 1)",
        "bits + 0x8000",
        killed_by="test_bf16_rounds_as_torch_does",
    ),
    scalar(
        "a loop's result is what it started with",
        "        self._open([results, inner] if results else [], match[1])\n",
        "        self._open([inner] if results else [], match[1])\n",
        killed_by="test_a_loop_hands_on_what_it_carried",
    ),
    scalar(
        "an integer wraps at twice its width",
        "half = 1 << (int(type_[1:]) - 1)",
        "half = 1 << (2 * int(type_[1:]) - 1)",
        killed_by="test_integers_wrap_at_their_width[128]",
    ),
    scalar(
        "a short integer does not wrap",
        'if type_ not in ("i8", "i16", "i32"):',
        'if type_ not in ("i8", "i32"):',
        killed_by="test_integers_wrap_at_their_width[32768]",
    ),
    scalar(
        "a loop hands on one value after the other",
        "if {name for names in targets for name in names} & set(values):",
        "if False:",
        killed_by="test_a_loop_hands_on_values_in_each_others_place",
    ),
    execute(
        "grids are for the part's cores, whatever is said",
        "cores = PARTS[part] if cube_cores is None else cube_cores",
        "cores = PARTS[part]",
        killed_by="test_grids_are_for_the_cores_that_are_said",
    ),
    execute(
        "how to execute is not heeded",
        "driver.how, driver.reports = how, []",
        "driver.how, driver.reports = How(), []",
        killed_by=f"{DAMAGE}::{NOT_ZERO}",
    ),
    execute(
        "reports of an inner one stay",
        "        driver.how, driver.reports = before\n",
        "        pass\n",
        killed_by="test_the_innermost_gets_the_launches_and_outside_the_cpu",
    ),
    execute(
        "a launch that stops leaves no report",
        "            self.reports.append(stopped.report)\n",
        "",
        killed_by="test_the_report_of_a_launch_that_stops_is_in_the_list",
    ),
    execute(
        "an unknown function is met when it is called",
        "            library(name)\n",
        "            pass\n",
        killed_by="test_what_has_no_model_is_an_error_before_anything_is_written",
    ),
    against(
        "findings are no breach",
        "for finding, times in self.findings.items():",
        "for finding, times in ():",
        killed_by="test_a_finding_is_a_breach",
    ),
    against(
        "differences are no breach",
        "if not difference <= allowed:",
        "if False:",
        killed_by="test_a_byte_that_differs_is_a_breach",
    ),
    against(
        "what is not a number is within its bound",
        "if not difference <= allowed:",
        "if difference > allowed:",
        killed_by="test_rounding_is_allowed_up_to_its_bound",
    ),
    against(
        "only the first code is executed",
        "for variant in variants.values():",
        "for variant in [launch]:",
        killed_by="test_every_code_that_compiling_gives_is_executed",
    ),
    against(
        "the model starts from the CPU path's results",
        "            output.copy_(before[name])\n",
        "            output.copy_(want[name])\n",
        killed_by="test_a_launch_that_writes_nothing_is_a_breach",
    ),
    against(
        "a launch that stops has found nothing",
        "            reports.append(stopped.report)\n",
        "            reports.append(Report('', part, 1))\n",
        killed_by="test_a_launch_that_stops_is_a_breach",
    ),
    against(
        "what both schedules have is executed twice",
        "done = {*found}",
        "done = set()",
        killed_by="test_every_segment_is_executed_once_and_keeps_its_bound",
    ),
    Mutant(
        "another code is as good",
        "if executed.code != self.code:",
        "if False:",
        killed_by="test_another_code_than_was_held_is_a_breach",
        file=f"{GATE}/gate.py",
        tests=EXECUTE,
    ),
    option(
        "what the model finds fails no test",
        "    assert not found, ",
        "    assert True, ",
        killed_by="test_a_finding_of_the_model_is_an_error_of_the_test",
    ),
)
