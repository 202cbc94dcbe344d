"""A server's batch: tokens to requests, columns to rows, views of pools and tables."""

from functools import partial

from mutants.mutant import Mutant

TESTS = "tests/chains/test_batch.py"
resolver = partial(
    Mutant,
    file="dsv4_kernels/segments/requests.py",
    tests=TESTS,
    killed_by="test_kinds_of_layers[4-True]",
)
entry = partial(Mutant, file="dsv4_kernels/chains/batch.py", tests=TESTS)

MUTANTS = (
    resolver(
        "the last request that holds a token counts",
        "tl.where((begin <= t) & (t < end), S - s0 - s, 0)",
        "tl.where((begin <= t) & (t < end), s0 + s + 1, 0)",
    ),
    resolver(
        "a token at a position below 0 is live",
        "if (length > 0) & (length >= behind):",
        "if length > 0:",
        killed_by="test_starts_and_lengths_of_any_bits[5]",
    ),
    resolver(
        "a tail is written as a whole block",
        "inside = live_blocks * BLOCK_K + k < KP",
        "inside = live_blocks * BLOCK_K + k < KP + BLOCK_K",
        killed_by="test_lanes_of_any_number_of_columns[0-150-300]",
    ),
    resolver(
        "a slot is visible one position early",
        "tl.where(p % RATIO == RATIO - 1, 1, 0)",
        "tl.where(p % RATIO == RATIO - 2, 1, 0)",
    ),
    resolver(
        "the window is one position late",
        "slot = p - WINDOW + 1 + column",
        "slot = p - WINDOW + column",
    ),
    resolver(
        "a page past the pool is live",
        "(physical < pages)",
        "(physical <= pages)",
        killed_by="test_a_page_beside_the_pool_is_dead[ori]",
    ),
    resolver(
        "pages lie without a gap",
        "physical * page_rows + (slot - page * B)",
        "physical * B + (slot - page * B)",
        killed_by="test_page_sizes_of_each_pool[pages0]",
    ),
    resolver(
        "pages that other memory lies between are numbered without a gap",
        'gap = POOL_GAP if contract[f"{name}_kv_stride"] > B * contract["C"] else 0',
        "gap = 0",
        file="dsv4_kernels/segments/slots.py",
        killed_by="test_no_run_goes_from_a_page_to_the_next[ori]",
    ),
    resolver(
        "pages any number of elements apart are refused",
        '"cache", ring, apart=1)',
        '"cache", ring, apart=BLOCK)',
        file="dsv4_kernels/buffers.py",
        killed_by="test_what_int32_counts_of_a_pool",
    ),
    resolver(
        "pages lie as far apart as they like",
        "apart < 2**31, f",
        "True, f",
        file="dsv4_kernels/segments/slots.py",
        killed_by="test_what_int32_counts_of_a_pool",
    ),
    entry(
        "the rows of both pools are not counted",
        'contract.require(total < 2**31, "ori_kv",',
        'contract.require(True, "ori_kv",',
        killed_by="test_what_int32_counts_of_a_pool",
    ),
    resolver(
        "the raw entry takes pages apart",
        'contract.require_packed(f"{pool}_kv", B * contract["C"])',
        "pass",
        file="dsv4_kernels/segments/slots.py",
        tests="tests/segments/test_contract.py",
        killed_by="test_wrong_sizes[resolve_slots-^rows 80 apart$0]",
    ),
    resolver(
        "the raw entry takes pools of two page sizes",
        'contract.require(own == B, f"{pool}_kv",',
        'contract.require(True, f"{pool}_kv",',
        file="dsv4_kernels/segments/slots.py",
        tests="tests/segments/test_contract.py",
        killed_by="test_wrong_sizes[resolve_slots-^B = 5$]",
    ),
    resolver(
        "a drawn batch's pages have no gap",
        "stride = B * C + gap",
        "stride = B * C",
        file="dsv4_kernels/inputs/batch.py",
        killed_by="test_pages_any_number_of_elements_apart[1-pages1]",
    ),
    resolver(
        "a batch on another device has lost its strides",
        "memory.as_strided(tensor.shape, tensor.stride())",
        "tensor.to(device)",
        file="dsv4_kernels/inputs/batch.py",
        killed_by="test_a_batch_moves_with_its_strides",
    ),
    resolver(
        "the model's pools end before their last page",
        "value.as_strided((span(value),), (1,))",
        "value.as_strided((value.numel(),), (1,))",
        file="dsv4_kernels/gates/ascend/execute.py",
        tests="tests/backends/test_batch_on_model.py",
        killed_by="test_a_batch_s_rows_are_the_cpu_path_s_and_nothing_is_found[HCA-13]",
    ),
    resolver(
        "the newest block of slots is left out",
        "end = WINDOW + (cmp_columns if LISTED else visible)",
        "end = WINDOW + (cmp_columns if LISTED else visible - BLOCK_K)",
        killed_by="test_the_last_slots_without_a_list_lie_behind_index_topk",
    ),
    resolver(
        "rows of a table lie without a gap",
        "ori_tables_ptr + r64 * ori_stride",
        "ori_tables_ptr + r64 * ori_entries",
    ),
    resolver(
        "a list is loaded element by element, whatever the window",
        "if WINDOW % BLOCK_K != 0:",
        "if WINDOW >= 0:",
        killed_by="tests/gates/test_batch_gate.py::"
        "test_a_batch_keeps_its_claims[Ascend910B3-decode CSA, 8 heads, T=8]",
    ),
    resolver(
        "the budget of two pools for the one of a layer without slots",
        'if sizes["RATIO"] else (4, 4)',
        'if sizes["RATIO"] else (12, 7)',
        killed_by="tests/gates/test_batch_gate.py::"
        "test_a_batch_keeps_its_claims[Ascend910_9392-decode SWA, 64 heads, T=64]",
    ),
    resolver(
        "a listed row at the pool's end is live",
        "(slot < ori_pages * ORI_B)",
        "(slot <= ori_pages * ORI_B)",
        killed_by="test_a_row_of_drafts_beside_the_pool_is_dead",
    ),
    resolver(
        "listed rows lie without a gap",
        "page_of(slot, ORI_B, ORI_SHIFT) * (ori_page_rows - ORI_B)",
        "page_of(slot, ORI_B, ORI_SHIFT) * 0",
        killed_by="test_drafts_list_the_rows_of_their_window[40-4-pages2]",
    ),
    entry(
        "a plan without a list of rows takes one",
        "(named[name] is not None) == was, name,",
        "True, name,",
        killed_by="test_a_plan_keeps_its_kind",
    ),
    entry(
        "a plan takes a list of another width",
        '"W": "ori_indices", "I": "cmp_indices",',
        '"I": "cmp_indices",',
        killed_by="test_a_plan_keeps_its_kind",
    ),
    entry(
        "every run is checked in full",
        "return all(facts == _facts(named[name]) for name, facts in self.facts.items())",
        "return False",
        killed_by="test_a_run_like_the_one_before_checks_no_tensor",
    ),
    resolver(
        "lists lie without a gap",
        "tl.load(cmp_indices_ptr + t * I + at",
        "tl.load(cmp_indices_ptr + t * cmp_columns + at",
        killed_by="test_rows_of_wider_tensors[7]",
    ),
    resolver(
        "lists of rows lie without a gap",
        "ori_indices_ptr + t * W + column",
        "ori_indices_ptr + t * WINDOW + column",
        killed_by="test_rows_of_wider_tensors[7]",
    ),
    resolver(
        "queries lie without a gap",
        "t * q_blocks * BLOCK",
        "t * H * C",
        file="dsv4_kernels/segments/qk_softmax_pv.py",
        killed_by="test_rows_of_wider_tensors[7]",
    ),
    resolver(
        "rows of sin lie without a gap",
        "t * sin_blocks * BLOCK",
        "t * P",
        file="dsv4_kernels/segments/inverse_rope.py",
        killed_by="test_the_tail_in_two_segments_changes_no_byte",
    ),
    resolver(
        "rows of cos lie without a gap",
        "t * cos_blocks * BLOCK",
        "t * P",
        file="dsv4_kernels/segments/merge_finish.py",
        killed_by="test_rows_of_wider_tensors[7]",
    ),
    resolver(
        "rows of any stride are taken",
        "self.require(stride % block == 0, argument,",
        "self.require(True, argument,",
        file="dsv4_kernels/contract.py",
        killed_by="test_a_wrong_tensor_is_refused_by_name[rope_cos-<lambda>-blocks apart]",
    ),
    resolver(
        "an output between an argument's rows is not seen",
        "name: span_bytes(value) for",
        "name: value.nbytes for",
        file="dsv4_kernels/launcher/binding.py",
        killed_by="test_a_plan_takes_rows_of_any_stride",
    ),
    resolver(
        "rows apart are taken for rows that are not",
        "self.require(stride == row, name,",
        "self.require(True, name,",
        file="dsv4_kernels/contract.py",
        killed_by="test_attention_in_lanes_takes_rows_without_gaps[q-qk]",
    ),
    *(
        entry(
            f"{segment} knows one layout of RoPE tables",
            f'    "{segment}": {segment}.INTERLEAVED,\n',
            "",
            killed_by=killed_by,
        )
        for segment, killed_by in (
            ("merge_finish", "test_rope_tables_by_layout_and_dtype"),
            ("inverse_rope", "test_the_tail_in_two_segments_changes_no_byte"),
        )
    ),
    entry(
        "the layout of RoPE is half, whatever is asked for",
        'if rope_layout == "interleaved":',
        'if rope_layout == "neither":',
        killed_by="test_kinds_of_layers[4-True]",
    ),
    entry(
        "a pool's memory is not looked at before it is viewed",
        "contract.plain(name, named[name])\n        pages = ",
        "pages = ",
        killed_by="tests/segments/test_contract.py::"
        "test_a_batch_s_memory_that_a_pointer_does_not_tell[freed]",
    ),
    entry(
        "a plan takes another page size",
        'contract.require(own == given, argument, f"as for the plan, {name}={own}", given)',
        'contract.require(True, argument, f"as for the plan, {name}={own}", given)',
        killed_by="test_a_plan_keeps_its_kind",
    ),
)
