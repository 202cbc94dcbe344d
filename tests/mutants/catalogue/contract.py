"""The checks ahead of every launch."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(Mutant, file="dsv4_kernels/contract.py", tests="tests/segments/test_contract.py")

MUTANTS = (
    mutant(
        "any strides will do",
        "if not value.is_contiguous():",
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
)
