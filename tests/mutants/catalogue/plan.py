"""The launcher's edges: waves, rows, sizes, turns, captures, and one run behind the other."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(Mutant, file="dsv4_kernels/launcher/plan.py", tests="tests/launcher/test_plan.py")
binding = partial(
    Mutant, file="dsv4_kernels/launcher/binding.py", tests="tests/launcher/test_plan.py"
)
contract = partial(Mutant, file="dsv4_kernels/contract.py", tests="tests/launcher/test_plan.py")
turns = partial(Mutant, file="dsv4_kernels/launcher/turns.py", tests="tests/launcher/test_plan.py")
CHAIN = "tests/chains/test_chain.py"

MUTANTS = (
    mutant(
        "every run looks its shapes up",
        "if not binding.signature.fits(arguments):",
        "if True:",
        killed_by="test_a_run_checks_no_tensor_again",
    ),
    mutant(
        "rows of dead waves are not written",
        "attn_out[end:].zero_()",
        "attn_out[end:]",
        killed_by=f"{CHAIN}::test_out_is_written_and_returned",
    ),
    mutant(
        "a last wave that is not whole is dropped",
        "live = -(-num_tokens // self._wave_tokens)",
        "live = num_tokens // self._wave_tokens",
        killed_by=f"{CHAIN}::test_any_chunk_length[5]",
    ),
    mutant(
        "every wave counts tokens from zero",
        'buffers["first_token"] = first\n',
        'buffers["first_token"] = 0\n',
        killed_by=f"{CHAIN}::test_dead_tokens_are_zeros_whatever_they_name",
    ),
    mutant(
        "every wave has the first wave's rows",
        "arguments[name][first:last]",
        "arguments[name][: last - first]",
        killed_by=f"{CHAIN}::test_the_wave_changes_no_byte[7]",
    ),
    mutant(
        "every wave writes the first wave's output",
        "attn_out[first:last]",
        "attn_out[: last - first]",
        killed_by=f"{CHAIN}::test_the_wave_changes_no_byte[7]",
    ),
    mutant(
        "all waves have the workspace of the first",
        "binding.workspace[wave % self.waves_in_flight]",
        "binding.workspace[0]",
        killed_by="test_any_legal_order_gives_the_same_bytes",
    ),
    binding(
        "nodes of a wave claim another wave's workspace",
        "slot=wave % self.slots",
        "slot=wave % self.slots + wave",
        killed_by="test_any_legal_order_gives_the_same_bytes",
    ),
    mutant(
        "one wave in flight, whatever is asked for",
        "min(waves_in_flight or (2 if self._api else 1), max(waves, 1))",
        "1",
        killed_by=f"{CHAIN}::test_scratch_grows_by_two_numbers_a_token",
    ),
    mutant(
        "workspaces for waves that there are not",
        "min(waves_in_flight or (2 if self._api else 1), max(waves, 1))",
        "waves_in_flight or (2 if self._api else 1)",
        killed_by=f"{CHAIN}::test_scratch_grows_by_two_numbers_a_token",
    ),
    mutant(
        "a run checks no argument",
        "binding = known or self._bind(signature, arguments, self._check_again(arguments))",
        "binding = known or self._latest",
        killed_by="test_wrong_arguments_of_a_run_are_refused",
    ),
    binding(
        "strides are not looked at",
        "                or value.stride() != stride\n",
        "",
        killed_by="test_wrong_arguments_of_a_run_are_refused",
    ),
    binding(
        "dtypes are not looked at",
        "                or value.dtype is not dtype\n",
        "",
        killed_by="test_wrong_arguments_of_a_run_are_refused",
    ),
    binding(
        "shapes are not looked at",
        "                or value.shape != shape\n",
        "",
        killed_by="test_other_sizes_are_refused",
    ),
    binding(
        "devices are not looked at",
        "                or value.device != device\n",
        "",
        killed_by="test_another_device_is_refused",
    ),
    binding(
        "strides are not part of what was bound",
        "self.key = (*self._facts.items(), *others)",
        "self.key = (*((n, (s, d, w)) for n, (s, _, d, w) in self._facts.items()), *others)",
        killed_by="test_wrong_arguments_of_a_run_are_refused",
    ),
    mutant(
        "a run does not check num_tokens",
        'if type(num_tokens) is not int or not 0 <= num_tokens <= self._sizes["T"]:',
        "if type(num_tokens) is not int:",
        killed_by="test_wrong_arguments_of_a_run_are_refused",
    ),
    mutant(
        "a plan's run may have other sizes",
        "size == own, argument,",
        "size >= 0, argument,",
        killed_by="test_other_sizes_are_refused",
    ),
    mutant(
        "every binding is kept",
        "while len(self._bindings) >= MOST_BINDINGS:",
        "while False:",
        killed_by="test_few_bindings_are_remembered",
    ),
    turns(
        "a plan's next run does not wait for its last",
        "stream.wait_event(self._last_run)",
        "stream",
        killed_by="test_a_plan_on_two_streams_keeps_its_runs_apart",
    ),
    turns(
        "a run inside of a capture waits for what is outside",
        "if self._api is None or devices.is_capturing(self._api):",
        "if self._api is None:",
        killed_by="test_a_run_inside_of_anybody_s_capture",
    ),
    mutant(
        "a capture on the device that happens to be current",
        ", devices.current(self.device):",
        ":",
        killed_by="test_a_capture_is_recorded_on_the_arguments_device",
    ),
    mutant(
        "a graph holds waits for what is outside",
        "with self._api.graph(graph):\n                self._issue(binding, arguments, attn_out)",
        "self.run(arguments, attn_out)",
        killed_by="test_capture_and_replay",
    ),
    mutant(
        "a graph does not keep its arguments",
        "return Captured(attn_out, graph, self._turns, arguments)",
        "return Captured(attn_out, graph, self._turns, {})",
        killed_by="test_a_capture_keeps_its_arguments_alive",
    ),
    mutant(
        "a replay does not wait for the last run",
        "with self._turns.next():\n            self._graph.replay()",
        "with contextlib.nullcontext():\n            self._graph.replay()",
        killed_by="test_capture_and_replay",
    ),
    mutant(
        "memory of the mode it was made in",
        "with torch.inference_mode(False):  # memory for runs in any mode",
        "with contextlib.nullcontext():",
        equivalent="every write to the workspace is a kernel's, in inference mode: `_issue` has"
        " entered it, and there a tensor of any mode may be written",
    ),
    mutant(
        "a run in the caller's mode",
        "mode = _NO_MODE if end == T == self._wave_tokens * live else torch.inference_mode()",
        "mode = _NO_MODE",
        killed_by="test_a_plan_of_one_mode_runs_in_another",
    ),
    contract(
        "an output over an argument",
        "if first < end and begin < first + size:",
        "if first == begin and size:",
        killed_by="test_an_output_over_an_argument_is_refused",
    ),
    contract(
        "an output right behind an argument is refused",
        "if first < end and begin < first + size:",
        "if first < end and begin <= first + size and size:",
        killed_by="test_an_output_over_an_argument_is_refused",
    ),
    contract(
        "a leaf that requires grad is written",
        "leaf = out.requires_grad and out.is_leaf",
        "leaf = False",
        killed_by="test_a_leaf_is_no_output",
    ),
    turns(
        "the allocator is not told who uses the memory",
        "                    devices.keep_for(tensor, stream)\n",
        "                    pass\n",
        killed_by="test_the_allocator_keeps_the_memory_for_every_stream_that_ran",
    ),
    turns(
        "the allocator is told at every run",
        "if stream not in self._streams:",
        "if True:",
        killed_by="test_the_allocator_keeps_the_memory_for_every_stream_that_ran",
    ),
    mutant(
        "any executor will do",
        "known = executor is None or callable(executor)",
        "known = True",
        killed_by="test_a_plan_refuses_an_executor_that_cannot_be_called",
    ),
    mutant(
        "workspace that nobody uses",
        "if b.lifetime == lifetime and n in written]",
        "if b.lifetime == lifetime]",
        killed_by="test_only_what_is_written_has_memory",
    ),
    mutant(
        "arguments are called as buffers are",
        "        self._said.called = chain.called\n",
        "",
        killed_by="test_an_output_over_an_argument_is_refused",
    ),
    mutant(
        "what a caller gives is only checked for its shape",
        'self._said.apart("out", attn_out, arguments, binding.signature.nbytes)',
        "pass",
        killed_by="test_an_output_over_an_argument_is_refused",
    ),
    turns(
        "after a failure the next run waits for nothing",
        "            try:\n                yield\n            finally:\n",
        "            if True:\n                yield\n            if True:\n",
        killed_by="test_a_plan_on_two_streams_keeps_its_runs_apart_after_a_failure",
    ),
    turns(
        "an output that is made late is kept for no stream",
        "        for stream in self._streams:\n            devices.keep_for(tensor, stream)\n",
        "",
        killed_by="test_the_allocator_keeps_the_memory_for_every_stream_that_ran",
    ),
    *(
        Mutant(
            wrong,
            old,
            new,
            file="dsv4_kernels/launcher/binding.py",
            tests="tests/launcher/test_binding.py",
            killed_by=killed_by,
        )
        for wrong, old, new, killed_by in (
            (
                "nodes are issued in the chain's order",
                "= in_order_of_issue(nodes)",
                "= tuple(nodes)",
                "test_waves_take_turns_in_the_workspace",
            ),
            (
                "what has no strides is asked for them at a run",
                "                or value.layout != torch.strided\n",
                "",
                "test_other_arguments_are_told_from_those_that_were_checked[rows]",
            ),
            (
                "what has no strides is asked for them",
                "            if value.layout == torch.strided\n",
                "",
                "test_other_arguments_are_told_from_those_that_were_checked[rows]",
            ),
        )
    ),
)
