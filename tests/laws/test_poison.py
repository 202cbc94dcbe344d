"""The proof's proof: what a kernel forgets to write, or writes beside its output, is found."""

import pytest
import torch

from adversary import SMALL, adversarial_inputs, healed
from against import FORMS, OUTPUTS, chain
from dsv4_kernels.segments import SEGMENTS
from poison import BAND, SENTINELS, Poison, is_sentinel
from reference.compare import compare


@pytest.mark.parametrize("dtype", SENTINELS, ids=str)
@pytest.mark.parametrize("place", [-BAND, -1, 6, 5 + BAND])
def test_a_write_beside_a_tensor_is_found(place, dtype, device):
    poison = Poison(device)
    tensor = poison.tensor(2, 3, dtype=dtype).zero_()
    poison.check_bands()
    around = tensor.as_strided((6 + 2 * BAND,), (1,), tensor.storage_offset() - BAND)
    around[BAND + place] = 0
    with pytest.raises(AssertionError, match="outside of the output"):
        poison.check_bands()


def test_allocations_are_poisoned(device, poison):
    with poison.allocations():
        made = torch.empty([3, 4], dtype=torch.int8, device=device)
    assert made.shape == (3, 4)
    assert is_sentinel(made).all()


@pytest.fixture(scope="module")
def launches(device):
    """{segment: (what it took, what it wrote)} of one chunk in which every token is live."""
    generator = torch.Generator().manual_seed(0)
    inputs = healed(
        adversarial_inputs(SMALL, T=5, num_tokens=5, generator=generator, device=device)
    )
    inputs.cmp_sparse_lens.fill_(inputs.cmp_sparse_indices.shape[1])
    found = {}

    def executor(nodes, waves):
        for node in nodes:
            buffers, segment = waves[node.wave], SEGMENTS[node.name]
            taken = segment.inputs_of(buffers)
            taken |= {name: buffers[name].clone() for name in node.updates}
            node.run(waves)
            got = {name: buffer.clone() for name, buffer in segment.outputs_of(buffers).items()}
            found[node.name] = taken, got

    poison = Poison(device)
    for form in FORMS.values():
        with poison.allocations():
            chain(inputs, **form, groups_per_launch=2, executor=executor)
    poison.check_bands()
    return found


@pytest.mark.parametrize(
    ("segment", "buffer"), [(name, buffer) for name in SEGMENTS for buffer in OUTPUTS[name]]
)
def test_an_element_left_unwritten_is_refused(segment, buffer, launches):
    """Any of the outputs, at its first element and in its middle."""
    taken, got = launches[segment]
    assert all(verdict.holds for verdict in compare(segment, taken, got))
    assert not is_sentinel(got[buffer].view(-1)[0])
    for place in (0, got[buffer].numel() // 2):
        forgotten = got[buffer].clone()
        forgotten.view(-1)[place] = SENTINELS[forgotten.dtype]
        verdicts = compare(segment, taken, got | {buffer: forgotten})
        assert [v.buffer for v in verdicts if not v.holds] == [buffer]
