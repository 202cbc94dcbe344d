"""What the CPU's machine code is made of, and what it may do with a product and a sum."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant,
    file="dsv4_kernels/backends/linalg/lowering.py",
    tests="tests/backends/test_cpu_backend.py",
)

MUTANTS = (
    mutant(
        "every operation on elements is a loop of its own",
        '    "--linalg-fuse-elementwise-ops",\n',
        "",
        killed_by="test_what_is_done_to_each_element_is_one_loop",
    ),
    mutant(
        "a broadcast is a loop of its own",
        '    "--linalg-generalize-named-ops",\n',
        "",
        killed_by="test_what_is_done_to_each_element_is_one_loop",
    ),
    mutant(
        "LLVM copies the body of a loop as often as it likes",
        "return _not_unrolled(_internal(lowered))",
        "return _internal(lowered)",
        killed_by="test_what_is_done_to_each_element_is_one_loop",
    ),
    mutant(
        "a kernel is compiled once more for nobody",
        "return _not_unrolled(_internal(lowered))",
        "return _not_unrolled(lowered)",
        killed_by="test_a_kernel_is_compiled_once",
    ),
    mutant(
        "a branch forward is taken for a loop",
        " and branch[1] in passed",
        "",
        killed_by="test_what_is_done_to_each_element_is_one_loop",
    ),
    mutant(
        "buffers are never freed",
        '    "--buffer-deallocation-pipeline",\n',
        "",
        killed_by="test_a_launch_gives_its_memory_back",
    ),
    mutant(
        "no function of libm is called",
        '    "--convert-math-to-libm",\n',
        "",
        killed_by="test_a_function_of_libm",
    ),
    mutant(
        "a product and a sum become one instruction",
        'translate_to_asm(str(module), target.triple, target.name, "", [], False, True)',
        'translate_to_asm(str(module), target.triple, target.name, "", [], True, True)',
        killed_by="test_a_product_is_rounded_before_it_is_added",
    ),
    mutant(
        "the optimiser may fuse them",
        'llvm.OPTIMIZE_O3, target.name, "", [], False)',
        'llvm.OPTIMIZE_O3, target.name, "", [], True)',
        equivalent="the flag is read by the code generator only; its own call refuses fusion.",
    ),
)
