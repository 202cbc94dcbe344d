"""Compiled kernels on disk: what makes them stale, what is checked, who compiles C."""

from functools import partial

from mutants.mutant import Mutant

LINALG = "dsv4_kernels/backends/linalg"
TESTS = "tests/backends/test_cpu_cache.py"
cache = partial(Mutant, file=f"{LINALG}/cache.py", tests=TESTS)
compiler = partial(Mutant, file=f"{LINALG}/c_compiler.py", tests=TESTS)
host = partial(Mutant, file=f"{LINALG}/host.py", tests="tests/backends/test_cpu_host.py")
backend = partial(Mutant, file=f"{LINALG}/backend.py", tests=TESTS)
front_half = partial(Mutant, file="dsv4_kernels/backends/front_half.py", tests=TESTS)

SOURCES = "p for p in Path(__file__).parent.iterdir() if p.is_file()"

MUTANTS = (
    *(
        backend(
            f"{name} is not in the key",
            SOURCES,
            f'{SOURCES} and p.name != "{name}"',
            killed_by=f"test_what_was_compiled_by_other_code_is_stale[{name}]",
        )
        for name in ("lowering.py", "matmul.py", "runtime.c", "matmul.h", "grid.c")
    ),
    backend(
        "a missing compiler is found out late",
        "        c_compiler.command()  # said before",
        "        # said before",
        killed_by="test_without_a_compiler_a_compiled_kernel_runs",
    ),
    front_half(
        "the front half is not in the key",
        "for source in (Path(__file__), *self.sources):",
        "for source in self.sources:",
        killed_by="test_what_was_compiled_by_other_code_is_stale[front_half.py]",
    ),
    front_half(
        "the Ascend compiler's version is not in the key",
        'for tool in ("bishengir-opt", "bishengir-compile"):',
        'for tool in ("bishengir-opt",):',
        killed_by="test_what_was_compiled_by_another_compiler_is_stale",
    ),
    front_half(
        "the processor is not in the key",
        "hashlib.sha256(str(self.target).encode())",
        "hashlib.sha256()",
        killed_by="test_another_processor_is_another_kernel",
    ),
    front_half(
        "a compiler of the same size is the same",
        "{binary.st_size} {binary.st_mtime_ns}",
        "{binary.st_size}",
        killed_by="test_what_was_compiled_by_another_compiler_is_stale[bishengir-opt]",
    ),
    front_half(
        "a compiler of the same time is the same",
        "{binary.st_size} {binary.st_mtime_ns}",
        "{binary.st_mtime_ns}",
        killed_by="test_what_was_compiled_by_another_compiler_is_stale[bishengir-opt]",
    ),
    front_half(
        "an error does not name its kernel",
        'raise RuntimeError(\n                f"kernel `{kernel}`, stage',
        'raise RuntimeError(\n                f"stage',
        killed_by="tests/backends/test_cpu_backend.py::test_an_error_in_the_linalg_says_where",
    ),
    cache(
        "only sizes of files are looked at",
        "hashlib.sha256(Path(path).read_bytes()).hexdigest()",
        "str(Path(path).stat().st_size)",
        killed_by="test_a_damaged_kernel_is_compiled_again[_double_kernel.so-scramble]",
    ),
    cache(
        "a damaged file is handed out",
        "return group if as_written else None",
        "return group",
        killed_by="test_a_damaged_runtime_is_compiled_again[runtime.o-empty]",
    ),
    cache(
        "Triton's own records are not read",
        "return super().get_group(filename)  # written by Triton's own",
        "return None",
        killed_by="test_a_cache_that_tritons_own_class_wrote_is_read",
    ),
    cache(
        "an error of the disk is Python's",
        "        with _writable_folder():\n            return super().put(data, filename, binary)",
        "        return super().put(data, filename, binary)",
        killed_by="test_a_disk_that_is_full",
    ),
    compiler(
        "CC is not looked at",
        'os.environ.get("CC", "")',
        'os.environ.get("", "")',
        killed_by="test_cc_is_used_with_its_options",
    ),
    cache(
        "an error names another folder",
        'os.environ.get("TRITON_CACHE_DIR", "").strip() or default',
        "default",
        killed_by="test_a_cache_that_cannot_be_made",
    ),
    cache(
        "an error knows of no other home",
        "os.environ.get('TRITON_HOME', '~')",
        "'~'",
        killed_by="test_a_home_that_cannot_be_written",
    ),
    cache(
        "that there is no home is Python's error",
        "except (OSError, RuntimeError) as error:",
        "except OSError as error:",
        killed_by="test_a_home_that_cannot_be_written",
    ),
    compiler(
        "another compiler's runtime is the same",
        "[*command(), *options]",
        "options",
        killed_by="test_cc_is_used_with_its_options",
    ),
    compiler(
        "another processor's runtime is the same",
        "[*command(), *options]",
        "command()",
        killed_by="test_a_runtime_for_another_processor_is_another",
    ),
    compiler(
        "cc comes before gcc",
        '("gcc", "clang", "cc")',
        '("cc", "clang", "gcc")',
        killed_by="test_the_first_compiler_that_is_there_is_taken",
    ),
    host(
        "a level has some of its flags",
        "if needs <= flags:",
        "if needs & flags:",
        killed_by="test_a_level_is_all_its_flags",
    ),
    host(
        "a level's code has wider vectors",
        '("-mavx2", "-mfma")),',
        '("-mavx512f", "-mfma")),',
        killed_by="test_a_level_is_all_its_flags",
    ),
    host(
        "what stands behind the flags is one",
        '.partition("\\n")[0]',
        "",
        killed_by="test_a_level_is_all_its_flags",
    ),
    compiler(
        "the runtime is compiled for every kernel",
        "if cached := (cache.get_group(_OBJECT) or {}).get(_OBJECT):",
        "if cached := {}.get(_OBJECT):",
        killed_by="test_the_runtime_is_compiled_once",
    ),
    compiler(
        "a header is not in the runtime's key",
        "for source in (*RUNTIME, *_INCLUDED):",
        "for source in RUNTIME:",
        killed_by="test_a_runtime_of_other_code_is_stale[matmul.h]",
    ),
)
