"""Which tiles a kernel may run with."""

from functools import partial

from mutants.mutant import Mutant

TESTS = "tests/segments/test_tiles.py"
mutant = partial(Mutant, file="dsv4_kernels/segments/tiles.py", tests=TESTS)
segment = partial(Mutant, file="dsv4_kernels/segments/segment.py", tests=TESTS)
chain = partial(Mutant, file="dsv4_kernels/chains/prefill.py", tests=TESTS)
gather = partial(Mutant, file="dsv4_kernels/segments/gather_kv.py", tests=TESTS)
attention = partial(Mutant, file="dsv4_kernels/segments/qk_softmax_pv.py", tests=TESTS)

declared = partial(
    Mutant, file="dsv4_kernels/segments/segment.py", tests="tests/segments/test_declared.py"
)
family = partial(
    mutant, killed_by="tests/segments/test_declared.py::test_tiles_are_those_of_the_family"
)
IDLE = "test_where_nothing_is_to_be_done_no_device_is_asked"

MUTANTS = (
    family(
        "a CPU runs a GPU's tiles", 'if target.kind == "cuda" else', 'if target.kind != "npu" else'
    ),
    family("warps are never a segment's own", "self.num_warps,", "4,"),
    family("stages are never a segment's own", "self.num_stages,", "2,"),
    family("products are added before they are rounded", '_fusion": False', '_fusion": True'),
    family("eight warps where nobody says", "extent(4, high=32)", "extent(8, high=32)"),
    family("no budget is one", "raise NotImplementedError", "return Budget()"),
    declared(
        "numbers of numpy reach a kernel",
        "name: contract.sizes.get(name, numbers[name]) for",
        "name: numbers[name] for",
        killed_by="test_numbers_are_pythons_own",
    ),
    declared(
        "one call compiles for others",
        "dataclasses.replace(launch, beside=())(values)",
        "launch(values)",
        killed_by="test_a_call_compiles_what_it_launches_alone",
    ),
    declared(
        "an empty output is launched for by a plan",
        "        if self._nothing_to_do(contract, outputs):\n            return _no_launch\n",
        "",
        killed_by=IDLE,
    ),
    declared(
        "no group is launched for",
        "self.by_groups and not contract.groups",
        "False",
        killed_by=IDLE,
    ),
    declared(
        "one empty output of several is launched for",
        "no_group or any(",
        "no_group or all(",
        killed_by=IDLE,
    ),
    declared(
        "what another call needs is compiled but for one",
        "while self._uncompiled:",
        "if self._uncompiled:",
        killed_by="test_a_launch_looks_up_names_and_compiles_once_for_those_beside_it",
    ),
    declared(
        "tiles once chosen stay",
        "chosen=tiles)",
        "chosen=tiles or self.chosen)",
        killed_by="test_no_tiles_are_the_device_s_again",
    ),
    mutant(
        "no lowest tile",
        "if not self.low <= number <= self.high:",
        "if not number <= self.high:",
        killed_by="test_a_wrong_number_is_refused_with_its_rule",
    ),
    mutant(
        "no largest tile",
        "if not self.low <= number <= self.high:",
        "if not self.low <= number:",
        killed_by="test_a_wrong_number_is_refused_with_its_rule",
    ),
    mutant(
        "a tile need be no power of two",
        "return number & (number - 1) == 0 and (not",
        "return (not",
        killed_by="test_a_wrong_number_is_refused_with_its_rule",
    ),
    mutant(
        "a tile may pass the end of a row",
        " and (not self.divides or self.divides % number == 0)",
        "",
        killed_by="test_a_message_in_full",
    ),
    mutant(
        "a task of heads need be no number of steps",
        "return number % (numbers[step] if isinstance(step, str) else step) == 0",
        "return True",
        killed_by="test_a_message_in_full",
    ),
    mutant(
        "any tile may be None",
        "if value is None and getattr(type(self), name) is None:",
        "if value is None:",
        killed_by="test_a_wrong_number_is_refused_with_its_rule",
    ),
    mutant(
        "numpy's integers reach Triton",
        "return dataclasses.replace(self, **numbers)",
        "return self",
        killed_by="test_integers_of_numpy_become_pythons",
    ),
    mutant(
        "two sides may be more than Triton takes",
        "numbers[name] * width <= MOST_ELEMENTS,",
        "numbers[name] <= MOST_ELEMENTS,",
        killed_by="test_a_tile_that_triton_cannot_make_is_refused_by_both_sides",
    ),
    mutant(
        "more than a part has",
        "needed <= available,",
        "needed <= available or name != 'l0c',",
        killed_by="test_tiles_that_the_part_has_no_room_for_are_refused_with_both_numbers",
    ),
    *(
        mutant(
            f"the budget of {memory} is not looked at",
            "for name, available in target.memory._asdict().items():",
            f"for name, available in target.memory._replace({memory}=2**40)._asdict().items():",
            killed_by="test_tiles_that_the_part_has_no_room_for_are_refused_with_both_numbers",
        )
        for memory in ("ub", "l1", "l0c")
    ),
    segment(
        "any tiles will do",
        "contract.require(type(tiles) is self.tiles,",
        "contract.require(isinstance(tiles, Tiles),",
        killed_by="test_tiles_of_another_segment_are_refused",
    ),
    segment(
        "tiles of a subclass will do",
        "contract.require(type(tiles) is self.tiles,",
        "contract.require(isinstance(tiles, self.tiles),",
        killed_by="test_tiles_of_another_segment_are_refused",
    ),
    segment(
        "a chain's tiles are not checked",
        "tiles = self._checked_tiles(contract, self.chosen)",
        "tiles = self.chosen",
        killed_by="test_a_chain_refuses_them_before_its_first_launch[no power of two]",
    ),
    segment(
        "a call's tiles are not checked",
        "tiles = self._checked_tiles(contract, self.chosen if tiles is None else tiles)",
        "tiles = self.chosen if tiles is None else tiles",
        killed_by="test_a_message_in_full",
    ),
    segment(
        "the part's memory is not looked at",
        "        tiles.require_room(contract, target)\n",
        "",
        killed_by="test_tiles_that_the_part_has_no_room_for_are_refused_with_both_numbers",
    ),
    chain(
        "tiles of no segment are ignored",
        '        for name in tiles or ():\n            contract.one_of("tiles", name, SEGMENTS)\n',
        "",
        killed_by="test_a_chain_refuses_them_before_its_first_launch",
    ),
    gather(
        "a task may pass the end of a row",
        ", divides=BLOCK_COLUMNS",
        "",
        killed_by="test_a_wrong_number_is_refused_with_its_rule",
    ),
    gather(
        "a task may be a part of a run",
        "low=RUN_COLUMNS, ",
        "",
        killed_by="test_a_wrong_number_is_refused_with_its_rule",
    ),
    attention(
        "a part of a step",
        ', multiple_of="block_h"',
        "",
        killed_by="test_a_message_in_full",
    ),
    *(
        Mutant(
            "a tile's other side is not looked at",
            old,
            "",
            file=f"dsv4_kernels/segments/{name}.py",
            tests=TESTS,
            killed_by="test_a_tile_that_triton_cannot_make_is_refused_by_both_sides",
        )
        for name, old in (
            ("merge_norm", 'beside=("C",)'),
            ("merge_finish", 'beside=("C",)'),
            ("inverse_rope", 'beside=("P",)'),
            ("group_quant", 'beside=("block_r",)'),
            ("row_quant", 'beside=("block_r",)'),
            ("dequant_sum", 'beside=("block_d",)'),
        )
    ),
    *(
        Mutant(
            f"less than a cube multiplies: {old}",
            old,
            old.replace(", low=FRACTAL", "")
            .replace(", low=2 * FRACTAL", ", low=FRACTAL")
            .replace(", low=FEWEST_HEADS", ""),
            file=f"dsv4_kernels/segments/{name}.py",
            tests=TESTS,
            killed_by="test_a_wrong_number_is_refused_with_its_rule",
        )
        for name, old in (
            ("proj_a", "extent(256, low=FRACTAL"),
            ("proj_b", "extent(512, low=2 * FRACTAL"),
            ("qk_softmax_pv", "extent(32, low=FEWEST_HEADS"),
        )
    ),
)
