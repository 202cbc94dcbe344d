"""binding.py by itself: which arguments a plan takes for those it was bound to, and its waves."""

import warnings
from typing import Any

import pytest
import torch

from dsv4_kernels.launcher.binding import Binding, Signature, views
from dsv4_kernels.launcher.graph import Node

Q = torch.zeros(4, 6)


def sparse_rows(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tensor.to_sparse_csr()


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(3, 6),
        torch.zeros(6, 4).t(),
        torch.zeros(4, 12)[:, :6],
        torch.zeros(4, 6, dtype=torch.int32),
        torch.zeros(4, 6, device="meta"),
        Q.to_sparse(),
        sparse_rows(Q),
        Q.tolist(),
        None,
    ],
    ids=("shape", "strides", "stride", "dtype", "device", "layout", "rows", "list", "none"),
)
def test_other_arguments_are_told_from_those_that_were_checked(other: Any) -> None:
    signature = Signature(dict(q=Q, n=3))
    try:
        told = not signature.fits(dict(q=other, n=3))
        key = Signature(dict(q=other, n=3)).key
    except RuntimeError as error:  # torch's own, of what has no strides
        pytest.fail(str(error))
    assert told
    assert signature.key != key
    assert signature.fits(dict(q=Q.clone(), n="of numbers nothing"))
    assert signature.key == Signature(dict(q=Q.clone(), n=4)).key
    assert signature.key != Signature(dict(q=Q, n=4.0)).key
    assert signature.key != Signature(dict(k=Q, n=3)).key


def test_the_bytes_of_an_argument_are_all_between_its_ends() -> None:
    given = dict(q=Q, apart=torch.zeros(4, 12)[:, :6], sparse=sparse_rows(Q), n=3)
    assert Signature(given).nbytes == dict(q=96, apart=168, sparse=0)


def test_waves_take_turns_in_the_workspace() -> None:
    nodes = (
        Node("first", "a", writes=("kv",), weight=1),
        Node("second", "b", reads=("kv",), writes=("scores",), weight=9),
        Node("third", "c", reads=("scores",), weight=1),
    )

    def work(name: str, tokens: int) -> Any:
        return lambda buffers: buffers.append((name, tokens))

    works = {tokens: [work(node.name, tokens) for node in nodes] for tokens in (4, 3)}
    binding = Binding(Signature({}), nodes, 2, works, [])
    issued = binding.issued(3, lambda wave: 3 if wave == 2 else 4)
    assert sorted((node.wave, node.tokens, node.slot) for node in issued) == [
        *[(0, 4, 0)] * 3, *[(1, 4, 1)] * 3, *[(2, 3, 0)] * 3,
    ]  # fmt: skip
    # The next wave's first goes ahead of this one's last, which is to wait for its second.
    assert [(node.name, node.wave) for node in issued[:4]] == [
        ("first", 0), ("second", 0), ("first", 1), ("third", 0),
    ]  # fmt: skip
    waves: list[Any] = [[], [], []]
    for node in issued:
        node.run(waves)
    assert waves == [[(node.name, tokens) for node in nodes] for tokens in (4, 4, 3)]
    assert binding.issued(3, lambda wave: pytest.fail("looked again")) is issued
    assert len(binding.issued(1, lambda wave: 4)) == 3
    with pytest.raises(ValueError, match="zip"):
        Binding(Signature({}), nodes[:1], 2, works, []).issued(1, lambda wave: 4)


def test_a_shorter_wave_has_the_first_part_of_a_buffer() -> None:
    memory = dict(kv=torch.arange(48).view(4, 6, 2), m=torch.arange(4))
    part = views(memory, dict(N=2, KP=3, C=2, NB=1, H=1))
    assert part["kv"].equal(torch.arange(12).view(2, 3, 2))
    assert part["kv"].data_ptr() == memory["kv"].data_ptr()
    assert part["m"].shape == (2, 1, 1)
