"""The chain's two halves, and outputs that are not rounded."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(Mutant, file="dsv4_kernels/chains/seams.py", tests="tests/chains/test_seams.py")
BYTES = "test_the_halves_give_the_whole_s_bytes"
OF_A_BATCH = "test_the_halves_of_a_batch[4-4-decoupled-out_dtype0]"
FP32 = "test_fp32_is_what_bf16_rounds"

MUTANTS = (
    mutant(
        "an output between an argument's rows is not seen",
        "nbytes = {k: span_bytes(v) for",
        "nbytes = {k: v.nbytes for",
        killed_by="test_an_output_over_an_argument_is_refused",
    ),
    mutant(
        "rows past the live tokens are left as they are",
        "    o_packed[:, end:].zero_()\n",
        "",
        killed_by="test_rows_past_the_live_tokens_are_zeros",
    ),
    mutant(
        "live slots past the live tokens are left as they are",
        "    live_slots[end:].zero_()\n",
        "",
        killed_by="test_rows_past_the_live_tokens_are_zeros",
    ),
    mutant(
        "every wave begins at the chunk's first token",
        "dict(first_token=first, tokens",
        "dict(first_token=0, tokens",
        killed_by="test_rows_past_the_live_tokens_are_zeros",
    ),
    mutant(
        "a wave is not copied to its rows",
        "o_packed[:, first:last].copy_",
        "o_packed[:, :last - first].copy_",
        killed_by=f"{BYTES}[4-decoupled]",
    ),
    mutant(
        "live slots are not handed over",
        "live_slots=live_slots[first:last])\n        whole",
        "live_slots=live_slots[first:last].clone())\n        whole",
        killed_by=BYTES,
    ),
    mutant(
        "a wave of a batch takes the first tokens' arguments",
        "arguments[name][first:last] for name in chain.per_token",
        "arguments[name][:last - first] for name in chain.per_token",
        killed_by=OF_A_BATCH,
    ),
    mutant(
        "tokens of a batch's heads share nothing",
        "        sharers=sharers,\n",
        "        sharers=1,\n",
        killed_by="tests/chains/test_shared_batch.py::test_operators_share",
    ),
    mutant(
        "a batch's map of tokens is left aside",
        "token_map=token_map, tiles=tiles,",
        "token_map=None, tiles=tiles,",
        killed_by="test_the_heads_of_a_batch_take_every_option[token_map]",
    ),
    mutant(
        "a batch's list of rows is left aside",
        "ori_indices=ori_indices, token_map=token_map, tiles",
        "ori_indices=None, token_map=token_map, tiles",
        killed_by="test_the_heads_of_a_batch_take_every_option[ori_indices]",
    ),
    mutant(
        "heads may be of any width",
        "        check_widths(contract, self.rope)\n        return contract\n",
        "        return contract\n",
        file="dsv4_kernels/chains/prefill.py",
        killed_by="test_heads_of_an_odd_width_are_refused",
    ),
    mutant(
        "a refusal of the batch's heads names the whole entry",
        "return chain, arguments, chain.check_attention(op, arguments, groups)",
        "return chain, arguments, chain.check_attention(batch.OP, arguments, groups)",
        killed_by="test_what_the_heads_of_a_batch_refuse",
    ),
    mutant(
        "the heads keep the lengths of the recorded batch",
        '    op, named = "sparse_attn_heads", dict(zip(BATCH_HEADS, given, strict=True))\n',
        '    op, named = "sparse_attn_heads", dict(zip(BATCH_HEADS, given, strict=True))\n'
        '    named["seq_lens"] = named["seq_lens"].clone()\n',
        killed_by="test_heads_replay_another_batch_in_place",
    ),
    mutant(
        "the projection takes the first wave's rows",
        "o_packed=o_packed[:, first:last]",
        "o_packed=o_packed[:, :last - first]",
        killed_by=f"{BYTES}[4-decoupled]",
    ),
    mutant(
        "the wanted dtype is not taken",
        "torch.empty((T, D), dtype=out_dtype",
        "torch.empty((T, D), dtype=torch.bfloat16",
        killed_by="test_fp32_parts_round_to_the_whole",
    ),
    mutant(
        "an output may lie over an argument",
        "contract.apart(argument, out, inputs, nbytes)",
        "contract.apart(argument, out, inputs, {})",
        killed_by="test_an_output_over_an_argument_is_refused",
    ),
    mutant(
        "heads need not fall into whole groups",
        "contract.require(H % G == 0",
        "contract.require(True",
        file="dsv4_kernels/chains/prefill.py",
        killed_by="test_what_the_halves_refuse",
    ),
    mutant(
        "a plan's own output is bf16 whatever is asked for",
        "dtype=self._out_dtype",
        "dtype=torch.bfloat16",
        file="dsv4_kernels/launcher/plan.py",
        killed_by="test_fp32_parts_round_to_the_whole",
    ),
    mutant(
        "fp32 is rounded to bf16 first",
        "out.to(attn_out_ptr.dtype.element_ty)",
        "out.to(tl.bfloat16).to(attn_out_ptr.dtype.element_ty)",
        file="dsv4_kernels/segments/dequant_sum.py",
        tests="tests/segments/test_dequant_sum.py",
        killed_by=FP32,
    ),
    mutant(
        "fp32 of the row barrier is rounded to bf16 first",
        "out.to(attn_out_ptr.dtype.element_ty)",
        "out.to(tl.bfloat16).to(attn_out_ptr.dtype.element_ty)",
        file="dsv4_kernels/segments/proj_b_dequant.py",
        tests="tests/segments/test_proj_b_dequant.py",
        killed_by=FP32,
    ),
)
