"""Races: these kernels and what a user would take otherwise, on the same work in one run.

On an accelerator both sides are replayed from graphs, so that neither is timed by its host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

from bench import clock, races, rivals, workloads
from bench.costs import attention_cost
from bench.scale import DEVICE, SCALE
from bench.targets import OURS
from dsv4_kernels.buffers import Buffers
from dsv4_kernels.chains.attention import form_of, forms_on
from dsv4_kernels.segments.cost import Cost

Timed = Callable[..., None]


PRESET, TOKENS = "FLASH", SCALE.tokens["FLASH"]
HAS_GRAPHS = DEVICE.type != "cpu"


def installed(*packages: str) -> Any:
    """Skips a rival whose packages are missing, and says which."""
    missing = [package for package in packages if not rivals.available(package)]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


multiplies_int8 = pytest.mark.skipif(
    DEVICE.type == "npu", reason="torch multiplies no INT8 on an NPU"
)

CHAINS = [
    pytest.param(
        "torch", rivals.attention_eager, rivals.proj_a_bmm, id="torch", marks=multiplies_int8
    ),
    pytest.param(
        "FlashMLA, torch", rivals.attention_flash_mla, rivals.proj_a_bmm,
        id="flash_mla", marks=installed("flash_mla"),
    ),
    pytest.param(
        "FlashMLA, DeepGEMM, torch", rivals.attention_flash_mla, rivals.proj_a_deep_gemm,
        id="deep_gemm", marks=installed("flash_mla", "deep_gemm"),
    ),
]  # fmt: skip
ATTENTIONS = [
    pytest.param("torch", rivals.attention_eager, id="torch"),
    pytest.param(
        "FlashMLA", rivals.attention_flash_mla, id="flash_mla", marks=installed("flash_mla")
    ),
]
PRODUCTS = [
    pytest.param("projection", OURS, races.projection, id="projection-ours"),
    pytest.param(
        "projection", "torch", races.rival_projection,
        id="projection-torch", marks=multiplies_int8,
    ),
    pytest.param("proj_a", OURS, races.proj_a, id="proj_a-ours"),
    pytest.param(
        "proj_a", "torch.bmm", partial(races.rival_proj_a, rivals.proj_a_bmm), id="proj_a-torch"
    ),
    pytest.param(
        "proj_a", "DeepGEMM", partial(races.rival_proj_a, rivals.proj_a_deep_gemm),
        id="proj_a-deep_gemm", marks=installed("deep_gemm"),
    ),
    pytest.param("proj_b", OURS, races.proj_b, id="proj_b-ours"),
    pytest.param(
        "proj_b", "torch._int_mm", races.rival_proj_b, id="proj_b-torch", marks=multiplies_int8
    ),
]  # fmt: skip
JUDGES = {
    "projection": races.judge_projection,
    "proj_a": races.judge_proj_a,
    "proj_b": races.judge_proj_b,
}


def bench_chain_ours(timed: Timed) -> None:
    """The chain, by graph replay where there are graphs."""
    inputs = workloads.chunk(PRESET, TOKENS)
    calls, attn_out = workloads.chain_calls(inputs, captured=HAS_GRAPHS)
    workloads.judge_chain(inputs, attn_out)
    timed(calls, workloads.cost_of_chain(inputs), graph=False, **row("chain", OURS))


@pytest.mark.parametrize(("runner", "attention", "proj_a"), CHAINS)
def bench_chain_rival(
    runner: str, attention: rivals.Attention, proj_a: rivals.ProjA, timed: Timed
) -> None:
    """The chain from a rival's parts."""
    work = partial(rivals.chain, attention=attention, proj_a=proj_a)
    race_chain(work, timed, row("chain", runner))


@multiplies_int8
@pytest.mark.filterwarnings("ignore")  # the compiler's own, and those of what it looks for
def bench_chain_compiled(timed: Timed) -> None:
    """The chain in torch by `torch.compile`."""
    try:
        race_chain(torch.compile(rivals.chain), timed, row("chain", "torch.compile"))
    except BackendCompilerFailed as error:
        pytest.skip(f"torch.compile does not work here: {str(error).splitlines()[0]}")


@pytest.mark.parametrize("tokens", SCALE.attention)
@pytest.mark.parametrize(
    "form", [form for form in forms_on(DEVICE.type) if form in races.ATTENTION]
)
def bench_attention_ours(form: str, tokens: int, timed: Timed) -> None:
    """Attention alone, heads turned back and packed."""
    inputs = workloads.chunk(PRESET, tokens)
    races.judge_attention(inputs, races.attention(inputs, form), turned=True)
    calls, _ = workloads.chain_calls(
        inputs, captured=HAS_GRAPHS, attention=form, executor=races.attention_only(form)
    )
    cost = attention_cost(inputs, workloads.live_keys(inputs))
    # The device's own form races under our name, and is held to the target.
    own = form == form_of("bench", None, inputs.q)
    runner = OURS if own else f"{OURS}, {form}"
    timed(calls, cost, graph=False, **row("attention", runner, tokens))


@pytest.mark.parametrize("tokens", SCALE.attention)
@pytest.mark.parametrize(("runner", "attention"), ATTENTIONS)
def bench_attention_rival(
    runner: str, attention: rivals.Attention, tokens: int, timed: Timed
) -> None:
    """Attention alone: the look-up of rows included, and compaction where a rival wants it."""
    inputs = workloads.chunk(PRESET, tokens)
    cost = attention_cost(inputs, workloads.live_keys(inputs))
    subjects = workloads.copies(inputs, clock.copies(cost.bytes, DEVICE))
    facts = row("attention", runner, tokens)
    race(subjects, attention, races.judge_attention, cost, timed, facts)


@pytest.mark.parametrize(("part", "runner", "work"), PRODUCTS)
def bench_product(part: str, runner: str, work: Callable[[Buffers], Any], timed: Timed) -> None:
    """From packed heads to the output, and its two products alone."""
    buffers = workloads.handed_over(PRESET, TOKENS)
    cost = races.cost_of(part, buffers)
    subjects = [races.by_group(buffers) for _ in range(clock.copies(cost.bytes, DEVICE))]
    race(subjects, work, JUDGES[part], cost, timed, row(part, runner))


def race_chain(work: Callable[..., torch.Tensor], timed: Timed, facts: dict[str, Any]) -> None:
    """Times `work` on a chunk and its weights, which a rival holds group by group."""
    inputs = workloads.chunk(PRESET, TOKENS)
    cost = workloads.cost_of_chain(inputs)
    chunks = workloads.copies(inputs, clock.copies(cost.bytes, DEVICE))
    subjects = [(each, rivals.split_by_group(each.wo_b, each.wo_a.shape[0])) for each in chunks]
    race(
        subjects,
        lambda subject: work(*subject),
        lambda subject, out: workloads.judge_rival_chain(subject[0], out),
        cost,
        timed,
        facts,
    )


def race(
    subjects: Sequence[Any],
    work: Callable[[Any], Any],
    judge: Callable[[Any, Any], None],
    cost: Cost,
    timed: Timed,
    facts: dict[str, Any],
) -> None:
    """Judges `work` on the first subject, and times it on all of them."""
    judge(subjects[0], work(subjects[0]))
    for subject in subjects[1:]:
        work(subject)
    timed([partial(work, subject) for subject in subjects], cost, **facts)


def row(race: str, runner: str, tokens: int = TOKENS) -> dict[str, Any]:
    """The columns of the report's table of races."""
    return dict(table="races", race=race, runner=runner, preset=PRESET, tokens=tokens)
