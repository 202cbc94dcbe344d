"""The checks ahead of every launch."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(Mutant, file="dsv4_kernels/contract.py", tests="tests/segments/test_contract.py")
check = partial(Mutant, file="dsv4_kernels/contract.py", tests="tests/test_checks.py")

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
        "return None if pointer and held",
        "return None if held",
        killed_by="test_memory_that_a_pointer_does_not_tell",
    ),
    mutant(
        "a tensor of a transform ends in torch's own error",
        "except RuntimeError:",
        "except TimeoutError:",
        killed_by="test_a_tensor_under_a_transform_has_no_memory",
    ),
    check(
        "the stride of a single row counts",
        "many = len(tensor) > 1 and",
        "many = len(tensor) > 0 and",
        killed_by="test_rows_lie_whole_blocks_apart[1-40-32]",
    ),
    check(
        "two rows lie side by side",
        "many = len(tensor) > 1 and",
        "many = len(tensor) > 2 and",
        killed_by="test_rows_lie_whole_blocks_apart[2-48-48]",
    ),
    check(
        "a slice has the memory of its elements side by side",
        "tensor.storage_offset() + span(tensor)",
        "tensor.storage_offset() + tensor.numel()",
        killed_by="test_memory_is_held_up_to_the_last_element",
    ),
    check(
        "a view begins where its memory does",
        "tensor.storage_offset() + span(tensor)",
        "span(tensor)",
        killed_by="test_memory_is_held_up_to_the_last_element",
    ),
    check(
        "half of a memory may be gone",
        "if pointer and held >= needed else",
        "if pointer else",
        killed_by="test_memory_is_held_up_to_the_last_element",
    ),
    check(
        "a message has sizes that only its own tensor has",
        'f"{_words(dims, before, dtype)}, {how}"',
        'f"{_words(dims, self.sizes, dtype)}, {how}"',
        killed_by="test_what_lies_along_the_other_axes_is_contiguous",
    ),
    check(
        "a product of letters binds its first",
        "if len(dim) == 1 and dim[0] not in",
        "if dim[0] not in",
        killed_by="test_a_literal_size_is_said_once",
    ),
    check(
        "what follows from a leaf may not be written",
        "leaf = out.requires_grad and out.is_leaf",
        "leaf = out.requires_grad",
        killed_by="test_a_leaf_may_not_be_written_and_what_follows_from_one_may",
    ),
    check(
        "an input around the output is apart from it",
        "if first < end and begin < first + size:",
        "if begin <= first < end:",
        killed_by="test_an_output_shares_no_byte_with_an_input[7-13-True]",
    ),
    check(
        "one is no power of two",
        "low: int = 1) -> None:",
        "low: int = 2) -> None:",
        killed_by="test_a_power_of_two_from_its_lowest_on",
    ),
    check(
        "the names that are known are said in another order",
        "{', '.join(known)}",
        "{', '.join(sorted(known))}",
        killed_by="test_a_name_is_one_of_those_known_in_their_order",
    ),
    check(
        "unknown names are said in any order",
        "unknown = sorted(",
        "unknown = list(",
        killed_by="test_arguments_by_place_and_by_name",
    ),
    check(
        "what is known wins over what is given",
        "{**known, **given, **kwargs}",
        "{**given, **kwargs, **known}",
        killed_by="test_arguments_by_place_and_by_name",
    ),
)
