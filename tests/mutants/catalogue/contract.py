"""The checks ahead of every launch."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(Mutant, file="dsv4_kernels/contract.py", tests="tests/segments/test_contract.py")

MUTANTS = (
    mutant(
        "any strides will do",
        "if not (_contiguous_parts(value) if apart else value.is_contiguous()):",
        "if value.is_sparse:",
        killed_by="test_wrong_tensor",
    ),
    mutant(
        "tensors may be on two devices",
        "if value.device != device:",
        "if value.device.index != device.index:",
        killed_by="test_wrong_tensor",
    ),
    mutant(
        "a letter may have two sizes",
        "return _size(dim, self.sizes) == size",
        "return _size(dim, self.sizes) != -size",
        killed_by="test_wrong_tensor",
    ),
    mutant(
        "any dtype will do",
        "fits = value.dtype == dtype and value.dim() == len(dims)",
        "fits = value.dim() == len(dims)",
        killed_by="test_wrong_tensor",
    ),
    mutant(
        "an integer may be one too large",
        "(high is None or number <= high)",
        "(high is None or number <= high + 1)",
        killed_by="test_wrong_integer",
    ),
    mutant(
        "a range of groups may end behind the last",
        "0 <= self.groups.start <= self.groups.stop <= G",
        "0 <= self.groups.start <= self.groups.stop <= G + 1",
        killed_by="test_wrong_sizes",
    ),
    mutant(
        "a pending negation is not carried out",
        "if tensor.is_neg():",
        "if False:",
        killed_by="test_memory_that_a_pointer_does_not_tell",
    ),
    mutant(
        "any layout will do",
        "if tensor.layout != torch.strided:",
        "if tensor.is_mkldnn:",
        killed_by="test_memory_that_a_pointer_does_not_tell",
    ),
    mutant(
        "a null pointer will do",
        "return None if pointer and (held",
        "return None if (held",
        killed_by="test_memory_that_a_pointer_does_not_tell",
    ),
    mutant(
        "a tensor of a transform ends in torch's own error",
        "except RuntimeError:",
        "except TimeoutError:",
        killed_by="test_a_tensor_under_a_transform_has_no_memory",
    ),
)
