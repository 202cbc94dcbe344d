"""Whole chunks drawn at random: every segment against its reference, and the chain's laws.

`make test` draws the same few on every run; `make fuzz N=20000` draws others, a process per core.
Sizes come from a few model shapes, so that compiled kernels are re-used; all else is free.
"""

import dataclasses
import os

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reference
from adversary import SMALL, adversarial_inputs, healed, with_pages_permuted
from against import FORMS, chain
from dsv4_kernels import device as devices
from dsv4_kernels.dims import Dims
from dsv4_kernels.inputs.prefill import PrefillInputs
from dsv4_kernels.segments import SEGMENTS
from poison import Poison
from reference.bounds import Bound, judge, spacing
from reference.compare import compare

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")  # None: `make test`

# Compile-time sizes: heads that fill a tile and that do not, widths that no tile divides, page
# sizes of one, of a power of two and of none.
MODELS = (
    SMALL,
    dataclasses.replace(SMALL, page_rows=12, window=7),
    Dims(
        heads=3, head_dim=16, rope_dim=16, groups=3, o_lora_rank=5, hidden=9, window=1,
        index_topk=4, page_rows=1,
    ),
    Dims(
        heads=40, head_dim=32, rope_dim=32, groups=4, o_lora_rank=130, hidden=140, window=130,
        index_topk=4, page_rows=64,
    ),
)  # fmt: skip

MAGNITUDES = st.sampled_from([1e-6, 1e-3, 0.1, 1.0, 1.0, 1.0, 10.0, 1e4])

# Where scores are larger, an fp32 rounding of one moves its P by more than a bf16 rounding does,
# and a chain is not near its reference any more (its segments are).
LARGEST_SCORE = 100.0


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A chunk by the numbers it is drawn from: short enough to be read in a failure.

    waves, groups_per_launch: how one of the two runs of the chain is cut up.
    """

    model: int
    T: int
    num_tokens: int
    K: int
    ori_entries: int
    cmp_entries: int
    seed: int
    magnitudes: dict[str, float]
    sinks: list[float]
    form: str
    waves: int
    groups_per_launch: int

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

    def cut(self) -> dict[str, int]:
        """Options of the chain that must not change a byte."""
        wave_tokens = max(1, -(-self.T // self.waves))
        return dict(wave_tokens=wave_tokens, groups_per_launch=self.groups_per_launch)


CHUNKS = st.builds(
    Chunk,
    model=st.integers(0, len(MODELS) - 1),
    T=st.integers(0, 12),
    num_tokens=st.integers(0, 12),
    K=st.sampled_from([1, 2, 31, 127, 128, 129, 200, 257]),
    ori_entries=st.integers(0, 5),
    cmp_entries=st.integers(0, 5),
    seed=st.integers(0, 2**31),
    magnitudes=st.fixed_dictionaries(
        dict.fromkeys(("q", "ori_kv", "kv_overlay", "cmp_kv", "wo_a", "wo_b_scale"), MAGNITUDES)
    ),
    sinks=st.lists(st.sampled_from([-torch.inf, torch.inf, -50.0, 0.0, 90.0]), max_size=3),
    form=st.sampled_from(sorted(FORMS)),
    waves=st.integers(1, 3),
    groups_per_launch=st.integers(1, 4),
)


@settings(
    max_examples=int(EXAMPLES or 40),
    deadline=None,  # the first example of a shape compiles
    derandomize=EXAMPLES is None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)
@given(CHUNKS)
def test_any_chunk(chunk: Chunk) -> None:
    inputs = chunk.inputs()
    clean = healed(inputs)
    elsewhere = with_pages_permuted(inputs, torch.Generator().manual_seed(chunk.seed))

    def judged(nodes, waves) -> None:
        for node in nodes:
            buffers, segment = waves[node.wave], SEGMENTS[node.name]
            before = dict(buffers) | {name: buffers[name].clone() for name in node.updates}
            node.run(waves)
            made = segment.outputs_of(buffers)
            for verdict in compare(node.name, segment.inputs_of(before), made):
                assert verdict.holds, f"{node.name}: {verdict}"

    poison = Poison(devices.best())
    with poison.allocations():
        out = chain(clean, **FORMS[chunk.form], executor=judged)
        cut = chain(elsewhere, **FORMS[chunk.form], **chunk.cut())
    poison.check_bands()
    assert out.isfinite().all()
    assert (out[inputs.num_tokens :] == 0).all()
    assert torch.equal(out, cut)
    check_against_chain_reference(clean, out, chunk.form)


def check_against_chain_reference(inputs: PrefillInputs, out: torch.Tensor, form: str) -> None:
    """Segments that hold one by one were also handed the right buffers."""
    inputs = inputs.to("cpu")
    if largest_score(inputs) > LARGEST_SCORE:
        return
    want = reference.prefill_segments(*inputs.args(), window=inputs.window, **FORMS[form])
    o_r, attn_out = want["o_r"].double(), want["attn_out"]
    if form == "row_barrier":
        o_r = o_r.flatten(1)[:, None].expand(o_r.shape[0], o_r.shape[1], -1)
    step = o_r.abs().amax(-1).clamp_min(1e-4) / 127  # [T, G]
    weights = inputs.wo_b.view(-1, step.shape[1], want["o_r"].shape[2]).double().abs().sum(-1)
    allowed = 2 * (step @ weights.T) * inputs.wo_b_scale.double().abs()
    bound = Bound(
        allowed + spacing(attn_out, torch.bfloat16),
        "every code one off, and as much again for the scale under it",
    )
    verdict = judge("attn_out", out.cpu(), attn_out, bound)
    assert verdict.holds, f"{form}: {verdict}"


def largest_score(inputs: PrefillInputs) -> float:
    """A bound on |q . k| * scale of all rows, dead or alive."""
    if inputs.q.numel() == 0:
        return 0.0
    pools = (inputs.ori_kv, inputs.kv_overlay, inputs.cmp_kv)
    rows = max(float(pool.float().norm(dim=-1).max()) for pool in pools if pool.numel())
    return float(inputs.q.float().norm(dim=-1).max()) * rows * inputs.q.shape[2] ** -0.5
