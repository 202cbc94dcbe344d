"""RoPE tables: YaRN's constants and where its ramp begins and ends."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(Mutant, file="dsv4_kernels/inputs/rope.py", tests="tests/inputs/test_inputs.py")
FORMULA = "test_frequencies_follow_the_formula"

MUTANTS = (
    mutant(
        "beta_fast", "YARN_BETA_FAST = 32.0", "YARN_BETA_FAST = 31.0", killed_by="test_ramp_bounds"
    ),
    mutant(
        "beta_slow", "YARN_BETA_SLOW = 1.0", "YARN_BETA_SLOW = 1.1", killed_by="test_ramp_bounds"
    ),
    mutant(
        "the original length",
        "YARN_ORIGINAL_LENGTH = 65_536",
        "YARN_ORIGINAL_LENGTH = 64_000",
        killed_by="test_ramp_bounds",
    ),
    mutant("the factor", "YARN_FACTOR = 16.0", "YARN_FACTOR = 15.0", killed_by=FORMULA),
    mutant("the base", "\nROPE_THETA = 10_000.0", "\nROPE_THETA = 10_001.0", killed_by=FORMULA),
    mutant(
        "the base of compressed layers",
        "COMPRESS_ROPE_THETA = 160_000.0",
        "COMPRESS_ROPE_THETA = 160_001.0",
        killed_by=FORMULA,
    ),
    mutant(
        "a ramp of 64 columns for every width",
        "yarn_ramp_bounds(rope_dim)",
        "yarn_ramp_bounds()",
        killed_by="test_frequencies_of_other_widths_follow_the_formula",
    ),
    mutant(
        "the ramp's begin is rounded up",
        "math.floor(pair",
        "math.ceil(pair",
        killed_by="test_ramp_bounds",
    ),
    mutant(
        "the ramp's end is rounded down",
        "math.ceil(pair",
        "math.floor(pair",
        killed_by="test_ramp_bounds",
    ),
    mutant(
        "the ramp goes the other way",
        "inverse / YARN_FACTOR * ramp + inverse * (1 - ramp)",
        "inverse / YARN_FACTOR * (1 - ramp) + inverse * ramp",
        killed_by=FORMULA,
    ),
    mutant(
        "the ramp is not clamped",
        ".clamp(0, 1)",
        "",
        killed_by=FORMULA,
    ),
    mutant(
        "YaRN without compression too",
        "    if compress_ratio == 0:\n        return inverse\n",
        "",
        killed_by=FORMULA,
    ),
    mutant(
        "angles in fp64",
        "positions.to(torch.float32)[:, None] * inverse",
        "positions.to(torch.float64)[:, None] * inverse",
        killed_by="test_angles_of_far_positions_are_fp32",
    ),
    mutant(
        "cosine and sine are mixed up",
        "twice.cos().to(torch.bfloat16), twice.sin()",
        "twice.sin().to(torch.bfloat16), twice.cos()",
        killed_by="test_tables_of_near_positions_follow_the_formula",
    ),
)
