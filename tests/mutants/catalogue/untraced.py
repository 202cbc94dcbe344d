"""What torch.compile does not look into, and what a caller's defaults do not reach."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/device/untraced.py", tests="tests/chains/test_compiled.py"
)
COMPILED = "test_compile_breaks_its_graph_around_an_entry"
DEFAULTS = "test_the_defaults_of_the_caller_change_no_bit"
inputs = partial(
    Mutant,
    file="dsv4_kernels/inputs/prefill.py",
    tests="tests/inputs/test_inputs.py",
    killed_by=DEFAULTS,
)

MUTANTS = (
    mutant(
        "the compiler traces launches",
        "if not torch.compiler.is_compiling():",
        "if True:",
        killed_by=COMPILED,
    ),
    mutant(
        "a function is compiled around anew at every call",
        "if function not in _UNTRACED:",
        "if True:",
        killed_by="tests/test_device.py::test_a_compiler_asks_once_and_calls_a_function_as_it_is",
    ),
    mutant(
        "a segment is traced",
        "    @untraced\n    def __call__",
        "    def __call__",
        file="dsv4_kernels/segments/segment.py",
        killed_by=COMPILED,
    ),
    mutant(
        "a plan's run is traced",
        "    @untraced\n    def run",
        "    def run",
        file="dsv4_kernels/chains/prefill.py",
        killed_by=COMPILED,
    ),
    mutant(
        "dir lists what was asked for only",
        "{*globals(), *__all__}",
        "{*globals()}",
        file="dsv4_kernels/__init__.py",
        killed_by="test_dir_lists_the_public_names",
    ),
    inputs(
        "drawn in the default dtype",
        "generator=generator, dtype=torch.float32)",
        "generator=generator)",
    ),
    inputs(
        "scales in the default dtype",
        "torch.empty(dims.hidden, dtype=torch.float32)",
        "torch.empty(dims.hidden)",
    ),
    inputs(
        "drawn on the default device",
        'with torch.device("cpu"):',
        "if True:",
    ),
)
