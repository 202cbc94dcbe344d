"""What the wheel carries, and the way from a checkpoint that the README shows."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(Mutant, file="pyproject.toml", tests="tests/test_wheel.py")
CONTENTS = "test_what_is_in_the_wheel"

MUTANTS = (
    mutant("no C of the CPU path", '["*.c", "*.h"]', '["*.h"]', killed_by=CONTENTS),
    mutant(
        "studies that cannot run",
        'packages.find.exclude = ["dsv4_kernels.commands.study*"]\n',
        "",
        killed_by=CONTENTS,
    ),
    mutant("no classifiers", '    "Typing :: Typed",\n', "", killed_by=CONTENTS),
    mutant(
        "the README forgets the ranks' sum",
        "attn_out = tp.reduce(partial)",
        "attn_out = tp.reduce(2 * partial)",
        file="README.md",
        tests="tests/test_tp.py",
        killed_by="test_the_readme_s_lines_lead_from_a_checkpoint_to_an_output",
    ),
)
