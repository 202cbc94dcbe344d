"""The chain's two halves, and outputs that are not rounded."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(Mutant, file="dsv4_kernels/chains/seams.py", tests="tests/chains/test_seams.py")
BYTES = "test_the_halves_give_the_whole_s_bytes"
FP32 = "test_fp32_is_what_bf16_rounds"

MUTANTS = (
    mutant(
        "rows past the live tokens are left as they are",
        "    o_packed[:, end:].zero_()\n",
        "",
        killed_by="test_rows_past_the_live_tokens_are_zeros",
    ),
    mutant(
        "every wave begins at the chunk's first token",
        'wave["first_token"] = first\n',
        'wave["first_token"] = 0\n',
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
        "live_slots[first:last].copy_(wave",
        "live_slots[first:last].clone().copy_(wave",
        killed_by=BYTES,
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
        "apart = end <= first or first + tensor.nbytes <= begin",
        "apart = True",
        killed_by="test_an_output_over_an_argument_is_refused",
    ),
    mutant(
        "heads need not fall into whole groups",
        "contract.require(H % G == 0",
        "contract.require(True",
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
