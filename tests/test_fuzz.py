"""Whole contracts drawn at random: every segment against its reference, and the chain's laws.

`make fuzz N=20000` draws more of them than `make test` does. Sizes come from a few model shapes, so
that compiled kernels are re-used; all else is free.
"""

import dataclasses
import os

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adversary import SMALL, adversarial_inputs, healed
from dsv4_kernels import device as devices
from dsv4_kernels import prefill_sparse_attn
from dsv4_kernels.dims import Dims
from dsv4_kernels.inputs import PrefillInputs
from poison import Poison
from reference.compare import compare

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))

# Compile-time sizes: heads that fill a tile and that do not, widths that no tile divides, page
# sizes of one, of a power of two and of none.
MODELS = (
    SMALL,
    dataclasses.replace(SMALL, page_rows=12, window=7),
    Dims(
        heads=3, head_dim=16, rope_dim=2, groups=3, o_lora_rank=5, hidden=9, window=1,
        index_topk=4, page_rows=1,
    ),
    Dims(
        heads=40, head_dim=32, rope_dim=32, groups=4, o_lora_rank=130, hidden=140, window=130,
        index_topk=4, page_rows=64,
    ),
)  # fmt: skip

MAGNITUDES = st.sampled_from([1e-6, 1e-3, 0.1, 1.0, 1.0, 1.0, 10.0, 1e4])


@dataclasses.dataclass(frozen=True)
class Contract:
    """A chunk by the numbers it is drawn from: short enough to be read in a failure."""

    model: int
    T: int
    num_tokens: int
    K: int
    ori_entries: int
    cmp_entries: int
    seed: int
    magnitudes: dict[str, float]
    sinks: list[float]
    wave_tokens: int

    def inputs(self) -> PrefillInputs:
        inputs = adversarial_inputs(
            MODELS[self.model],
            T=self.T,
            K=self.K,
            num_tokens=min(self.num_tokens, self.T),
            ori_entries=self.ori_entries,
            cmp_entries=self.cmp_entries,
            generator=torch.Generator().manual_seed(self.seed),
            device=torch.device("cpu"),
        )
        for name, magnitude in self.magnitudes.items():
            getattr(inputs, name).mul_(magnitude)
        for head, sink in enumerate(self.sinks[: len(inputs.attn_sink)]):
            inputs.attn_sink[head] = sink
        return inputs.to(devices.best())


CONTRACTS = st.builds(
    Contract,
    model=st.integers(0, len(MODELS) - 1),
    T=st.integers(0, 12),
    num_tokens=st.integers(0, 12),
    K=st.sampled_from([1, 2, 31, 127, 128, 129, 200, 257]),
    ori_entries=st.integers(0, 5),
    cmp_entries=st.integers(0, 5),
    seed=st.integers(0, 2**31),
    magnitudes=st.fixed_dictionaries(
        dict.fromkeys(("q", "ori_kv", "kv_overlay", "cmp_kv"), MAGNITUDES)
    ),
    sinks=st.lists(st.sampled_from([-torch.inf, torch.inf, -50.0, 0.0, 90.0]), max_size=3),
    wave_tokens=st.integers(1, 13),
)


@settings(
    max_examples=EXAMPLES,
    deadline=None,  # the first example of a shape compiles
    derandomize=EXAMPLES <= 100,  # `make test` is the same on every run
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)
@given(CONTRACTS)
def test_any_contract(contract: Contract) -> None:
    inputs = contract.inputs()

    def judged(nodes, buffers) -> None:
        for node in nodes:
            before = dict(buffers) | {name: buffers[name].clone() for name in node.updates}
            node.run(buffers)
            taken = {name: before[name] for name in node.reads + node.updates + node.sizes}
            got = {name: buffers[name] for name in node.writes + node.updates}
            for verdict in compare(node.name, taken, got):
                assert verdict.holds, f"{node.name}: {verdict}"

    def chain(inputs: PrefillInputs, **options) -> torch.Tensor:
        return prefill_sparse_attn(*inputs.args(), window=inputs.window, **options)

    poison = Poison(devices.best())
    with poison.allocations():
        out = chain(inputs)
        in_waves = chain(inputs, wave_tokens=contract.wave_tokens)
        clean = chain(healed(inputs), executor=judged)
    poison.check_bands()
    assert out.isfinite().all()
    assert (out[inputs.num_tokens :] == 0).all()
    assert torch.equal(out, in_waves)
    assert torch.equal(out, clean)
