"""The cost of an operator beside a plan's run: both entries, their kernels taken out."""

import children
from adversary import SMALL
from bench.op_cost import op_cost
from dsv4_kernels.segments.segment import Launch


def measured() -> None:
    """In a process of its own: kernels compiled without code stay so."""
    launched, call = [], Launch.__call__

    def noted(self, buffers):
        call(self, buffers)
        launched.append((self.kernel, buffers.get("attn_out")))

    Launch.__call__ = noted
    found = op_cost(SMALL, runs=2)
    assert list(found) == ["prefill_sparse_attn", "sparse_attn"]
    assert all(run > 0 and operator > 0 for run, operator in found.values())
    kernels = [kernel for kernel, _ in launched]
    chunk = kernels[: next(i for i, k in enumerate(kernels) if "token_map" in k.__name__)]
    assert chunk[: len(chunk) // 4] * 4 == chunk  # plan and operator, twice each
    outputs = [out for _, out in launched if out is not None]
    assert outputs
    assert not any(out.any() for out in outputs)
    print("alike")


def test_both_calls_launch_alike_and_run_no_kernel():
    said = children.words(children.Fork(__file__, "measured()"), seconds=100)
    assert said == ["alike"]
