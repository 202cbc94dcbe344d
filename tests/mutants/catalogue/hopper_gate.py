"""The demands on a kernel for Hopper."""

from functools import partial

from mutants.mutant import Mutant

TESTS = "tests/gates/test_hopper_gate.py"
gate = partial(Mutant, file="dsv4_kernels/gates/hopper/gate.py", tests=TESTS)
ptxas = partial(Mutant, file="dsv4_kernels/gates/hopper/ptxas.py", tests=TESTS)
compiler = partial(Mutant, file="dsv4_kernels/gates/hopper/compiler.py", tests=TESTS)
command = partial(
    Mutant, file="dsv4_kernels/commands/hopper.py", tests="tests/commands/test_hopper.py"
)

MUTANTS = (
    command(
        "breaches are no failure",
        "return not any(row.breaches for row in rows)",
        "return True",
        killed_by="test_every_preset_has_a_table_of_the_segments_that_are_asked_for",
    ),
    command(
        "whoever asks for a segment has all of them",
        "for row in hold_chunk(what, tiles) if row.segment in segments]",
        "for row in hold_chunk(what, tiles)]",
        killed_by="test_every_preset_has_a_table_of_the_segments_that_are_asked_for",
    ),
    command(
        "stored is loaded",
        'f"{row.assembly.spill_stores}/{row.assembly.spill_loads}"',
        'f"{row.assembly.spill_loads}/{row.assembly.spill_stores}"',
        killed_by="test_every_preset_has_a_table_of_the_segments_that_are_asked_for",
    ),
    command(
        "a batch is held with a segment's own tiles",
        "return hold_batch(what, segments, tiles)",
        "return hold_batch(what, segments, {})",
        killed_by="test_a_batch_is_held_in_place_of_a_chunk",
    ),
    compiler(
        "another part",
        "CAPABILITY = 90",
        "CAPABILITY = 80",
        killed_by="test_a_launch_is_recorded_as_it_was_asked_for",
    ),
    gate(
        "a kernel that was refused has no breach",
        "(compiled.launch.refusal.strip(),))",
        "())",
        killed_by="test_a_kernel_without_ptx_is_a_breach_in_the_compilers_words",
    ),
    gate(
        "a row has the warps of no launch",
        "        num_warps=launch.num_warps,\n",
        "",
        killed_by="test_a_row_has_what_the_launch_was_asked_for",
    ),
    gate(
        "a chunk has a segment's own tiles",
        "record_chunk(target, driver, PRESETS[preset], tiles=tiles)",
        "record_chunk(target, driver, PRESETS[preset])",
        killed_by="test_a_chunk_is_the_presets_with_the_tiles_that_are_asked_for",
    ),
    ptxas(
        "products are contracted",
        ' "--fmad=false",',
        "",
        killed_by="test_what_is_assembled_is_for_the_part_that_it_names",
    ),
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
