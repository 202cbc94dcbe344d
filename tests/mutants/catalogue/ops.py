"""Operators for compiled graphs, and the workspaces that they keep."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(Mutant, file="dsv4_kernels/chains/ops.py", tests="tests/chains/test_ops.py")
KEPT = "test_as_many_shapes_are_kept_as_is_said"

MUTANTS = (
    mutant(
        "more shapes are kept than is said",
        "while len(self._plans) > MOST_KEPT:",
        "while len(self._plans) > MOST_KEPT + 1:",
        killed_by=KEPT,
    ),
    mutant(
        "the shapes used last go first",
        "popitem(last=False)",
        "popitem(last=True)",
        killed_by=KEPT,
    ),
    mutant(
        "what is used does not become the latest",
        "                self._plans.move_to_end(key)\n",
        "",
        killed_by=KEPT,
    ),
    mutant(
        "new shapes are taken inside a capture",
        "                not capturing,\n",
        "                True,\n",
        killed_by="test_what_a_capture_meets_first_is_refused",
    ),
    mutant(
        "a trace does not check the heads' contract",
        "    *_, contract = seams.prefill_half(_shapes(args), groups=groups, window=window)\n"
        '    shape = groups, q.shape[0], contract["J"]\n',
        "    shape = groups, q.shape[0], q.shape[1] // groups * q.shape[2]\n",
        killed_by="test_a_trace_is_told_of_a_broken_contract",
    ),
    mutant(
        "a trace does not check the projection's contract",
        "    seams.check_o_proj(*_shapes(args))\n",
        "",
        killed_by="test_a_trace_is_told_of_a_broken_contract",
    ),
    mutant(
        "the out form writes elsewhere",
        "    plan.run(arguments, out)\n",
        "    plan.run(arguments)\n",
        killed_by="test_the_plain_call_s_bytes",
    ),
    mutant(
        "a trace is told bf16 whatever is wanted",
        "torch.bfloat16 if out_dtype is None else out_dtype",
        "torch.bfloat16",
        killed_by="test_fp32_parts",
    ),
)
