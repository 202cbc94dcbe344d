"""The walker of compiled IR against arithmetic by hand, and its refusals."""

import numpy as np
import pytest

from dsv4_kernels.backends.hivm.memory import OutOfBounds
from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates.ascend.compiler import AscendKernel
from dsv4_kernels.gates.ascend.counts import LOADED, count
from dsv4_kernels.gates.ascend.gate import count_launch, count_launches
from dsv4_kernels.gates.ascend.launches import compile_chunk

MIB = 2**20
T = 128


@pytest.fixture(scope="module", params=PRESETS)
def counted(request):
    """The preset's dimensions, and the counts of its segments for one chunk of 128 tokens."""
    dims = PRESETS[request.param]
    return dims, {c.label: count_launches(c) for c in compile_chunk("Ascend910B3", dims)}


@pytest.fixture(scope="module", params=PRESETS)
def compiled(request):
    """The preset's dimensions, and its compiled segments by name."""
    dims = PRESETS[request.param]
    segments = ("gather_kv", "qk_softmax_pv", "merge_finish", "merge_norm")
    return dims, {c.segment: c for c in compile_chunk("Ascend910B3", dims, segments=segments)}


def test_proj_a(counted):
    dims, counts = counted
    got = counts["proj_a"]
    tasks = dims.groups * dims.o_lora_rank // 128  # one tile of 128 tokens
    steps = dims.group_inputs // 256
    assert got.gm_to_l1 == tasks * steps * 2 * 128 * 256 * 2
    assert got.l0c_to_gm == T * dims.groups * dims.o_lora_rank * 4
    assert got.macs == T * dims.groups * dims.o_lora_rank * dims.group_inputs
    assert got.dma == tasks * (2 * steps + 1)
    assert got.gm_to_ub == got.ub_to_gm == got.workspace == got.vector == 0
    if dims is PRESETS["FLASH"]:
        assert (got.gm_to_l1, got.l0c_to_gm) == (128 * MIB, 4 * MIB)


def test_proj_b(counted):
    dims, counts = counted
    got = counts["proj_b"]
    tasks = dims.groups * dims.hidden // 128
    steps = dims.o_lora_rank // 512
    assert got.gm_to_l1 == tasks * steps * 2 * 128 * 512
    assert got.l0c_to_gm == dims.groups * T * dims.hidden * 4
    assert got.macs == T * dims.groups * dims.o_lora_rank * dims.hidden
    assert got.dma == tasks * (2 * steps + 1)
    assert got.vector == 0


def test_qk_softmax_pv(counted):
    dims, counts = counted
    got = counts["qk_softmax_pv"]
    H, C = dims.heads, dims.head_dim
    blocks = T * dims.index_columns // 128
    scores, p = blocks * H * 128 * 4, blocks * H * 128 * 2
    assert got.gm_to_l1 == blocks * (128 * C * 2 + H * C * 2) + p  # KV once for all heads
    assert got.l0c_to_gm == blocks * H * C * 4 + scores
    assert got.ub_to_gm == p + blocks * H * 2 * 4  # P, m and l
    # Both vector cores of a pair load the bias, once per block and head tile or less.
    bias = got.gm_to_ub - scores
    assert 2 * blocks * 128 * 4 <= bias <= 2 * blocks * 128 * 4 * (H // 32)
    assert got.workspace == 2 * scores + 2 * p
    assert got.macs == 2 * blocks * H * 128 * C


@pytest.mark.parametrize(("mark", "pieces"), [(16, 1), (5, 2), (0, 16)])
def test_gather_kv_moves_each_row_once(compiled, mark, pieces):
    """In one piece, in two, or row by row."""
    dims, chunk = compiled
    got = count_launches(chunk["gather_kv"], LOADED | {"runs_ptr": mark})
    rows = T * dims.index_columns
    assert got.gm_to_ub == got.ub_to_gm == rows * dims.head_dim * 2
    assert got.dma == 2 * rows * pieces // 16
    assert got.scalar_loads == T * (dims.index_columns // 128) + rows // 16 * (1 + pieces)


def test_a_loaded_element_is_its_own(compiled):
    """Marks and live blocks that differ by tile and run; what is not live is not looked at."""
    dims, chunk = compiled
    NB = dims.index_columns // 128
    runs = np.resize([16, 5, 0], (T, NB * 8))
    live_blocks = np.arange(T) % (NB + 1)
    live = np.arange(NB * 8) < 8 * live_blocks[:, None]
    pieces = np.select([runs == 16, runs == 5], [1, 2], 16)[live]
    loaded = LOADED | {"runs_ptr": runs, "live_blocks_ptr": live_blocks}
    got = count_launches(chunk["gather_kv"], loaded)
    assert got.dma == 2 * pieces.sum()
    assert got.scalar_loads == T * NB + live.sum() + pieces.sum()
    assert got.gm_to_ub == live.sum() * 16 * dims.head_dim * 2


@pytest.mark.parametrize("name", ["rows_ptr", "runs_ptr", "live_blocks_ptr"])
def test_an_element_that_an_array_lacks_is_an_error(compiled, name):
    dims, chunk = compiled
    whole = dict(rows_ptr=T * dims.index_columns, live_blocks_ptr=T)
    whole["runs_ptr"] = whole["rows_ptr"] // 16
    values = np.full(whole[name], 130)
    count_launches(chunk["gather_kv"], LOADED | {name: values})
    message = f"element {len(values) - 1} of the {len(values) - 1} of {name}"
    with pytest.raises(OutOfBounds, match=message):
        count_launches(chunk["gather_kv"], LOADED | {name: values[:-1]})


@pytest.mark.parametrize("segment", ["gather_kv", "qk_softmax_pv", "merge_finish", "merge_norm"])
def test_work_is_linear_in_live_blocks(compiled, segment):
    """A block is a fifth of FLASH's and a ninth of PRO's; none leaves the tail only."""
    dims, chunk = compiled
    NB = dims.index_columns // 128
    blocks = (1, NB // 2, NB)
    none, *some = (
        count_launches(chunk[segment], LOADED | {"live_blocks_ptr": n}) for n in (0, *blocks)
    )
    for path in ("gm_to_l1", "gm_to_ub", "l0c_to_gm", "macs"):
        base, of_a_block = getattr(none, path), getattr(some[0], path) - getattr(none, path)
        assert [getattr(of, path) for of in some] == [base + n * of_a_block for n in blocks]
    assert none.gm_to_l1 == none.macs == 0
    assert none.gm_to_ub <= some[0].gm_to_ub / 8


def test_vector_segments(counted):
    dims, counts = counted
    ranks = T * dims.groups * dims.o_lora_rank
    assert counts["group_quant"].gm_to_ub == 2 * ranks * 4  # two passes
    assert counts["group_quant"].ub_to_gm == ranks + T * dims.groups * 4
    last = f"dequant_sum[{dims.groups - 4}:{dims.groups}]"
    assert counts[last].ub_to_gm == T * dims.hidden * 2
    assert counts["dequant_sum[0:4]"].ub_to_gm == T * dims.hidden * 4  # sums, handed on in fp32
    merged = T * dims.heads * (dims.head_dim - dims.rope_dim) * 2
    rope = T * dims.heads * dims.rope_dim
    assert counts["merge_norm"].ub_to_gm == merged + rope * 4
    assert counts["inverse_rope"].ub_to_gm == rope * 2
    assert all(of.scalar_loops == 0 for of in counts.values())


def test_a_tail_in_one_segment_moves_all_but_o_rope(counted):
    """Which is written once and read once where it is in two, 4 MiB of FLASH and 8 of PRO."""
    dims, counts = counted
    one, *two = (counts[name] for name in ("merge_finish", "merge_norm", "inverse_rope"))
    assert one.ub_to_gm == T * dims.heads * dims.head_dim * 2
    o_rope = T * dims.heads * dims.rope_dim * 4
    assert sum(of.moved for of in two) - one.moved == 2 * o_rope
    assert one.moved <= 1.01 * (
        T * dims.heads * dims.head_dim * (dims.index_columns // 128 * 4 + 2)
    )
    assert one.unaligned_casts == 0


MODULE = """\
#map = affine_map<()[s0] -> (s0 * 2 + 1)>
module {
  func.func @k(%arg0: i64, %arg1: i64, %arg2: i64, %arg3: memref<?xf32>, %arg4: i32, %arg5: i32, \
%arg6: i32, %arg7: i32) attributes {hacc.function_kind = #hacc.function_kind<DEVICE>} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %0 = arith.index_cast %arg4 : i32 to index
    %1 = affine.apply #map()[%0]
    %ub = hivm.hir.pointer_cast(%c0) : memref<16xf32, #hivm.address_space<ub>>
    %cast = memref.reinterpret_cast %arg3 to offset: [0], sizes: [%1], strides: [1] : \
memref<?xf32> to memref<?xf32, strided<[1]>, #hivm.address_space<gm>>
    scf.for %arg8 = %c0 to %0 step %c1 {
BODY
    }
    return
  }
}
"""


def walk(body: str, n: int = 5, grid: int = 3, loaded=LOADED):
    return count(MODULE.replace("BODY", body), grid, {"x_ptr": None, "n": n}, loaded)


def test_loops_maps_and_sizes():
    got = walk("      func.call @load_gm_to_ubuf_1d_float(%cast, %ub, %c0) : () -> ()")
    assert got.dma == 3 * 5
    assert got.gm_to_ub == 3 * 5 * (2 * 5 + 1) * 4
    assert walk("      func.call @vadd_1d_float(%ub, %ub, %ub) : () -> ()", n=0).vector == 0


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize(("grid", "n", "loaded"), [(3, 5, 2), (4, 5, 2), (3, 6, 2), (3, 5, 4)])
def test_a_launch_is_counted_for_its_own_grid_and_values(grid, n, loaded, calls):
    """Also where another one was counted before."""
    body = """\
      %2 = memref.load %cast[%c0] : memref<?xi32, strided<[1]>, #hivm.address_space<gm>>
      %3 = arith.index_cast %2 : i32 to index
      scf.for %arg9 = %c0 to %3 step %c1 {
CALLS
      }"""
    call = "        func.call @vadd_1d_float(%ub, %ub, %ub) : () -> ()\n"
    hivm = MODULE.replace("BODY", body.replace("CALLS", calls * call))
    launch = AscendKernel(grid=grid, arguments={"x_ptr": None, "n": n}, hivm=hivm)
    first = count_launch(launch, {"x_ptr": loaded})
    assert first.vector == grid * n * loaded * calls
    assert count_launch(launch, {"x_ptr": loaded}) is first  # a walk takes up to a second


def test_a_loop_over_elements_is_seen():
    body = "      %2 = memref.load %ub[%arg8] : memref<16xf32, #hivm.address_space<ub>>"
    assert walk(body).scalar_loops == 1
    once = "      %2 = memref.load %ub[%c0] : memref<16xf32, #hivm.address_space<ub>>"
    assert walk(once).scalar_loops == 0


@pytest.mark.parametrize(
    ("offset", "source", "target", "seen"),
    [
        (0, "float", "bfloat16_t", 0),
        (32, "bfloat16_t", "float", 0),
        (30, "bfloat16_t", "float", 15),
        (8, "float", "bfloat16_t", 15),
        (8, "float", "int32_t", 0),
    ],
)
def test_casts_of_bf16_off_32_bytes_are_counted(offset, source, target, seen):
    """Of the source, which comes from an address of its own."""
    wide = {"float": "f32", "bfloat16_t": "bf16", "int32_t": "i32"}
    body = "\n".join(
        [
            f"      %at = arith.constant {offset} : i64",
            f"      %a = hivm.hir.pointer_cast(%at) : memref<8x{wide[source]}, "
            "#hivm.address_space<ub>>",
            f"      %b = hivm.hir.pointer_cast(%c0) : memref<8x{wide[target]}, "
            "#hivm.address_space<ub>>",
            f"      func.call @vcast_{source}_to_{target}_1d_with_mode(%a, %b, %c0) : () -> ()",
            f"      func.call @vcast_{source}_to_{target}_1d_with_mode(%b, %b, %c0) : () -> ()",
        ]
    )
    assert walk(body).unaligned_casts == seen
    swapped = body.replace("mode(%a, %b", "mode(%b, %a")
    assert walk(swapped).unaligned_casts == seen


def test_an_element_before_an_array_is_an_error():
    body = """\
      %m = arith.constant -1 : index
      %2 = memref.load %cast[%m] : memref<?xf32, strided<[1]>, #hivm.address_space<gm>>"""
    with pytest.raises(OutOfBounds, match="element -1 of the 9 of x_ptr"):
        walk(body, loaded={"x_ptr": np.zeros(9)})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("      func.call @teleport_1d(%cast, %ub) : () -> ()", "library function `teleport_1d`"),
        ("      %2 = hivm.hir.guess %ub : i32", "unknown operation `hivm.hir.guess`"),
        ("      scf.while %2 {", "unknown operation `scf.while`"),
    ],
)
def test_what_is_unknown_is_an_error(body, message):
    with pytest.raises(ValueError, match=message):
        walk(body)
