"""From a checkpoint to weights: values, slices, names, files, refusals, the command."""

from functools import partial

from mutants.mutant import Mutant

SOURCES, LOAD = "tests/weights/test_sources.py", "tests/weights/test_load.py"
ROWS, COMMAND = "tests/weights/test_rows.py", "tests/commands/test_weights.py"

rows = partial(Mutant, file="dsv4_kernels/weights/rows.py", tests=ROWS)
oproj = partial(Mutant, file="dsv4_kernels/weights/oproj.py", tests=SOURCES)
wide = partial(Mutant, file="dsv4_kernels/weights/wide.py", tests=SOURCES)
convert = partial(Mutant, file="dsv4_kernels/weights/convert.py", tests=SOURCES)
sources = partial(Mutant, file="dsv4_kernels/weights/sources.py", tests=SOURCES)
names = partial(Mutant, file="dsv4_kernels/weights/names.py", tests="tests/weights/test_names.py")
checkpoint = partial(Mutant, file="dsv4_kernels/weights/checkpoint.py", tests=LOAD)
load = partial(Mutant, file="dsv4_kernels/weights/load.py", tests=LOAD)
command = partial(Mutant, file="dsv4_kernels/commands/weights.py", tests=COMMAND)

BY_HAND = "test_by_hand[fp8-32-672]"
ONE_REFUSED = "test_refused_in_one_line"

MUTANTS = (
    rows(
        "the codes of weights go to 128 steps",
        "scale = (amax / 127)",
        "scale = (amax / 128)",
        killed_by="test_quantised_rows_are_within_half_a_step",
    ),
    rows(
        "a row's scale is of its positive weights",
        "torch.maximum(weights.amax(dim=1), -weights.amin(dim=1))",
        "weights.amax(dim=1)",
        killed_by="test_quantised_rows_are_within_half_a_step",
    ),
    rows(
        "a row's scale is of its negative weights",
        "torch.maximum(weights.amax(dim=1), -weights.amin(dim=1))",
        "-weights.amin(dim=1)",
        killed_by="test_quantised_rows_are_within_half_a_step",
    ),
    rows(
        "ties of weights go up",
        "(weights / scale[:, None]).round_()",
        "(weights / scale[:, None]).add_(0.5).floor_()",
        killed_by="test_ties_go_to_even",
    ),
    rows(
        "a row of zeros is divided by zero",
        ".clamp_min(torch.finfo(torch.float32).tiny)",
        "",
        killed_by="test_quantised_rows_are_within_half_a_step",
    ),
    rows(
        "a block is a row longer than the memory for it",
        "BLOCK_ELEMENTS // max(1, columns)",
        "BLOCK_ELEMENTS // max(1, columns) + 1",
        killed_by="test_blocks_cover_the_rows_in_order",
    ),
    oproj(
        "a rank has the columns of the next",
        "oproj.wo_b[:, part.start * R : part.stop * R]",
        "oproj.wo_b[:, -part.stop * R : oproj.wo_b.shape[1] - part.start * R]",
        killed_by="test_shards_are_slices_of_the_whole[fp8-4]",
    ),
    oproj(
        "every rank has the first heads",
        "sink[part.start * heads : part.stop * heads]",
        "sink[: len(part) * heads]",
        killed_by="test_shards_are_slices_of_the_whole[fp8-4]",
    ),
    oproj(
        "a size that leaves groups over",
        "groups % size == 0",
        "groups >= size",
        killed_by="test_no_part_of_a_layer",
    ),
    oproj(
        "a rank beyond the last",
        "0, size - 1)",
        "0, size)",
        killed_by="test_no_part_of_a_layer",
    ),
    oproj(
        "heads that are no multiple of the groups",
        "G > 0 and H % G == 0",
        "G > 0 and H >= G",
        killed_by="test_an_oproj_is_what_the_kernels_take",
    ),
    wide(
        "blocks of scales start at the first row read",
        "torch.arange(rows.start, rows.stop, device=scale.device) // self.block - first",
        "torch.arange(rows.stop - rows.start, device=scale.device) // self.block",
        killed_by=BY_HAND,
    ),
    wide(
        "scales of columns by rows of scales",
        "scale[of_row].repeat_interleave(self.block, 1)[:, : wide.shape[1]]",
        "scale[of_row].repeat(1, self.block)[:, : wide.shape[1]]",
        killed_by=BY_HAND,
    ),
    wide(
        "the last block of scales is cut off",
        "scale[of_row].repeat",
        "scale[of_row.clamp(max=max(0, len(scale) - 2))].repeat",
        killed_by="test_by_hand[fp8-32-16777216]",
    ),
    wide(
        "blocks are twice as large",
        "            return block\n",
        "            return 2 * block\n",
        killed_by=BY_HAND,
    ),
    wide(
        "blocks need not be square",
        "[-(-size // block) for size in shape] == scales",
        "-(-shape[0] // block) == scales[0]",
        killed_by="test_what_is_no_layer_is_refused",
    ),
    wide(
        "bf16 ignores its scale",
        "contract.require(scale is None, weight.name, alone,",
        "contract.require(True, weight.name, alone,",
        killed_by=f"{LOAD}::{ONE_REFUSED}[a scale for bf16]",
    ),
    wide(
        "any dtype of scales",
        "block > 0, E8M0, torch.float32)",
        "block > 0, E8M0, torch.float32, scale.matrix.dtype)",
        killed_by="test_what_is_no_layer_is_refused",
    ),
    convert(
        "wo_a is cut to bf16, not rounded",
        "kept[block] = exact.bfloat16()",
        "kept[block] = (exact.view(torch.int32) & -65536).view(torch.float32).bfloat16()",
        killed_by="test_by_hand[fp8-fp32-32-672]",
    ),
    convert(
        "every rank has the first groups of wo_a",
        "slice(first + block.start, first + block.stop)",
        "slice(block.start, block.stop)",
        killed_by=f"{LOAD}::test_ranks_are_slices_of_the_whole[fp8-4]",
    ),
    convert(
        "scales come from a rank's columns",
        "            whole, scale[block] = quantise_rows(exact)\n"
        "            codes[block] = whole[:, columns]\n",
        "            whole, _ = quantise_rows(exact)\n"
        "            codes[block], scale[block] = quantise_rows(exact[:, columns])\n",
        killed_by=f"{LOAD}::test_ranks_are_slices_of_the_whole[fp8-4]",
    ),
    convert(
        "an INT8 rank reads whole rows",
        "codes = self.weight.matrix[:, columns]",
        "codes = self.weight.matrix[:, :][:, columns]",
        killed_by=f"{LOAD}::test_a_rank_reads_its_columns_of_int8",
    ),
    convert(
        "sinks of the whole layer are read",
        "self._attn_sink.matrix[part.start * heads : part.stop * heads]",
        "self._attn_sink.matrix[:][part.start * heads : part.stop * heads]",
        killed_by=f"{LOAD}::test_a_rank_reads_its_columns_of_int8",
    ),
    convert(
        "sinks are a view that keeps the file",
        "sink.to(torch.float32, copy=True)",
        "sink.to(torch.float32)",
        killed_by=f"{LOAD}::test_a_layer_of_64_mib_is_read_alone",
    ),
    convert(
        "-128 becomes -127",
        "codes.clone(memory_format=torch.contiguous_format)",
        "codes.clamp(min=-127).contiguous()",
        killed_by="test_by_hand[int8-32-672]",
    ),
    convert(
        "an offset is ignored",
        "self.contract.require(wrong == 0, self.offset.name",
        "self.contract.require(True, self.offset.name",
        killed_by="test_what_is_no_layer_is_refused",
    ),
    convert(
        "a scale may be no number",
        "wrong = int((~scale.isfinite()).sum())",
        "wrong = 0",
        killed_by="test_what_is_no_layer_is_refused",
    ),
    convert(
        "a weight may be no number",
        "finite = math.isfinite(size) and math.isfinite(off)",
        "finite = True",
        killed_by="test_what_is_no_layer_is_refused",
    ),
    convert(
        "a rounding to infinity passes",
        "finite = math.isfinite(size) and math.isfinite(off)",
        "finite = math.isfinite(size)",
        killed_by="test_what_bf16_cannot_hold_is_refused",
    ),
    convert(
        "the error is that of the last block",
        "self._off += off**2",
        "self._off = off**2",
        killed_by=BY_HAND,
    ),
    convert(
        "the error is a square",
        "math.sqrt(self._off / self._all)",
        "self._off / self._all",
        killed_by=BY_HAND,
    ),
    convert(
        "an offset of wo_a is ignored",
        "if wo_a.offset is not None:",
        "if False and wo_a.offset is not None:",
        killed_by=f"{LOAD}::{ONE_REFUSED}[an offset of wo_a]",
    ),
    convert(
        "an offset of FP8 is ignored",
        '        if offset is not None:\n            contract.require(False, weight.name, "without',
        '        if offset is None:\n            contract.require(True, weight.name, "without',
        killed_by=f"{LOAD}::{ONE_REFUSED}[an offset for FP8]",
    ),
    convert(
        "wo_b need not have the ranks of wo_a",
        "or wo_b.weight.shape[1] != rows:",
        "or wo_b.weight.shape[1] < rows:",
        killed_by="test_what_is_no_layer_is_refused",
    ),
    convert(
        "heads may not divide the inputs of a group",
        "and J % (heads // groups) == 0",
        "and J > 0",
        killed_by="test_what_is_no_layer_is_refused",
    ),
    sources(
        "a loaded layer's wo_a is not transposed",
        "wo_a.transpose(1, 2).reshape(rows, -1)",
        "wo_a.reshape(rows, -1)",
        killed_by="test_a_loaded_layer_of_vllm_ascend",
    ),
    sources(
        "a dtype of another function is converted all the same",
        "len(weight.shape) == 2, dtype)",
        "len(weight.shape) == 2, weight.matrix.dtype)",
        killed_by="test_what_is_no_layer_is_refused",
    ),
    names(
        "draft layers are unknown",
        "(?:layers|mtp)",
        "(?:layers)",
        killed_by="test_roles",
    ),
    names(
        "HF names are unknown",
        "(?:wo|o)_(?P",
        "(?:wo)_(?P",
        killed_by="test_roles",
    ),
    names(
        "sinks are unknown",
        "attn_sink|sinks)",
        "attn_sink)",
        killed_by="test_roles",
    ),
    names(
        "an inverse scale is unknown",
        '    "weight_scale_inv": "scale",\n',
        "",
        killed_by="test_roles",
    ),
    names(
        "tensors of no known role are passed over",
        "        if role is None:\n",
        "        if role is None:\n            return\n",
        killed_by=f"{LOAD}::{ONE_REFUSED}[one bias]",
    ),
    names(
        "the last of two tensors of a role is taken",
        "elif role in self.tensors:",
        "elif False:",
        killed_by=f"{LOAD}::{ONE_REFUSED}[two scales]",
    ),
    names(
        "sinks may be missing",
        '"wo_b.weight", "attn_sink"):',
        '"wo_b.weight"):',
        killed_by="test_a_layer_has_two_weights_and_a_sink",
    ),
    names(
        "layers come in the order of their spelling",
        "return kind, int(number)",
        "return kind, 0 * int(number)",
        killed_by="test_layers_are_in_their_order",
    ),
    checkpoint(
        "reads are counted as one byte an element",
        "math.prod(values.shape) * values.element_size()",
        "math.prod(values.shape)",
        killed_by="test_a_rank_reads_its_columns_of_int8",
    ),
    checkpoint(
        "an index is ignored",
        "        if indices:\n",
        "        if False:\n",
        killed_by="test_what_the_index_does_not_name_is_not_there",
    ),
    checkpoint(
        "one of two indices is taken",
        "len(indices) <= 1",
        "len(indices) <= 2",
        killed_by=f"{ONE_REFUSED}[two indices]",
    ),
    checkpoint(
        "the last of two files with a tensor is taken",
        "self._contract.require(first == file, name",
        "self._contract.require(True, name",
        killed_by=f"{ONE_REFUSED}[the same tensor twice]",
    ),
    checkpoint(
        "files stay open",
        "        self._open_files.clear()\n        self._closing.close()",
        "        pass",
        killed_by="test_files_are_closed",
    ),
    load(
        "groups of the caller are not heard",
        'config.get("o_groups") if groups is None else groups',
        'config.get("o_groups", groups)',
        killed_by="test_groups_that_config_contradicts",
    ),
    load(
        "config.json's sizes are not compared",
        "contract.require(found == size,",
        "contract.require(True,",
        killed_by=f"{ONE_REFUSED}[hidden size]",
    ),
    load(
        "bytes of layers before are counted too",
        "read = checkpoint.bytes_read - before",
        "read = checkpoint.bytes_read",
        killed_by=f"{COMMAND}::test_every_layer_has_its_row",
    ),
    command(
        "a layer that config.json counts may be missing",
        "contract.require(layer in checkpoint.layers, layer",
        "contract.require(True, layer",
        killed_by="test_a_layer_that_config_counts_is_missing",
    ),
    command(
        "other models have no layers, and that is all",
        "if not checkpoint.layers:",
        "if False:",
        killed_by="test_other_models_are_foreign",
    ),
    command(
        "layers are checked one by one as they are converted",
        "found = {layer: inspect(checkpoint, layer, groups=groups) for layer in checkpoint.layers}",
        "found = {}",
        killed_by="test_nothing_is_converted_before_all_is_checked",
    ),
    command(
        "a single file must hold every layer",
        "if checkpoint.path.is_dir():",
        "if True:",
        killed_by="test_one_file_need_not_hold_every_layer",
    ),
    command(
        "groups of the caller are dropped",
        "loaded = load_from(checkpoint, layer, groups=groups)",
        "loaded = load_from(checkpoint, layer)",
        killed_by="test_groups_may_be_given",
    ),
    command(
        "errors are not in percent",
        'f"{100 * error:.2f} %"',
        'f"{error:.2f} %"',
        killed_by="test_every_layer_has_its_row",
    ),
)
