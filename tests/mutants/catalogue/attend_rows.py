"""Attention in one kernel: whose rows, the running maximum, the sink, the rotation, the packing."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant,
    file="dsv4_kernels/segments/attend_rows.py",
    tests="tests/segments/test_attend_rows.py",
)
chained = partial(mutant, tests="tests/chains/test_one_kernel.py")
SMALLEST = "test_against_reference[8-1-64-16-2]"

MUTANTS = (
    mutant(
        "pools that lie otherwise wait for a compiler",
        "beside=(dict(APART=not apart),),",
        "beside=(),",
        killed_by="tests/laws/test_no_compile.py::"
        "test_a_batch_compiles_nothing_behind_the_first[4-True-None-one_kernel]",
    ),
    mutant(
        "rows of the first tile",
        "row = tl.load(rows_ptr + u * KP",
        "row = tl.load(rows_ptr",
        killed_by=SMALLEST,
    ),
    mutant(
        "every token has rows of its own",
        "    u = t // X\n",
        "    u = t\n",
        killed_by="test_tokens_that_share_rows_attend_to_their_own[2]",
    ),
    mutant(
        "the bias is its tile's",
        "bias = tl.load(bias_ptr + t * KP",
        "bias = tl.load(bias_ptr + u * KP",
        killed_by="test_tokens_that_share_rows_attend_to_their_own[2]",
    ),
    mutant(
        "no bias",
        "* softmax_scale + bias[None, :]",
        "* softmax_scale",
        killed_by="test_tokens_that_share_rows_attend_to_their_own[2]",
    ),
    mutant(
        "the bias is scaled",
        "tl.dot(q, tl.trans(kv)) * softmax_scale + bias[None, :]",
        "(tl.dot(q, tl.trans(kv)) + bias[None, :]) * softmax_scale",
        killed_by="test_softmax_scale_comes_before_the_bias",
    ),
    mutant(
        "l is not rescaled",
        "l = old * l + tl.sum(e, axis=1)",
        "l = l + tl.sum(e, axis=1)",
        killed_by="test_a_running_maximum_that_rises_and_falls",
    ),
    mutant(
        "o is not rescaled",
        "kv, o * old[:, None])",
        "kv, o * 1.0)",
        killed_by="test_a_running_maximum_that_rises_and_falls",
    ),
    mutant(
        "the maximum is that of the last step",
        "m_new = tl.where(m_step > m, m_step, m)",
        "m_new = m_step",
        killed_by="test_a_running_maximum_that_rises_and_falls",
    ),
    mutant(
        "l sums the rounded P",
        "l = old * l + tl.sum(e, axis=1)",
        "l = old * l + tl.sum(e.to(tl.bfloat16).to(tl.float32), axis=1)",
        killed_by=SMALLEST,
    ),
    mutant(
        "steps of 128 columns",
        "STEP = 64",
        "STEP = 128",
        killed_by="test_against_reference[1-1-16-16-1]",
    ),
    mutant(
        "dead blocks are attended to",
        "live_columns(tl.load(live_blocks_ptr + u), KP, BLOCK_K)",
        "KP",
        killed_by="test_blocks_behind_the_live_ones_are_not_read",
    ),
    mutant(
        "more blocks than there are",
        "live_columns(tl.load(live_blocks_ptr + u), KP, BLOCK_K)",
        "tl.load(live_blocks_ptr + u) * BLOCK_K",
        killed_by="test_more_live_blocks_than_there_are_columns_are_all_of_them",
    ),
    mutant(
        "a gap is a row of the ring",
        "overlay_base = ori_rows + GAP",
        "overlay_base = ori_rows",
        killed_by=SMALLEST,
    ),
    mutant(
        "compressed rows begin one early",
        "cmp_base = overlay_base + chunk_tokens + GAP",
        "cmp_base = overlay_base + chunk_tokens",
        killed_by=SMALLEST,
    ),
    mutant(
        "rows of no pool are read",
        "live = (row >= 0) & (of_pool < held)",
        "live = row >= 0",
        killed_by="test_a_row_outside_of_its_pool_is_zeros",
    ),
    mutant(
        "the last row of a pool is none",
        "live = (row >= 0) & (of_pool < held)",
        "live = (row >= 0) & (of_pool < held - 1)",
        killed_by="test_the_first_and_last_row_of_every_pool",
    ),
    mutant(
        "the first row of all is none",
        "live = (row >= 0) & (of_pool < held)",
        "live = (row > 0) & (of_pool < held)",
        killed_by="test_the_first_and_last_row_of_every_pool",
    ),
    mutant(
        "an empty pool has an address",
        '(name if rows else "q" for',
        "(name if rows >= 0 else name for",
        killed_by="tests/segments/test_empty.py::test_nothing_along_an_axis[attend_rows-T]",
        tests="tests/segments/test_empty.py",
    ),
    mutant(
        "nothing lies between pages",
        "    if APART:\n",
        "    if C == 0:\n",
        killed_by="test_pages_may_lie_apart",
    ),
    mutant(
        "only the ring's pages lie apart",
        'ori[1] > contract["ori_B"] or cmp[1] > contract["cmp_B"]',
        'ori[1] > contract["ori_B"]',
        killed_by="test_pages_may_lie_apart",
    ),
    mutant(
        "the chunk's rows lie in pages of the compressed pool",
        "tl.where(in_overlay, chunk_tokens + 1, cmp_page_rows)",
        "cmp_page_rows",
        killed_by="test_pages_may_lie_apart",
    ),
    mutant(
        "the sink is scaled",
        "tl.exp(sink - m)",
        "tl.exp(sink * softmax_scale - m)",
        killed_by=SMALLEST,
    ),
    mutant(
        "no sink",
        "denominator = l + tl.exp(sink - m)",
        "denominator = l",
        killed_by=SMALLEST,
    ),
    mutant(
        "dead tokens keep what they hold",
        "n = tl.where(alive, o / denominator[:, None], 0.0)",
        "n = o / denominator[:, None]",
        killed_by="test_a_token_without_live_slots_is_zero_whatever_it_holds",
    ),
    mutant(
        "dead tokens are turned by whatever stands there",
        "y = tl.where(alive, y, 0.0).to(tl.bfloat16)",
        "y = y.to(tl.bfloat16)",
        killed_by="test_a_token_without_live_slots_is_zero_whatever_it_holds",
    ),
    mutant(
        "one live slot is none",
        "alive = tl.load(live_slots_ptr + t) > 0",
        "alive = tl.load(live_slots_ptr + t) > 1",
        killed_by="test_one_live_slot_is_enough",
    ),
    mutant(
        "rope is rounded before it is turned",
        "of_rope = tl.where((c >= C - P)[None, :], n, 0.0)",
        "of_rope = tl.where((c >= C - P)[None, :], n.to(tl.bfloat16).to(tl.float32), 0.0)",
        killed_by=SMALLEST,
    ),
    mutant(
        "the first columns are turned",
        "of_rope = tl.where((c >= C - P)[None, :], n, 0.0)",
        "of_rope = tl.where((c < P)[None, :], n, 0.0)",
        killed_by=SMALLEST,
    ),
    mutant(
        "cosines of the first token",
        "cos_ptr = freqs_cos_ptr + t * cos_blocks * BLOCK",
        "cos_ptr = freqs_cos_ptr",
        killed_by=SMALLEST,
    ),
    mutant(
        "sines in rows without gaps",
        "sin_ptr = freqs_sin_ptr + t * sin_blocks * BLOCK",
        "sin_ptr = freqs_sin_ptr + t * P",
        killed_by="test_queries_and_tables_may_lie_apart",
    ),
    mutant(
        "queries in rows without gaps",
        "q_rows_ptr = q_ptr + t * q_blocks * BLOCK",
        "q_rows_ptr = q_ptr + t * H * C",
        killed_by="test_queries_and_tables_may_lie_apart",
    ),
    mutant(
        "heads lie token by token",
        "((g * N + t) * HG + h % HG)",
        "(t * H + h)",
        killed_by="test_against_reference[16-2-128-32-3]",
    ),
    mutant(
        "the last head is left out",
        "    in_heads = h < H\n",
        "    in_heads = h < H - 1\n",
        killed_by=SMALLEST,
    ),
    mutant(
        "Ascend is not refused",
        "cost=_cost, not_on=NOT_ON,",
        "cost=_cost,",
        killed_by="test_on_ascend_it_is_refused_with_its_reason",
    ),
    mutant(
        "a refusal does not say why",
        'f"elsewhere ({refused})"',
        '"elsewhere"',
        file="dsv4_kernels/segments/segment.py",
        killed_by="test_on_ascend_it_is_refused_with_its_reason",
    ),
    chained(
        "interleaved tables are read as halves",
        '    "attend_rows": attend_rows.INTERLEAVED,\n',
        "",
        file="dsv4_kernels/chains/batch.py",
        killed_by="test_a_server_s_batch[4]",
    ),
    chained(
        "CUDA has the fused form by default",
        'DEFAULTS = {"cuda": "one_kernel"}',
        "DEFAULTS: dict[str, str] = {}",
        file="dsv4_kernels/chains/attention.py",
        killed_by="test_it_is_the_default_on_cuda_alone",
    ),
    chained(
        "the chain leaves the refusal to its second launch",
        'runs = attention != "one_kernel" or not _refusal(family)',
        "runs = True",
        file="dsv4_kernels/chains/attention.py",
        killed_by="test_ascend_refuses_it_before_anything_is_launched",
    ),
    chained(
        "Ascend has all forms",
        'if name != "one_kernel" or not _refusal(family)',
        "if name",
        file="dsv4_kernels/chains/attention.py",
        killed_by="test_the_forms_of_a_family",
    ),
    chained(
        "a half has the first form on any device",
        "chain = PrefillChain(window=window, attention=form_of(op, None, given[0]), **options)",
        "chain = PrefillChain(window=window, **options)",
        file="dsv4_kernels/chains/seams.py",
        killed_by="test_entries_and_halves_take_the_form_of_their_device",
    ),
    chained(
        "a routed device is its tensors' own",
        "return device.type if routed is None else routed.target.kind",
        "return device.type",
        file="dsv4_kernels/device/__init__.py",
        killed_by="test_a_form_is_checked_by_the_device_of_the_queries",
    ),
)
