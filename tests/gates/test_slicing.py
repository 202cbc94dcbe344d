"""What is left of a kernel's scalar code counts as the whole of it does."""

from collections import Counter

import numpy as np
import pytest

from dsv4_kernels.backends.hivm.memory import Space, dense
from dsv4_kernels.backends.hivm.scalar import functions
from dsv4_kernels.backends.hivm.vector import is_aligned
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates.ascend import library
from dsv4_kernels.gates.ascend.counts import Counts, count
from dsv4_kernels.gates.ascend.launches import compile_chunk
from dsv4_kernels.gates.ascend.slicing import Operand, sliced

NOTHING = np.zeros(0, np.uint8)
X = np.array([3, 0, 2, 5, 1, 4])


class Walking:
    """A core on which the whole code runs, views and flags and all, and only calls count."""

    def __init__(self, counts, loaded, program, sub):
        self.counts, self.loaded, self.program, self.sub = counts, loaded, program, sub

    def at(self, space, offset, shape, type):
        return dense(Space(space, NOTHING), offset, shape, type)

    def call(self, name, operands, line):
        matters = []
        if library.path(name):
            matters = [Operand(v.space.name, v.type, v.elements) for v in operands[:2]]
        elif library.is_matmul(name):
            matters = operands[3:6]
        elif library.is_cast_of_bf16(name):
            matters = [all(is_aligned(view) for view in operands[:2])]
        self.counts.add_call(name, matters, 1)
        return ()

    def quiet(self, *_):
        return ()

    set_flag = wait_flag = barrier = block_set = block_wait = quiet

    def load(self, view, index, line):
        self.counts.scalar_loads += view.space.is_global
        values = self.loaded.get(view.space.name.removeprefix("gm:"), 0)
        element = view.element(index).offset // view.bits
        return values if isinstance(values, int) else values.item(element)

    def store(self, value, view, index, line):
        pass


def walked(hivm, grid, arguments, loaded):
    """`count`, of the whole code."""

    def pointer(name):
        return dense(Space(f"gm:{name}", NOTHING), 0, (0,), "i8")

    counts = Counts()
    given = [pointer(name) if value is None else value for name, value in arguments.items()]
    for function in functions(hivm):
        for program in range(grid):
            for sub in range(2 if function.paired else 1):
                core = Walking(counts, loaded, program, sub)
                hidden = (None, pointer("lock"), pointer("workspace"))
                assert not [*function.run(core, *hidden, *given, grid, 1, 1)]
        counts.scalar_loops += function.element_loops
    return counts


# -- every way in which what is counted can depend on what went before

MODULE = """\
module {
  func.func @k(%arg0: i64, %arg1: memref<?xi8>, %arg2: memref<?xi8>, %arg3: memref<?xi32>, \
%arg4: memref<?xbf16>, %arg5: i32, %arg6: i32, %arg7: i32, %arg8: i32) attributes {a = 1} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c2 = arith.constant 2 : index
    %c3 = arith.constant 3 : index
    %c8 = arith.constant 8 : index
    %size = arith.index_cast %arg5 : i32 to index
    %a = hivm.hir.pointer_cast(%c0) : memref<16x8xf32, #hivm.address_space<ub>>
    %b = hivm.hir.pointer_cast(%c8) : memref<16x8xf32, #hivm.address_space<ub>>
    %half = hivm.hir.pointer_cast(%c0) : memref<8x8xf32, #hivm.address_space<ub>>
    %gm = memref.reinterpret_cast %arg4 to offset: [0], sizes: [16, 8], strides: [8, 1] : \
memref<?xbf16> to memref<16x8xbf16, strided<[8, 1]>, #hivm.address_space<gm>>
    %x = memref.reinterpret_cast %arg3 to offset: [0], sizes: [6], strides: [1] : \
memref<?xi32> to memref<6xi32, strided<[1]>, #hivm.address_space<gm>>
    %own = memref.view %arg2[%c0][] : memref<?xi8> to memref<16x8xf32>
BODY
    return
  }
}
"""
FOR = "scf.for %i = %c0 to %size step %c1 {"
PART = "[0, 0] [{0}, 8] [1, 1] : memref<16x8xf32> to memref<?x8xf32, strided<[8, 1]>>"
LOAD = "memref.load %x[{0}] : memref<?xi32, #hivm.address_space<gm>>"
VECTOR = "func.call @vadd_1d_float(%a, %a, %a) : () -> ()"


def copy(source, target="%a"):
    return f"func.call @load_gm_to_ubuf_2d_float({source}, {target}) : () -> ()"


def store(source, target):
    return f"func.call @store_ubuf_to_gm_2d_float({source}, {target}) : () -> ()"


BODIES = {
    "trips that are the same": [FOR, VECTOR, "}"],
    "of loops in loops": [FOR, "scf.for %j = %c0 to %c3 step %c2 {", VECTOR, "}", VECTOR, "}"],
    "a loop as long as its trip says": [FOR, "scf.for %j = %c0 to %i step %c1 {", VECTOR, "}", "}"],
    "a size that a trip says": [
        FOR, f"%p = memref.subview %a{PART.format('%i')}", copy("%gm", "%p"), "}",
    ],
    "a size of two numbers": [
        FOR,
        "%p = memref.subview %a[0, 0] [%i, %size] [1, 1] : memref<16x8xf32> to memref<?x?xf32, "
        "strided<[8, 1]>>",
        copy("%own", "%p"),
        "}",
    ],
    "a size that is a view's own": [
        FOR,
        f"%p = memref.subview %a{PART.format('%i')}",
        "%d = memref.dim %p, %c0 : memref<?x8xf32>",
        "scf.for %j = %c0 to %d step %c1 {", VECTOR, "}",
        "}",
    ],
    "a size that is read off a view": [
        FOR,
        f"%p = memref.subview %a{PART.format('%i')}",
        "%base, %o, %s:2, %t:2 = memref.extract_strided_metadata %p : memref<?x8xf32>",
        "%q = memref.reinterpret_cast %base to offset: [%o], sizes: [%s#0, 4], strides: [8, 1] : "
        "memref<f32> to memref<?x4xf32, strided<[8, 1]>, #hivm.address_space<ub>>",
        copy("%own", "%q"),
        "}",
    ],
    "types of one size": [copy("%gm"), copy("%own"), store("%a", "%gm"), store("%a", "%own")],
    "a type of the same width": [
        "%f = hivm.hir.bitcast %gm : memref<16x8xbf16> -> memref<16x8xf16>",
        copy("%f"),
    ],
    "the same in other shapes": [
        "%p = memref.collapse_shape %a [[0, 1]] : memref<16x8xf32> into memref<128xf32>",
        "%q = memref.expand_shape %p [[0, 1]] output_shape [4, 32] : memref<128xf32> into "
        "memref<4x32xf32>",
        copy("%own", "%q"),
    ],
    "a view of fewer axes": [
        FOR,
        "%p = memref.subview %a[%i, 0] [1, 8] [1, 1] : memref<16x8xf32> to memref<8xf32, "
        "strided<[1]>>",
        copy("%own", "%p"),
        "}",
    ],
    "buffers that take turns": [
        FOR,
        "%odd = arith.remsi %i, %c2 : index",
        "%is = arith.cmpi eq, %odd, %c0 : index",
        "%p = arith.select %is, %a, %b : memref<16x8xf32>",
        copy("%own", "%p"),
        "}",
    ],
    "buffers that differ in size": [
        FOR,
        "%odd = arith.remsi %i, %c3 : index",
        "%is = arith.cmpi eq, %odd, %c0 : index",
        "%p = arith.select %is, %a, %half : memref<16x8xf32>",
        copy("%own", "%p"),
        "}",
    ],
    "a condition": [
        FOR, "%is = arith.cmpi slt, %i, %c3 : index", "scf.if %is {", VECTOR, "} else {",
        copy("%gm"), "}", "}",
    ],
    "the other branch alone": [
        FOR, "%is = arith.cmpi slt, %i, %c3 : index", "scf.if %is {", "} else {", VECTOR, "}", "}",
    ],
    "what a condition hands out": [
        FOR,
        "%is = arith.cmpi slt, %i, %c3 : index",
        "%r:2 = scf.if %is -> (index, memref<16x8xf32>) {",
        "%u = arith.addi %i, %c1 : index",
        "scf.yield %u, %a : index, memref<16x8xf32>",
        "} else {",
        "%u = arith.addi %i, %c8 : index",
        "scf.yield %u, %b : index, memref<16x8xf32>",
        "}",
        "scf.for %j = %c0 to %r#0 step %c1 {", copy("%gm", "%r#1"), "}",
        "}",
    ],
    "what a condition hands out, the same in every trip": [
        FOR,
        "%is = arith.cmpi slt, %size, %c3 : index",
        "%r = scf.if %is -> (index) {",
        "scf.yield %c1 : index",
        "} else {",
        "scf.yield %c3 : index",
        "}",
        "scf.for %j = %c0 to %r step %c1 {", VECTOR, "}",
        "}",
    ],
    "what a trip hands to the next": [
        "%r = scf.for %i = %c0 to %size step %c1 iter_args(%s = %c1) -> (index) {",
        "scf.for %j = %c0 to %s step %c1 {", VECTOR, "}",
        "%t = arith.addi %s, %s : index",
        "scf.yield %t : index",
        "}",
        "scf.for %j = %c0 to %r step %c1 {", copy("%gm"), "}",
    ],
    "what a trip hands to the next in another's place": [
        "%r:2 = scf.for %i = %c0 to %size step %c1 iter_args(%s = %c1, %t = %c8) -> (index, "
        "index) {",
        "scf.for %j = %c0 to %s step %c1 {", VECTOR, "}",
        "scf.yield %t, %s : index, index",
        "}",
        "scf.for %j = %c0 to %r#1 step %c1 {", copy("%gm"), "}",
    ],
    "what only a later trip needs, in a loop": [
        FOR,
        "%r:2 = scf.for %k = %c0 to %i step %c1 iter_args(%s = %c0, %t = %c1) -> (index, index) {",
        "scf.for %j = %c0 to %s step %c1 {", VECTOR, "}",
        "%u = arith.addi %t, %c2 : index",
        "scf.yield %t, %u : index, index",
        "}",
        "}",
    ],
    "a view that is handed on": [
        "%r = scf.for %i = %c0 to %size step %c1 iter_args(%s = %a) -> (memref<16x8xf32>) {",
        copy("%gm", "%s"),
        "scf.yield %b : memref<16x8xf32>",
        "}",
        store("%r", "%own"),
    ],
    "a name that two loops have": [
        FOR, "%u = arith.addi %size, %c1 : index", "scf.for %j = %c0 to %u step %c1 {", VECTOR, "}",
        "}",
        FOR, "%u = arith.addi %i, %c1 : index", "scf.for %j = %c0 to %u step %c1 {", VECTOR, "}",
        "}",
    ],
    "loads": [FOR, f"%u = {LOAD.format('%i')}", "}"],
    "what is loaded": [
        "%v = memref.reinterpret_cast %x to offset: [1], sizes: [4], strides: [1] : memref<?xi32> "
        "to memref<4xi32, strided<[1], offset: 1>, #hivm.address_space<gm>>",
        FOR,
        f"%u = {LOAD.format('%i').replace('%x', '%v')}",
        "%w = arith.index_cast %u : i32 to index",
        "scf.for %j = %c0 to %w step %c1 {", VECTOR, "}",
        "}",
    ],
    "what is loaded from a core's own memory": [
        FOR,
        "%u = memref.load %a[%c0, %i] : memref<16x8xf32, #hivm.address_space<ub>>",
        "%w = arith.fptosi %u : f32 to i32",
        "%z = arith.index_cast %w : i32 to index",
        "scf.for %j = %z to %c3 step %c1 {", VECTOR, "}",
        "}",
    ],
    "a matmul of a trip's size": [
        FOR, "func.call @mma_tile_x(%a, %b, %c1, %i, %size, %c8, %a) : () -> ()", "}",
    ],
    "casts": [
        FOR,
        "%o = arith.muli %i, %c8 : index",
        "%at = arith.index_cast %o : index to i64",
        "%h = hivm.hir.pointer_cast(%at) : memref<8xbf16, #hivm.address_space<ub>>",
        "func.call @vcast_float_to_bfloat16_t_1d(%a, %h, %c0) : () -> ()",
        "}",
    ],
    "a program's own": [
        "%p = hivm.hir.get_block_idx -> i64",
        "%u = arith.index_cast %p : i64 to index",
        "scf.for %i = %c0 to %u step %c1 {", VECTOR, "}",
    ],
    "flags and stores": [
        FOR,
        "hivm.hir.set_flag[<PIPE_V>, <PIPE_MTE3>, <EVENT_ID0>]",
        "hivm.hir.pipe_barrier[<PIPE_V>]",
        "memref.store %arg5, %x[%i] : memref<?xi32>",
        "hivm.hir.wait_flag[<PIPE_V>, <PIPE_MTE3>, <EVENT_ID0>]",
        "}",
    ],
}  # fmt: skip


def module(body):
    return MODULE.replace("BODY", "\n".join(body))


@pytest.mark.parametrize("body", BODIES.values(), ids=list(BODIES))
def test_a_slice_counts_as_the_whole_does(body):
    for n in (0, 1, 4):
        for loaded in ({}, {"x": 2}, {"x": X}):
            asked = module(body), 3, {"x": None, "y": None, "n": n}, loaded
            assert count(*asked) == walked(*asked), (n, loaded)


def test_a_kernel_counts_as_its_whole_code_does():
    """Of a chunk with few live blocks, whose tiles differ."""
    dims = PRESETS["FLASH"]
    draw = np.random.default_rng(0)
    runs = draw.choice([0, 5, 16], 128 * dims.index_columns // 16)
    rows = draw.integers(-1, 400, 128 * dims.index_columns)
    live_blocks = np.resize([0, 0, 1, 0, 0, 0, 0, 2], 128)
    loaded = dict(live_blocks_ptr=live_blocks, runs_ptr=runs, rows_ptr=rows, live_slots_ptr=1)
    for compiled in compile_chunk("Ascend910B3", dims):
        launch = compiled.launch
        arguments = {
            name: value if isinstance(value, int | float) else None
            for name, value in launch.arguments.items()
        }
        asked = launch.hivm, launch.grid, arguments, loaded
        assert count(*asked) == walked(*asked), compiled.label


# -- what makes it worth it


NAMED_AGAIN = [
    FOR, "%u = hivm.hir.pointer_cast(%c8) : memref<16x8xf32, #hivm.address_space<ub>>",
    copy("%gm", "%u"), "}",
    FOR, "%u = arith.addi %c1, %c1 : index", "scf.for %j = %c0 to %u step %c1 {", VECTOR, "}", "}",
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "calls"),
    [
        (BODIES["of loops in loops"], 3),
        (BODIES["buffers that take turns"], 1),
        (BODIES["what a condition hands out, the same in every trip"], 3),
        (NAMED_AGAIN, 3),
    ],
)
def test_what_changes_no_count_is_not_run(body, calls):
    """Of trips that are all the same one is; no view is made for its size."""

    class Core:
        def at(self, *asked):
            raise AssertionError(asked)

    class Tally(Counter):
        added = 0

        def __setitem__(self, name, value):
            self.added += 1
            super().__setitem__(name, value)

    (function,) = functions(module(body))
    spaces = ("", "gm:lock", "gm:workspace", "gm:x", "gm:y", "", "", "", "")
    run = sliced(function, spaces, frozenset())
    tally, trips = Tally(), 1000
    run(Core(), tally, {}, None, None, *[None] * 5, trips, 1, 1, 1)
    assert sum(tally.values()) == calls * trips
    assert tally.added <= 2


# -- what it cannot tell


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (
            [
                "%is = arith.cmpi slt, %size, %c3 : index",
                "%r = scf.if %is -> (memref<16x8xf32>) {",
                "scf.yield %a : memref<16x8xf32>",
                "} else {",
                "scf.yield %half : memref<16x8xf32>",
                "}",
            ],
            "v_r",
        ),
        (
            [
                "%is = arith.cmpi slt, %size, %c3 : index",
                "%r = arith.select %is, %gm, %own : memref<16x8xf32>",
            ],
            "v_r",
        ),
        ([copy("%size")], "v_size"),
    ],
)
def test_a_view_of_which_too_little_is_known_is_an_error(body, name):
    with pytest.raises(ValueError, match=f"cannot tell .* `{name}`"):
        count(module(body), 1, {"x": None, "y": None, "n": 1})
