"""What a chain is made of: lanes, chunks of groups, and which segments."""

from functools import partial

from mutants.mutant import Mutant

attention = partial(
    Mutant, file="dsv4_kernels/chains/attention.py", tests="tests/launcher/test_lanes.py"
)
projection = partial(
    Mutant, file="dsv4_kernels/chains/projection.py", tests="tests/launcher/test_lanes.py"
)
node = partial(Mutant, file="dsv4_kernels/chains/node.py", tests="tests/launcher/test_lanes.py")
buffers = partial(Mutant, file="dsv4_kernels/buffers.py", tests="tests/launcher/test_lanes.py")

MUTANTS = (
    *(
        Mutant(
            wrong,
            file=f"dsv4_kernels/chains/{file}.py",
            old=old,
            new=new,
            tests="tests/chains/test_one_kernel.py",
            killed_by="test_lanes_take_whole_blocks_on_cuda[cuda-256]",
        )
        for wrong, file, old, new in (
            ("a tail on CUDA", "attention", "BLOCK_COLUMNS if on_cuda else None", "None"),
            (
                "a chunk's tail on CUDA",
                "prefill",
                '                tail=attention_forms.tail_on(arguments["q"]),\n',
                "",
            ),
            (
                "a batch's tail on CUDA",
                "batch",
                'attention=form, tail=tail_on(named["q"]), ',
                "attention=form, ",
            ),
        )
    ),
    attention(
        "the gather shares the vector lane",
        'yield node(segments["gather_kv"], sizes, lane="gather")',
        'yield node(segments["gather_kv"], sizes)',
        killed_by="tests/commands/test_overlap.py::test_most_vector_work_may_run_beside_cube_work",
    ),
    attention(
        "lanes take whole blocks only",
        'TAIL = {"lanes": FRACTAL}',
        'TAIL = {"lanes": 8 * FRACTAL}',
        killed_by="tests/gates/test_layers.py::test_lanes_move_no_more_than_their_bounds[layer2-0.4-0.05-0.05]",
    ),
    attention(
        "no inverse RoPE",
        '        yield node(segments["inverse_rope"], sizes, groups=groups)\n',
        "",
        killed_by="tests/chains/test_attention_forms.py::"
        "test_the_tail_in_two_segments_changes_no_byte[decoupled]",
    ),
    attention(
        "the tail is in two segments by default",
        'DEFAULTS = {"cuda": "one_kernel"}',
        'DEFAULTS = {"cuda": "one_kernel", "cpu": "separate_tail", "npu": "separate_tail"}',
        killed_by="tests/chains/test_one_kernel.py::test_it_is_the_default_on_cuda_alone",
    ),
    projection(
        "the last proj_b is left out",
        "(node(segments[name], sizes, groups=groups) for groups in parts)",
        '(node(segments[name], sizes, groups=groups) for groups in parts if name != "proj_b")',
        killed_by="test_every_group_is_launched_once",
    ),
    node(
        "the last groups are left out where they fill no launch",
        "range(0, groups, groups_per_launch)",
        "range(0, groups - groups_per_launch + 1, groups_per_launch)",
        killed_by="test_every_group_is_launched_once",
    ),
    node(
        "every launch is for all groups",
        'parts=() if groups is None else (("groups", groups),)',
        "parts=()",
        killed_by="test_groups_are_independent_until_the_sum",
    ),
    buffers(
        "a barrier before proj_b: codes have no groups",
        '"codes", "N G R", int8',
        '"codes", "N D R", int8',
        killed_by="test_groups_are_independent_until_the_sum",
    ),
    buffers(
        "wo_b has no part for a group",
        "if letter in factors",
        "if [letter] == factors",
        killed_by="tests/chains/test_nodes.py::test_a_group_has_a_part_of_every_buffer_that_has_groups",
    ),
    Mutant(
        "every wave has the first tiles' counts",
        '"U": slice(first // X, -(-last // X))',
        '"U": slice(0, -(-(last - first) // X))',
        killed_by="tests/launcher/test_plan.py::test_any_legal_order_gives_the_same_bytes",
        file="dsv4_kernels/launcher/plan.py",
        tests="tests/chains/test_sharers.py",
    ),
    Mutant(
        "a tile may be cut by the end of a wave",
        "self._wave_tokens % X == 0,",
        "True,",
        killed_by="test_a_tile_belongs_to_one_wave",
        file="dsv4_kernels/launcher/plan.py",
        tests="tests/chains/test_sharers.py",
    ),
    Mutant(
        "nobody shares",
        "self._sharers = check_sharers(contract, sharers)",
        "self._sharers = 1",
        killed_by="test_a_tile_belongs_to_one_wave",
        file="dsv4_kernels/chains/prefill.py",
        tests="tests/chains/test_sharers.py",
    ),
)
