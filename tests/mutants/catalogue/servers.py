"""The examples for servers, which tests take out of a README."""

from functools import partial

from mutants.mutant import Mutant

example = partial(
    Mutant, file="dsv4_kernels/chains/README.md", tests="tests/chains/test_servers.py"
)
VLLM, SGLANG = "test_the_call_inside_vllm_ascend[4]", "test_the_call_inside_sglang[4]"
LAST = 'rope_layout="interleaved",\n    )\n```\n\n'

MUTANTS = (
    example(
        "vllm-ascend's tables of the other layout",
        LAST + "On several",
        LAST.replace("interleaved", "half") + "On several",
        killed_by=VLLM,
    ),
    example(
        "vllm-ascend's cos and sin are swapped",
        "oproj.attn_sink,\n        cos,\n        sin,",
        "oproj.attn_sink,\n        sin,\n        cos,",
        killed_by=VLLM,
    ),
    example(
        "vllm-ascend's window through the compressed table",
        "swa_kv_cache,\n        swa_block_table,",
        "swa_kv_cache,\n        compress_block_table,",
        killed_by=VLLM,
    ),
    example(
        "SGLang's wo_a as if it were transposed",
        "wo_a.view(groups, -1, wo_a.shape[1])",
        "wo_a.T.reshape(groups, -1, wo_a.shape[1])",
        killed_by=SGLANG,
    ),
    example(
        "SGLang's list is left out",
        "cmp_table,\n        topk,\n        cu",
        "cmp_table,\n        None,\n        cu",
        killed_by=SGLANG,
    ),
)
