"""The demands on a kernel for Hopper."""

from functools import partial

from mutants.mutant import Mutant

TESTS = "tests/gates/test_hopper_gate.py"
gate = partial(Mutant, file="dsv4_kernels/gates/hopper/gate.py", tests=TESTS)
ptxas = partial(Mutant, file="dsv4_kernels/gates/hopper/ptxas.py", tests=TESTS)

MUTANTS = (
    gate(
        "no limit of shared memory",
        "if shared > SHARED_LIMIT:",
        "if shared > 2 * SHARED_LIMIT:",
        killed_by="test_too_much_shared_memory_is_one_with_both_numbers",
    ),
    gate(
        "all of shared memory is too much",
        "if shared > SHARED_LIMIT:",
        "if shared >= SHARED_LIMIT:",
        killed_by="test_what_fits_is_none",
    ),
    gate(
        "spilled loads are no breach",
        "if assembly.spill_stores or assembly.spill_loads:",
        "if assembly.spill_stores:",
        killed_by="test_a_spill_is_one",
    ),
    gate(
        "spilled stores are no breach",
        "if assembly.spill_stores or assembly.spill_loads:",
        "if assembly.spill_loads:",
        killed_by="test_a_spill_is_one",
    ),
    gate(
        "a dot needs no wgmma",
        'if core != "AIV" and not wgmma:',
        "if False:",
        killed_by="test_a_dot_without_wgmma_is_one_and_a_vector_kernel_needs_none",
    ),
    gate(
        "a vector kernel needs wgmma",
        'if core != "AIV" and not wgmma:',
        "if not wgmma:",
        killed_by="test_a_dot_without_wgmma_is_one_and_a_vector_kernel_needs_none",
    ),
    gate(
        "what was given up is no breach",
        "yield from assembly.given_up",
        "yield from ()",
        killed_by="test_what_the_assembler_gave_up_is_one",
    ),
    gate(
        "registers are given out one by one",
        "_REGISTERS_STEP = 8",
        "_REGISTERS_STEP = 1",
        killed_by="test_resident_programs",
    ),
    gate(
        "the system reserves nothing",
        "_SHARED_RESERVED = KIB",
        "_SHARED_RESERVED = 1",
        killed_by="test_resident_programs",
    ),
    gate(
        "any number of threads",
        "_THREADS = 2048",
        "_THREADS = 4096",
        killed_by="test_resident_programs",
    ),
    gate(
        "any number of programs",
        "_PROGRAMS = 32",
        "_PROGRAMS = 64",
        killed_by="test_resident_programs",
    ),
    ptxas(
        "loads and stores are mixed up",
        "int(stores), int(loads), tuple",
        "int(loads), int(stores), tuple",
        killed_by="test_the_log_of_ptxas_is_read",
    ),
    ptxas(
        "the first of several kernels stands for all",
        "if len(registers) != 1 or len(spills) != 1:",
        "if not registers or not spills:",
        killed_by="test_what_is_not_the_log_of_one_kernel_is_an_error",
    ),
)
