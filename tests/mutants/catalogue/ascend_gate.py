"""The gate's demands, and where it finds what it holds against them."""

from functools import partial

from mutants.mutant import Mutant

FOLDER = "dsv4_kernels/gates/ascend"
TESTS = "tests/gates/test_ascend_breaches.py"
COUNTS = "tests/gates/test_ascend_counts.py"
gate = partial(Mutant, file=f"{FOLDER}/gate.py", tests=TESTS)
memory = partial(Mutant, file=f"{FOLDER}/memory.py", tests=TESTS)
compiler = partial(Mutant, file=f"{FOLDER}/compiler.py", tests=TESTS)
launches = partial(Mutant, file=f"{FOLDER}/launches.py", tests=TESTS)
counts = partial(Mutant, file=f"{FOLDER}/counts.py", tests=COUNTS)
library = partial(Mutant, file=f"{FOLDER}/library.py", tests=COUNTS)
SLICES = "tests/gates/test_slicing.py"
slicing = partial(Mutant, file=f"{FOLDER}/slicing.py", tests=SLICES)
BATCH = "tests/gates/test_batch_gate.py"
cpu = partial(Mutant, file=f"{FOLDER}/against_cpu.py", tests="tests/gates/test_ascend_execute.py")
chunk = partial(Mutant, file="dsv4_kernels/gates/chunk.py", tests=BATCH)
batches = partial(Mutant, file="dsv4_kernels/gates/batches.py", tests=BATCH)
command = partial(Mutant, file="dsv4_kernels/commands/ascend.py", tests=BATCH)
SAID = "tests/commands/test_ascend.py"
LAYERS = "tests/gates/test_layers.py"
layers = partial(Mutant, file=f"{FOLDER}/layers.py", tests=LAYERS)
table = partial(Mutant, file=f"{FOLDER}/layer_table.py", tests=LAYERS)
first = partial(Mutant, file=f"{FOLDER}/first_form.py", tests=LAYERS)

PAST = """\
    if not 0 <= element < values.size:
        name = view.space.name.removeprefix("gm:")
        raise OutOfBounds(f"element {element} of the {values.size} of {name}")
"""
LIMIT = "if max(used, claimed) > limit:"
BUDGETS = "if used > claimed or (exact and used != claimed) or claimed > used * UB_SLACK:"
OF_A_PART = "test_parts_have_the_cores_and_memories_that_the_compiler_knows"
CHUNK = "tests/gates/test_ascend_gate.py"
PARTS = f"tests/gates/test_ascend_gate.py::{OF_A_PART}"

MUTANTS = (
    chunk(
        "segments that nobody asked for are compiled",
        "node.name in SEGMENTS and node.name not in segments:",
        "False:",
        killed_by="test_the_command_has_a_row_for_a_batch",
    ),
    chunk(
        "a batch's resolvers are left out where segments are named",
        "node.name in SEGMENTS and node.name not in segments:",
        "node.name not in segments:",
        killed_by="test_the_command_has_a_row_for_a_batch",
    ),
    batches(
        "the whole model's heads",
        "return whole.of_rank(whole.heads // self.heads)",
        "return whole",
        killed_by="test_the_batches_are_of_every_rank_for_few_tokens_and_many",
    ),
    batches(
        "a batch's tiles are its own",
        "sharers=self.sharers, tiles=tiles,",
        "sharers=self.sharers,",
        killed_by="test_a_breach_in_a_batch_is_the_commands",
    ),
    command(
        "breaches of a batch are not looked at",
        "            console.print(_batch_table(here, part))\n    return _held(rows, console)",
        "            console.print(_batch_table(here, part))\n    return True",
        killed_by="test_a_breach_in_a_batch_is_the_commands",
    ),
    command(
        "a batch is said to be executed",
        "if batch and (execute or layers or save is not None):",
        "if batch and (layers or save is not None):",
        killed_by="test_a_batch_is_only_compiled",
    ),
    batches(
        "no layer of windows only is decoded",
        '    Batch(64, 64, "SWA"),\n',
        "",
        killed_by="test_the_batches_are_of_every_rank_for_few_tokens_and_many",
    ),
    batches(
        "a batch whose tokens share KV is called as one where they do not",
        'shared = f", {self.sharers} a tile" if self.sharers > 1 else ""',
        'shared = ""',
        killed_by="test_the_batches_are_of_every_rank_for_few_tokens_and_many",
    ),
    command(
        "nobody who asks for no part has an A3 held",
        'default=["Ascend910B3", "Ascend910_9392"]',
        'default=["Ascend910B3"]',
        killed_by=f"{SAID}::test_every_preset_is_compiled_for_every_part",
    ),
    command(
        "the least that a kernel of a batch moves is its segment's",
        "max(shares):.2f",
        "min(shares):.2f",
        killed_by=f"{SAID}::test_a_batch_has_a_row_of_what_its_kernels_need",
    ),
    command(
        "bytes on a path are those of another",
        "moved = (c.gm_to_l1, c.gm_to_ub, c.ub_to_gm, c.l0c_to_gm)",
        "moved = (c.gm_to_ub, c.gm_to_l1, c.ub_to_gm, c.l0c_to_gm)",
        killed_by=f"{SAID}::test_the_tables_have_what_was_found",
    ),
    command(
        "races are other findings too",
        "str(sum(found.findings.values()) - found.races)",
        "str(sum(found.findings.values()))",
        killed_by=f"{SAID}::test_the_tables_have_what_was_found",
    ),
    command(
        "no part but the first is executed",
        "    for preset, part in dict.fromkeys((row.preset, row.part) for row in rows):",
        "    for preset, part in [(rows[0].preset, rows[0].part)]:",
        killed_by=f"{SAID}::test_the_tables_have_what_was_found",
    ),
    Mutant(
        "the last setting of a segment's tiles is the only one",
        "current = chosen.get(segment, own[segment])",
        "current = own[segment]",
        killed_by="test_settings_of_a_segment_add_up",
        file="dsv4_kernels/gates/options.py",
        tests="tests/gates/test_options.py",
    ),
    Mutant(
        "several jobs are done here",
        "if len(jobs) == 1:\n        yield work(jobs[0])",
        "if jobs:\n        yield from map(work, jobs)",
        killed_by="test_several_jobs_have_processes_of_their_own_and_keep_their_order",
        file="dsv4_kernels/gates/options.py",
        tests="tests/gates/test_options.py",
    ),
    gate(
        "any core will do",
        "if plan.core != compiled.tiles.core:",
        "if plan.core not in ('AIC', 'AIV', 'MIX'):",
        killed_by="test_the_wrong_core_is_one",
    ),
    gate(
        "a retry is no breach",
        "for retry in compiled.launch.retries:",
        "for retry in ():",
        killed_by="test_a_retry_of_the_compiler_is_one",
    ),
    gate(
        "what is planned need not fit",
        LIMIT,
        "if claimed > limit:",
        killed_by="test_more_than_the_part_has_is_one_planned_or_budgeted",
    ),
    gate(
        "what is budgeted need not fit",
        LIMIT,
        "if used > limit:",
        killed_by="test_more_than_the_part_has_is_one_planned_or_budgeted",
    ),
    gate(
        "what fits exactly does not",
        LIMIT,
        "if max(used, claimed) >= limit:",
        killed_by="test_more_than_the_part_has_is_one_planned_or_budgeted",
    ),
    gate(
        "the compiler may plan more than was budgeted",
        BUDGETS,
        "if (exact and used != claimed) or claimed > used * UB_SLACK:",
        killed_by="test_a_budget_of_the_unified_buffer_is_above_by_a_tenth_at_most",
    ),
    gate(
        "a budget of the cube may be above",
        BUDGETS,
        "if used > claimed or claimed > used * UB_SLACK:",
        killed_by="test_a_budget_of_the_cube_is_exact",
    ),
    gate(
        "a budget of the unified buffer may be anything above",
        BUDGETS,
        "if used > claimed or (exact and used != claimed):",
        killed_by="test_a_budget_of_the_unified_buffer_is_above_by_a_tenth_at_most",
    ),
    gate(
        "twice the slack",
        "UB_SLACK = 1.1",
        "UB_SLACK = 1.2",
        killed_by="test_a_budget_of_the_unified_buffer_is_above_by_a_tenth_at_most",
    ),
    gate(
        "a single-buffered load is no breach",
        "for buffer in plan.single_loads:",
        "for buffer in ():",
        killed_by="test_a_single_buffered_load_is_one_for_a_cube_only",
    ),
    gate(
        "vector kernels load into L1 in turns",
        'if compiled.tiles.core != "AIV":',
        "if True:",
        killed_by="test_a_single_buffered_load_is_one_for_a_cube_only",
    ),
    gate(
        "one vector core may do all the storing",
        "    if plan.one_vector_core:",
        "    if False:",
        killed_by="test_one_vector_core_of_a_pair_is_one",
    ),
    gate(
        "any number of scalar loops will do",
        "if counts.scalar_loops:",
        "if False:",
        killed_by="test_a_scalar_loop_is_one",
    ),
    gate(
        "casts that do nothing are no breach",
        "if counts.unaligned_casts:",
        "if False:",
        killed_by="test_an_unaligned_cast_of_bf16_is_one",
    ),
    gate(
        "cube cores are not compared",
        "if (plan.cube_cores, plan.vector_cores) != (cube_cores, 2 * cube_cores):",
        "if plan.vector_cores != 2 * plan.cube_cores:",
        killed_by="test_other_cores_than_assumed_are_one",
    ),
    gate(
        "vector cores are not compared",
        "if (plan.cube_cores, plan.vector_cores) != (cube_cores, 2 * cube_cores):",
        "if plan.cube_cores != cube_cores:",
        killed_by="test_other_cores_than_assumed_are_one",
    ),
    gate(
        "a refusal has no breach",
        "(refusal,))",
        "())",
        killed_by="test_an_overflow_is_in_bytes",
    ),
    gate(
        "retries are not in the row",
        "retries=launch.retries,",
        "retries=(),",
        killed_by="test_what_the_compiler_said_is_held_against_the_kernel",
    ),
    memory(
        "one vector core is never seen",
        'one_vector_core="limit_sub_block_id0" in hivm',
        'one_vector_core="limit_sub_block_id1" in hivm',
        killed_by="test_the_text_of_the_compiler_is_read",
    ),
    memory(
        "every load takes turns",
        "single.append(buffers[target][1])",
        "doubled.append(buffers[target][1])",
        killed_by="test_a_load_that_does_not_take_turns_is_seen",
    ),
    memory(
        "views of a buffer are lost",
        "origin[alias[1]] = origin.get(alias[2], alias[2])",
        "origin[alias[1]] = alias[2]",
        killed_by="test_a_load_that_does_not_take_turns_is_seen",
    ),
    memory(
        "a pair of buffers is the first of them",
        "origin[pair[1]] = pair[1]",
        "origin[pair[1]] = pair[2]",
        killed_by="test_the_rows_of_a_compiled_kernel_are_its_own",
    ),
    memory(
        "limits in bits",
        "int(bits) // 8 for name",
        "int(bits) for name",
        killed_by="test_the_text_of_the_compiler_is_read",
    ),
    memory(
        "sizes in bits",
        '-(-elements * ELEMENT_BITS[match["type"]] // 8)',
        'elements * ELEMENT_BITS[match["type"]]',
        killed_by="test_the_end_of_a_buffer_is_its_place_and_its_size",
    ),
    memory(
        "a buffer's place is not counted",
        "end = constants[match[2]] + -",
        "end = 0 * constants[match[2]] + -",
        killed_by="test_the_end_of_a_buffer_is_its_place_and_its_size",
    ),
    memory(
        "cube and vector cores are mixed up",
        'cube_cores=cores["CUBE"],\n        vector_cores=cores["VECTOR"],',
        'cube_cores=cores["VECTOR"] // 2,\n        vector_cores=cores["VECTOR"],',
        killed_by="test_the_text_of_the_compiler_is_read",
    ),
    compiler(
        "retries are not read",
        "return final.read_text(), _RETRY.findall(done.stderr)",
        "return final.read_text(), []",
        killed_by="test_a_retry_is_read_off_the_compilers_words",
    ),
    compiler(
        "every note is a retry",
        r'r"\[NOTE\] (.*retrying compilation.*)"',
        r'r"\[NOTE\] (.*)"',
        killed_by="test_a_retry_is_read_off_the_compilers_words",
    ),
    compiler(
        "no option of the launch reaches the compiler",
        "        if value is not None:\n            flags",
        "        if False:\n            flags",
        killed_by="test_a_retry_is_read_off_the_compilers_words",
    ),
    compiler(
        "an overflow is told in bits",
        "int(found[2]) // 8, int(found[3]) // 8",
        "int(found[2]), int(found[3])",
        killed_by="test_an_overflow_is_in_bytes",
    ),
    compiler(
        "errors are hidden among the rest",
        'return "\\n".join(lines) or stderr',
        "return stderr",
        killed_by="test_without_a_text_the_errors_are_the_refusal",
    ),
    compiler(
        "an option of triton-ascend has no flag here",
        '    "unit_flag": "enable-hivm-unit-flag-sync",\n',
        "",
        killed_by="test_the_flags_are_those_that_triton_ascend_gives",
    ),
    compiler(
        "a refusal without an error has no words",
        'return "\\n".join(lines) or stderr',
        'return "\\n".join(lines)',
        killed_by="test_without_a_text_the_errors_are_the_refusal[killed-killed]",
    ),
    compiler(
        "who compiles again has the retries of before",
        "hivm=hivm, retries=tuple(retries), seconds",
        "hivm=hivm, seconds",
        killed_by="test_a_retry_is_read_off_the_compilers_words",
    ),
    compiler(
        "the compiler sees which cores a kernel was made for",
        """re.sub(r', mix_mode\\s*=\\s*"[^"]*"', "", linalg)""",
        "linalg",
        killed_by="test_a_retry_is_read_off_the_compilers_words",
    ),
    memory(
        "of a pair's functions the last counts",
        "used[space] = max(used[space], end)",
        "used[space] = end",
        killed_by="test_a_plan_is_that_of_both_functions_of_a_pair",
    ),
    memory(
        "no workspace",
        "workspace=int(workspace[1]) if workspace else 0",
        "workspace=0",
        killed_by="test_a_plan_is_that_of_both_functions_of_a_pair",
    ),
    launches(
        "a part with other cores",
        '(("Ascend910B3", "Ascend910B4"), 20)',
        '(("Ascend910B3", "Ascend910B4"), 24)',
        killed_by=PARTS,
    ),
    counts(
        "a vector function is computed for one core of a pair",
        "range(2 if function.paired else 1)",
        "range(1)",
        killed_by="test_qk_softmax_pv",
    ),
    counts(
        "loops over elements are not counted",
        "counts.scalar_loops += function.element_loops",
        "counts.scalar_loops += 0",
        killed_by="test_a_loop_over_elements_is_seen",
    ),
    slicing(
        "casts are looked at where they come from only",
        "for view in values[:2])",
        "for view in values[:1])",
        tests=COUNTS,
        killed_by="test_casts_of_bf16_off_32_bytes_are_counted",
    ),
    library(
        "casts of every type must be aligned",
        'name.startswith("vcast_") and "bfloat16_t" in name',
        'name.startswith("vcast_")',
        killed_by="test_casts_of_bf16_off_32_bytes_are_counted",
    ),
    counts(
        "one program stands for all",
        "for program in range(grid):",
        "for program in range(1):",
        killed_by="test_loops_maps_and_sizes",
    ),
    *(
        gate(
            f"a launch is taken for one with other {what}",
            "asked = (launch.code, launch.grid, tuple(arguments.items()), tuple(loaded.items()))",
            f"asked = ({rest})",
            killed_by=f"{COUNTS}::test_a_launch_is_counted_for_its_own_grid_and_values",
        )
        for what, rest in (
            ("code", "launch.grid, tuple(arguments.items()), tuple(loaded.items())"),
            ("programs", "launch.code, tuple(arguments.items()), tuple(loaded.items())"),
            ("arguments", "launch.code, launch.grid, tuple(loaded.items())"),
            ("loaded values", "launch.code, launch.grid, tuple(arguments.items())"),
        )
    ),
    counts(
        "what is unknown counts nothing",
        "        _require_known(function)\n",
        "",
        killed_by="test_what_is_unknown_is_an_error",
    ),
    chunk(
        "only the first launch of a run is recorded",
        "if code is not None and code not in known:",
        "if code is not None and not recorded:",
        killed_by="test_a_batch_keeps_its_claims",
    ),
    chunk(
        "a batch is recorded in one form",
        "for schedule, form, out_dtype in variants_on(target.kind):\n            if sharers",
        "for schedule, form, out_dtype in variants_on(target.kind)[:2]:\n            if sharers",
        killed_by="test_a_batch_keeps_its_claims",
    ),
    chunk(
        "a batch is asked to share KV in forms that cannot",
        "if sharers > 1 and form not in attention.SHARING[target.kind]:",
        "if False:",
        killed_by="test_a_batch_is_asked_for_in_every_form_that_its_family_has[cuda]",
    ),
    chunk(
        "one schedule",
        "by_schedule = [(schedule, first) for schedule in SCHEDULES]",
        "by_schedule = [(schedule, first) for schedule in [*SCHEDULES][:1]]",
        killed_by="test_a_batch_is_asked_for_in_every_form_that_its_family_has[npu]",
    ),
    cpu(
        "the last code's difference is the worst",
        "worst = max(differences.get(name, 0.0), difference(output, want[name]))",
        "worst = difference(output, want[name])",
        killed_by="test_the_worst_of_all_codes_is_what_was_found",
    ),
    cpu(
        "a code's output begins with what the code before it made",
        "            output.copy_(before[name])\n",
        "            pass\n",
        killed_by="test_the_worst_of_all_codes_is_what_was_found",
    ),
    cpu(
        "races of the first code only",
        'races=sum(report.kinds()["race"] for report in reports)',
        'races=reports[0].kinds()["race"]',
        killed_by="test_the_worst_of_all_codes_is_what_was_found",
    ),
    cpu(
        "the last launch's difference is the kernel's",
        "differences[name] = max(differences.get(name, 0.0), difference)",
        "differences[name] = difference",
        killed_by="test_launches_of_a_kernel_add_up",
    ),
    gate(
        "stores are no instructions",
        "(counts.dma + matmuls) / (counts.gm_to_l1 / 1024)",
        "3 * matmuls / (counts.gm_to_l1 / 1024)",
        killed_by=f"{CHUNK}::test_a_k_tile_facts",
    ),
    launches(
        "a vector core for a cube core",
        'return Target("npu", part, PARTS[part], 2 * PARTS[part])',
        'return Target("npu", part, PARTS[part], PARTS[part])',
        killed_by=PARTS,
    ),
    chunk(
        "no output in fp32",
        "dtypes = (torch.bfloat16, torch.float32)",
        "dtypes = (torch.bfloat16, torch.bfloat16)",
        killed_by="test_a_batch_keeps_its_claims",
    ),
    chunk(
        "the first launch of a kernel stands for all",
        "        known = {*recorded}\n",
        "        known = recorded\n",
        killed_by=f"{CHUNK}::test_the_launches_are_those_of_the_default_chain",
    ),
    chunk(
        "an output in fp32 is half as many bytes",
        'minimum[code] += waves[node.wave]["attn_out"].nbytes // 2',
        "minimum[code] += 0",
        killed_by=f"{CHUNK}::test_an_output_in_fp32_is_the_only_difference_of_its_kernels",
    ),
    gate(
        "a kernel may be compiled for each launch",
        "for launch in compiled.launches}) > 1:",
        "for launch in compiled.launches}) > 2:",
        killed_by="test_a_second_code_for_a_launch_is_one",
    ),
    counts(
        "one launch stands for all",
        "mine[name] + others[name] for name",
        "mine[name] for name",
        killed_by="test_proj_a",
    ),
    counts(
        "the first element stands for all",
        "return values.item(element)",
        "return values.item(0)",
        killed_by="test_a_loaded_element_is_its_own",
    ),
    counts(
        "two elements are one",
        "element = view.start(index) // view.bits",
        "element = view.start(index) // view.bits // 2 * 2",
        killed_by="test_a_loaded_element_is_its_own",
    ),
    counts(
        "a load past an array is any element",
        PAST + "    return values.item(element)",
        "    return values.item(element % values.size)",
        killed_by="test_an_element_that_an_array_lacks_is_an_error[FLASH-runs_ptr]",
    ),
    counts(
        "a load before an array is one from its end",
        "if not 0 <= element < values.size:",
        "if element >= values.size:",
        killed_by="test_an_element_before_an_array_is_an_error",
    ),
    slicing(
        "a transfer is of fp32, whatever is moved",
        ".format(*views[view])",
        '.format(*views[view]._replace(type="f32"))',
        killed_by="test_a_slice_counts_as_the_whole_does[types of one size]",
    ),
    slicing(
        "a view keeps the type of that which it is one of",
        "type_ or source.type, elements)",
        "source.type, elements)",
        killed_by="test_a_slice_counts_as_the_whole_does[types of one size]",
    ),
    slicing(
        "all that is moved goes through the workspace",
        'yield "({!r}, {!r}, {})".format(*views[view])',
        'yield "({!r}, {!r}, {})".format(*views[view]._replace(space="gm:workspace"))',
        killed_by="test_a_slice_counts_as_the_whole_does[types of one size]",
    ),
    slicing(
        "one number of trips or columns makes a size",
        '" * ".join([*dynamic, elements])',
        '" * ".join([dynamic[0], elements])',
        killed_by="test_a_slice_counts_as_the_whole_does[a size of two numbers]",
    ),
    slicing(
        "a matmul's sizes begin one operand early",
        "values[3:6]",
        "values[2:5]",
        killed_by="test_a_slice_counts_as_the_whole_does[a matmul of a trip's size]",
    ),
    slicing(
        "the first of two buffers stands for both",
        "    if a != b:\n",
        "    if False:\n",
        killed_by="test_a_slice_counts_as_the_whole_does[buffers that differ in size]",
    ),
    slicing(
        "what trips hand on is the same in all",
        "{*loop.sets, *_sets(loop.body)}",
        "{*loop.sets}",
        killed_by="test_a_slice_counts_as_the_whole_does[what a trip hands to the next]",
    ),
    slicing(
        "what follows a loop is counted as often",
        '*body, Statement(f"times //= {trips}")]',
        "*body]",
        killed_by="test_a_slice_counts_as_the_whole_does[of loops in loops]",
    ),
    slicing(
        "a loop has a trip more",
        'f"{trips} = len(',
        'f"{trips} = 1 + len(',
        killed_by="test_a_slice_counts_as_the_whole_does[trips that are the same]",
    ),
    slicing(
        "a trip hands on what is needed after the loop only",
        "if not statement.is_loop or handed & needed == before:",
        "if True:",
        killed_by="test_a_slice_counts_as_the_whole_does[what only a later trip needs, in a loop]",
    ),
    slicing(
        "an element of an array is its view's first",
        'f"element({view}, {at}, {value})"',
        'f"element({view}, (0, ), {value})"',
        killed_by="test_a_slice_counts_as_the_whole_does[what is loaded]",
    ),
    slicing(
        "a load that nobody needs may miss its array",
        "what = statement.what if space in arrays else None",
        "what = None",
        tests=COUNTS,
        killed_by="test_an_element_before_an_array_is_an_error",
    ),
    counts(
        "loads of a core's own memory are counted",
        "times * is_global(operands[0])",
        "times",
        tests=SLICES,
        killed_by="test_a_slice_counts_as_the_whole_does[what is loaded from a core's own memory]",
    ),
    slicing(
        "a view is what it was first",
        "if one != other:",
        "if False:",
        killed_by="test_a_view_of_which_too_little_is_known_is_an_error[body0-v_r]",
    ),
    slicing(
        "names of one block are needed in another",
        "needed.difference_update(name for statement in own for name in statement.sets)",
        "pass",
        killed_by="test_what_changes_no_count_is_not_run[body3-3]",
    ),
    slicing(
        "what a condition hands out comes from before",
        "own.update(_handed(statement.body))",
        "pass",
        killed_by="test_what_changes_no_count_is_not_run[body2-3]",
    ),
    layers(
        "links are not looked at",
        "count_launches(kernel, loaded)",
        "count_launches(kernel)",
        killed_by="test_the_fused_form_is_held_to_what_its_gather_does[layer2-0.4-0.05-0.05]",
    ),
    layers(
        "every token has marks of its own, whoever shares them",
        "resolved(inputs, layer.sharers, TAIL",
        "resolved(inputs, 1, TAIL",
        killed_by="test_the_printed_table",
    ),
    layers(
        "small pages are large ones",
        "replace(dims, page_rows=SMALL_PAGE)",
        "dims",
        killed_by="test_the_printed_table",
    ),
    layers(
        "nothing is out of order",
        "if self.any_order:",
        "if False:",
        killed_by="test_the_links_are_those_of_the_layer",
    ),
    layers(
        "unused slots are shuffled among the others",
        "order = (places + (indices < 0)).argsort(dim=1)",
        "order = places.argsort(dim=1)",
        killed_by="test_any_order_names_the_same_rows",
    ),
    layers(
        "the fixture has as many columns as the model",
        'FIXTURE = Layer("CSA", 0, picks=256)',
        'FIXTURE = Layer("CSA", 0)',
        killed_by="test_of_the_seeds_fixture_153_blocks_of_384_are_live",
    ),
    layers(
        "attention's bytes are the whole chain's",
        'if "wo_a" in node.reads:',
        'if "wo_c" in node.reads:',
        killed_by="test_lanes_move_no_more_than_their_bounds[layer0-0.8-1.0-0.25]",
    ),
    table(
        "lanes may move as many bytes as the first form, nothing linked",
        '(_UNLINKED, "lanes"): Bound(0.80,',
        '(_UNLINKED, "lanes"): Bound(1.00,',
        killed_by="test_lanes_move_no_more_than_their_bounds[layer0-0.8-1.0-0.25]",
    ),
    table(
        "a linked window saves no DMA",
        '(_PICKS, "lanes"): Bound(0.80, 0.85,',
        '(_PICKS, "lanes"): Bound(0.80, 1.0,',
        killed_by="test_lanes_move_no_more_than_their_bounds[layer1-0.8-0.85-0.25]",
    ),
    table(
        "the fused form's gather may load twice as much",
        '(_ALL_SLOTS, "fused"): Bound(None, 0.05, 0.05)',
        '(_ALL_SLOTS, "fused"): Bound(None, 0.05, 0.10)',
        killed_by="test_the_fused_form_is_held_to_what_its_gather_does[layer3-0.4-0.05-0.05]",
    ),
    table(
        "dead blocks may cost three quarters",
        '(FIXTURE, "fused"): Bound(0.50, 0.50, None)',
        '(FIXTURE, "fused"): Bound(0.75, 0.50, None)',
        killed_by="test_the_fused_form_is_held_to_what_its_gather_does[layer4-0.5-0.5-None]",
    ),
    table(
        "bounds are printed and not held",
        "if bound is not None and share > bound:",
        "if bound is not None and share > 2 * bound:",
        killed_by="test_what_is_above_its_bound_is_a_breach",
    ),
    command(
        "a layer above its bounds is no failure",
        "        return not broken\n",
        "        return True\n",
        killed_by=f"{LAYERS}::test_what_is_above_its_bound_is_a_breach",
    ),
    first(
        "dead slots were not stored",
        "gather_dma=rows + live,",
        "gather_dma=2 * live,",
        killed_by="test_a_dead_slot_of_the_first_form_was_stored_but_not_loaded",
    ),
    first(
        "the bias had its rows for nothing",
        "scalar_loads=5 * rows",
        "scalar_loads=3 * rows",
        killed_by="test_the_first_form_as_it_was_counted[FLASH-640-moved1]",
    ),
    Mutant(
        "a row is a column of every token that names it",
        "columns = dict.fromkeys(raw for own in tile for raw in own if raw >= 0)",
        "columns = [raw for own in tile for raw in own if raw >= 0]",
        killed_by="test_the_windows_of_a_tile_are_its_tokens_more",
        file="dsv4_kernels/inputs/shared.py",
        tests="tests/inputs/test_shared.py",
    ),
    Mutant(
        "a tile's slots stand between its windows",
        "columns = sorted(columns, key=lambda raw: raw >= first_slot)",
        "columns = sorted(columns, key=lambda raw: raw < 0)",
        killed_by="test_every_token_names_what_it_named[HCA-700-8]",
        file="dsv4_kernels/inputs/shared.py",
        tests="tests/inputs/test_shared.py",
    ),
    Mutant(
        "every token attends to all that its tile names",
        "raw if raw in own else -1 for raw in columns",
        "raw for raw in columns",
        killed_by="test_every_token_names_what_it_named[SWA-200-8]",
        file="dsv4_kernels/inputs/shared.py",
        tests="tests/inputs/test_shared.py",
    ),
    Mutant(
        "a narrowing fixpipe is counted at its accumulator's width",
        "target.type if is_global(target.space) else source.type",
        "source.type",
        killed_by="test_the_printed_table",
        file="dsv4_kernels/gates/ascend/counts.py",
        tests="tests/gates/test_layers.py",
    ),
)
