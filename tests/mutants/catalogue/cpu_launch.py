"""A launch on a CPU: arguments, grid, threads, forks; and how code is generated for it."""

from functools import partial

from mutants.mutant import Mutant

LINALG = "dsv4_kernels/backends/linalg"
PROCESSES = "tests/backends/test_cpu_processes.py"
BACKEND = "tests/backends/test_cpu_backend.py"
COPY = "test_a_copy_moves_its_elements_and_no_others"
grid = partial(Mutant, file=f"{LINALG}/grid.c", tests=PROCESSES)
copies = partial(Mutant, file=f"{LINALG}/runtime.c", tests="tests/backends/test_cpu_copies.py")
driver = partial(Mutant, file=f"{LINALG}/driver.py", tests=BACKEND)
front_half = partial(Mutant, file="dsv4_kernels/backends/front_half.py", tests=BACKEND)
signature = partial(Mutant, file=f"{LINALG}/signature.py", tests=BACKEND)
devices = partial(Mutant, file="dsv4_kernels/device/__init__.py", tests=PROCESSES)

MUTANTS = (
    grid(
        "helpers are not waited for",
        "pthread_join(helpers[--started], 0);",
        "pthread_detach(helpers[--started]);",
        killed_by="test_nothing_writes_after_an_interrupted_launch",
    ),
    grid(
        "one helper too many",
        "started < threads - 1",
        "started < threads",
        killed_by="test_as_many_programs_at_a_time_as_threads",
    ),
    grid(
        "more helpers than there is room for",
        "    if (threads > MAX_THREADS) threads = MAX_THREADS;\n",
        "",
        killed_by="test_more_threads_than_a_launch_takes",
    ),
    grid(
        "programs beside each other alone have threads",
        "programs = (int64_t)x * y * z;",
        "programs = x;",
        killed_by="test_as_many_programs_at_a_time_as_threads",
    ),
    grid(
        "no helpers",
        "started < threads - 1",
        "started < 0",
        killed_by="test_as_many_programs_at_a_time_as_threads",
    ),
    grid(
        "x and y change places",
        "(int32_t)(p % x), (int32_t)(p / x % y)",
        "(int32_t)(p / x % y), (int32_t)(p % x)",
        killed_by=f"{BACKEND}::test_each_program_runs_once",
    ),
    grid(
        "the last program is left out",
        "all = x * y * g->size[2];",
        "all = x * y * g->size[2] - 1;",
        killed_by=f"{BACKEND}::test_each_program_runs_once",
    ),
    copies(
        "a copy takes rows for contiguous that are not",
        "from_stride[outer - 1] == run && to_stride",
        "to_stride",
        killed_by="tests/segments/test_proj_a.py",
    ),
    copies(
        "a copy of no row is one of a row",
        "if (size[d] == 0) return;",
        ";",
        killed_by=COPY,
    ),
    copies(
        "a dimension is copied once",
        "            index[d] = 0;\n",
        "",
        killed_by=COPY,
    ),
    copies(
        "a dimension is not left where it began to be read",
        "            read -= size[d] * from_stride[d] * element_bytes;\n",
        "",
        killed_by=COPY,
    ),
    copies(
        "a dimension is not left where it began to be written",
        "            write -= size[d] * to_stride[d] * element_bytes;\n",
        "",
        killed_by=COPY,
    ),
    copies(
        "a copy has two dimensions at most",
        "MAX_RANK = 8",
        "MAX_RANK = 2",
        killed_by=COPY,
    ),
    driver(
        "one thread, whatever torch has",
        "torch.get_num_threads())",
        "1)",
        killed_by=f"{PROCESSES}::test_as_many_programs_at_a_time_as_threads",
    ),
    driver(
        "Triton may choose it beside an accelerator's",
        "return False",
        "return True",
        killed_by="test_it_is_for_its_own_target_alone",
    ),
    front_half(
        "any target is taken",
        "return target.backend == cls.name",
        "return True",
        killed_by="test_it_is_for_its_own_target_alone",
    ),
    front_half(
        "every part has a front half of its own",
        "@functools.lru_cache(maxsize=64)",
        "@functools.lru_cache(maxsize=0)",
        killed_by="tests/gates/test_ascend_gate.py::"
        "test_what_all_parts_have_in_common_is_compiled_once",
    ),
    front_half(
        "a function's line is looked up for every kernel",
        "functools.cache(code_generator.get_jit_fn_file_line)",
        "code_generator.get_jit_fn_file_line",
        killed_by="test_where_a_function_begins_is_looked_up_once",
    ),
    driver(
        "who is told of a launch hears of its end only",
        "            enter_hook(launch_metadata)\n",
        "            pass\n",
        killed_by="test_hooks_are_called_around_a_launch",
    ),
    driver(
        "who is told of a launch hears of its start only",
        "            exit_hook(launch_metadata)\n",
        "            pass\n",
        killed_by="test_hooks_are_called_around_a_launch",
    ),
    signature(
        "16-bit integers are cut",
        '"i16": ctypes.c_int16',
        '"i16": ctypes.c_int8',
        killed_by="test_narrow_integers",
    ),
    signature(
        "64-bit integers are cut",
        '"i64": ctypes.c_int64',
        '"i64": ctypes.c_int32',
        killed_by="test_wide_and_negative_integers",
    ),
    signature(
        "the size of the grid and the program change places",
        'for three in ("size", "program")',
        'for three in ("program", "size")',
        killed_by="test_each_program_runs_once",
    ),
    devices(
        "a fork does not wait",
        "before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child",
        "after_in_child=_DRIVER.lose_other_threads",
        killed_by="test_a_process_forked_while_another_thread_launches",
    ),
)
