"""Operators for compiled graphs, and the workspaces that they keep."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(Mutant, file="dsv4_kernels/chains/ops.py", tests="tests/chains/test_ops.py")
LAYERS = "test_a_batch_s_workspace_is_every_layer_s_and_keeps_no_tensor"
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
    mutant(
        "a trace does not check the batch's contract",
        "    chain.check(layout.views(named))\n",
        "",
        killed_by="test_a_trace_is_told_of_a_broken_contract",
    ),
    mutant(
        "the batch's out form writes elsewhere",
        "    plan.run(named, out)\n",
        "    plan.run(named, None)\n",
        killed_by="test_the_plain_call_s_bytes[sparse_attn]",
    ),
    mutant(
        "a batch's workspace is one pool's",
        'for name in ("ori_kv", "cmp_kv")]\n    if',
        'for name in ("ori_kv", "cmp_kv")] + [_size(named["ori_kv"])]\n    if',
        killed_by=LAYERS,
    ),
    mutant(
        "a batch's options do not tell workspaces apart",
        "(*sizes, token_map is None, *options.values()),",
        "(*sizes, token_map is None),",
        killed_by=LAYERS,
    ),
    mutant(
        "workspaces for tiles have room for the first batch's requests",
        'if sharers != 1:\n        sizes.append(_size(named["seq_lens"]))',
        "if sharers < 1:\n        sizes.append(())",
        killed_by="tests/chains/test_shared_batch.py::test_operators_share",
    ),
    mutant(
        "a workspace keeps the weights of its first layer",
        "        self._mapped, self._fixed = named",
        "        self._first = named\n        self._mapped, self._fixed = named",
        file="dsv4_kernels/chains/batch.py",
        killed_by=LAYERS,
    ),
    mutant(
        "the batch's operator keeps its lengths",
        "    named |= dict(ori_indices=ori_indices, token_map=token_map)\n    options",
        "    named |= dict(ori_indices=ori_indices, token_map=token_map)\n"
        '    named["seq_lens"] = named["seq_lens"].clone()\n    options',
        killed_by="test_a_captured_call_serves_other_lengths_in_place[sparse_attn]",
    ),
    mutant(
        "a batch's fp32 part is forgotten",
        "args[12].shape[0]), dtype=_wanted(out_dtype))\n\n\ndef _sparse_heads(",
        "args[12].shape[0]))\n\n\ndef _sparse_heads(",
        killed_by="test_a_trace_of_fp32_parts",
    ),
)
