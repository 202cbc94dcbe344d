"""Tensor parallelism over groups: from a rank's slice of a checkpoint to the reduced output, in two
and four processes on gloo, and a rank that fails."""

import dataclasses
import datetime
import os
import re
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import children
from checkpoints import write
from dsv4_kernels import ContractError, group_quant, prefill_sparse_attn, tp, weights
from dsv4_kernels.device import untraced
from dsv4_kernels.dims import Dims
from dsv4_kernels.inputs.prefill import make_inputs
from reference.bounds import spacing

DIMS = Dims(
    heads=16, head_dim=32, rope_dim=16, groups=8, o_lora_rank=24, hidden=72, window=24,
    index_topk=30, page_rows=16,
)  # fmt: skip
PREFIX = "model.layers.3.self_attn"
TOKENS = 8


def chunk():
    return make_inputs(DIMS, tokens=TOKENS, start=40, seed=11)


def checkpoint(folder: Path) -> Path:
    inputs = chunk()
    G, R, J = inputs.wo_a.shape
    tensors = {
        f"{PREFIX}.wo_a.weight": inputs.wo_a.reshape(G * R, J),
        f"{PREFIX}.attn_sink": inputs.attn_sink,
        f"{PREFIX}.wo_b.weight": inputs.wo_b,
        f"{PREFIX}.wo_b.weight_scale": inputs.wo_b_scale[:, None],
    }
    return write(folder, tensors, config={"o_groups": G, "num_attention_heads": DIMS.heads})


def of_rank(folder: str, rank: int, size: int):
    """A rank's arguments: its heads of q, its slices of the checkpoint."""
    inputs, w = chunk(), weights.load(folder, layer=3, rank=rank, size=size).oproj
    heads = slice(rank * DIMS.heads // size, (rank + 1) * DIMS.heads // size)
    return dataclasses.replace(
        inputs, q=inputs.q[:, heads].contiguous(), attn_sink=w.attn_sink, wo_a=w.wo_a,
        wo_b=w.wo_b, wo_b_scale=w.wo_b_scale,
    )  # fmt: skip


def part(folder: str, rank: int, size: int) -> torch.Tensor:
    inputs = of_rank(folder, rank, size)
    return prefill_sparse_attn(*inputs.args(), window=inputs.window, out_dtype=torch.float32)


def one_rank(folder: str, rank: int, size: int, failing: int) -> None:
    """A process: its output in all, and its tokens of it, as files; or one line that says why."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1"}
    rendezvous = f"file://{folder}/meeting"
    timeout = datetime.timedelta(seconds=20)  # a peer that is gone is noticed at once, or by then
    dist.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=size, timeout=timeout
    )
    try:
        torch.set_num_threads(1)
        partial = part(folder, rank, size)
        if rank == failing:
            partial = partial.double()
        scattered = tp.reduce(partial, scatter=True)
        torch.save(partial, f"{folder}/partial{rank}.pt")
        torch.save(scattered, f"{folder}/scattered{rank}.pt")
        out = torch.full((TOKENS, DIMS.hidden), torch.nan, dtype=torch.bfloat16)
        assert tp.reduce(partial, out=out) is out
        torch.save(out, f"{folder}/out{rank}.pt")
        dist.barrier()  # nobody leaves while another still listens
    except (ContractError, RuntimeError) as error:
        print("".join(traceback.format_exception_only(error)).replace("\n", " "))
        print(f"rank {rank} failed")
    finally:
        dist.destroy_process_group()  # whose threads must not outlive the interpreter


def together(folder: Path, size: int, failing: int = -1) -> list[str]:
    """What each rank said."""
    part(str(folder), 0, size)  # compiles what they launch, once for all
    ranks = [
        children.Fork(__file__, f"one_rank({str(folder)!r}, {rank}, {size}, {failing})")
        for rank in range(size)
    ]
    return [" ".join(children.words(rank, seconds=60)) for rank in ranks]


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_give_the_output_of_one(size, tmp_path):
    folder = checkpoint(tmp_path)
    assert together(folder, size) == [""] * size
    inputs = chunk()
    want = prefill_sparse_attn(*inputs.args(), window=inputs.window)

    def read(name: str) -> list[torch.Tensor]:
        return [torch.load(folder / f"{name}{rank}.pt") for rank in range(size)]

    outs, total = read("out"), torch.stack(read("partial")).double().sum(0)
    assert all(torch.equal(out, outs[0]) for out in outs)
    assert torch.equal(torch.cat(read("scattered")), outs[0])
    # One rounding of the fp32 sum: half a spacing of bf16, and what fp32 sums differ by.
    near = (outs[0].double() - total).abs() / spacing(outs[0], torch.bfloat16).double()
    assert near.max() <= 0.51
    assert ((outs[0].double() - want.double()).abs() <= spacing(want, torch.bfloat16)).all()


def test_a_rank_s_part_is_its_groups_whatever_the_size(tmp_path):
    """Group by group the same bits: the part of tp = 8 is one group's, and sums of them in their
    order are the parts of every smaller size."""
    folder = str(checkpoint(tmp_path))
    single = [part(folder, rank, 8).double() for rank in range(8)]
    for size in (1, 2, 4):
        for rank in range(size):
            mine = single[rank * 8 // size : (rank + 1) * 8 // size]
            got, want = part(folder, rank, size).double(), sum(mine)
            magnitude = torch.stack(mine).abs().sum(0)
            assert ((got - want).abs() <= 2 * 10 * 2.0**-24 * magnitude).all()


def test_codes_are_the_same_for_every_size(generator):
    """A scale per group and token: a rank's codes are a slice of the whole's."""
    o_r = torch.randn(5, 8, 24, generator=generator)
    codes, scale = group_quant(o_r)
    for size in (2, 4, 8):
        for rank in range(size):
            groups = slice(rank * 8 // size, (rank + 1) * 8 // size)
            mine = group_quant(o_r[:, groups].contiguous())
            assert torch.equal(mine[0], codes[:, groups])
            assert torch.equal(mine[1], scale[groups])


def test_a_rank_that_fails_says_why_and_hangs_nobody(tmp_path):
    folder = checkpoint(tmp_path)
    alive, failed = together(folder, 2, failing=1)
    assert "tp.reduce: `partial` must be [T, D] float32, got [8, 72] float64" in failed
    assert failed.endswith("rank 1 failed")
    assert "RuntimeError: tp.reduce: rank 0 of 2: " in alive
    assert alive.endswith("rank 0 failed")


def test_the_readme_s_lines_lead_from_a_checkpoint_to_an_output(tmp_path):
    folder = checkpoint(tmp_path / "checkpoint")
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (code,) = (block for block in blocks if "tp.reduce" in block)
    assert len(code.splitlines()) <= 15
    inputs = dataclasses.replace(chunk(), window=128)  # the default: other rows, the same tensors
    given = {**vars(inputs), "PATH": folder, "torch": torch}
    weights_of_the_chunk = ("attn_sink", "wo_a", "wo_b", "wo_b_scale")
    names = {name: value for name, value in given.items() if name not in weights_of_the_chunk}
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/one", rank=0, world_size=1)
    try:
        exec(code, names)
    finally:
        dist.destroy_process_group()
    assert torch.equal(names["attn_out"], prefill_sparse_attn(*inputs.args()))


def test_without_a_process_group():
    message = "`group` must be of an initialised torch.distributed, got none: init_process_group$"
    with pytest.raises(ContractError, match=message):
        tp.reduce(torch.zeros(2, 3))


def test_what_is_no_part(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/one", rank=0, world_size=1)
    try:
        partial = torch.randn(3, 5)
        want = partial.bfloat16()
        assert torch.equal(tp.reduce(partial), want)
        for wrong, message in (
            (partial[:, ::2], "`partial` must be .* contiguous"),
            (partial.bfloat16(), r"`partial` must be \[T, D\] float32"),
        ):
            with pytest.raises(ContractError, match=message):
                tp.reduce(wrong)
        with pytest.raises(ContractError, match=r"`out` must be \[3, D=5\] bfloat16"):
            tp.reduce(partial, out=torch.empty(2, 5, dtype=torch.bfloat16))
        message = "`group` must be a group that this process is in, got another$"
        with pytest.raises(ValueError, match=message):  # torch's own has other words
            tp.reduce(partial, dist.GroupMember.NON_GROUP_MEMBER)
        part = partial.clone().requires_grad_()
        assert not tp.reduce(part).requires_grad
    finally:
        dist.destroy_process_group()


def test_the_ranks_are_those_of_the_group(monkeypatch):
    """Of two, of which this is the second; a collective that only looks."""
    asked = []

    def of_group(answer):
        return lambda group: asked.append(group) or answer

    def collective(*tensors, group):
        asked.append(group)
        tensors[0].fill_(len(tensors))

    names = dict(get_world_size=of_group(2), get_rank=of_group(1), is_initialized=lambda: True)
    names |= dict(all_reduce=collective, reduce_scatter_tensor=collective)
    for name, stand_in in names.items():
        monkeypatch.setattr(dist, name, stand_in)
    partial = torch.zeros(4, 3)
    assert tp.reduce(partial, "a group").equal(torch.ones(4, 3, dtype=torch.bfloat16))
    assert tp.reduce(partial, "a group", scatter=True).equal(2 * torch.ones(2, 3).bfloat16())
    assert partial.equal(torch.ones(4, 3))  # a scatter leaves it alone
    assert asked == ["a group"] * 6
    meta = torch.zeros(4, 3, device="meta")
    assert {tp.reduce(meta, scatter=scatter).device for scatter in (False, True)} == {meta.device}
    message = r"`partial` must be \[T, D\] with T a multiple of 2, got T = 3$"
    with pytest.raises(ContractError, match=message):
        tp.reduce(partial[:3], scatter=True)
    assert tp.reduce(partial[:3]).shape == (3, 3)


def test_a_compiler_does_not_look_into_a_collective(monkeypatch):
    monkeypatch.setattr(untraced, "_UNTRACED", {})
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(torch.compiler, "disable", lambda function: lambda *_: function.__name__)
    assert tp.reduce(torch.zeros(2, 3)) == "reduce"
