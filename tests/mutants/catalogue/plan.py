"""The launcher's edges: waves, rows, sizes, and one run behind the other."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(Mutant, file="dsv4_kernels/launcher/plan.py", tests="tests/launcher/test_plan.py")
CHAIN = "tests/chains/test_chain.py"

MUTANTS = (
    mutant(
        "rows of dead waves are not written",
        "attn_out[first_dead_wave:].zero_()",
        "attn_out[first_dead_wave:]",
        killed_by=f"{CHAIN}::test_out_is_written_and_returned",
    ),
    mutant(
        "a last wave that is not whole is dropped",
        "min(-(-num_tokens // self._wave_tokens) * self._wave_tokens, T)",
        "min(num_tokens // self._wave_tokens * self._wave_tokens, T)",
        killed_by=f"{CHAIN}::test_any_chunk_length[5]",
    ),
    mutant(
        "every wave counts tokens from zero",
        "first_token=first, attn_out",
        "first_token=0, attn_out",
        killed_by=f"{CHAIN}::test_dead_tokens_are_zeros_whatever_they_name",
    ),
    mutant(
        "every wave has the first wave's rows",
        "inputs[name][first:last]",
        "inputs[name][: last - first]",
        killed_by=f"{CHAIN}::test_the_wave_changes_no_byte[7]",
    ),
    mutant(
        "every wave writes the first wave's output",
        "attn_out=attn_out[first:last]",
        "attn_out=attn_out[: last - first]",
        killed_by=f"{CHAIN}::test_the_wave_changes_no_byte[7]",
    ),
    mutant(
        "the window is always 128",
        "window=self._window",
        "window=128",
        killed_by=f"{CHAIN}::test_any_chunk_length[5]",
    ),
    mutant(
        "a run checks no argument",
        "(signature := _signature(arguments)) != self._accepted",
        "(signature := _signature(arguments)) is None",
        killed_by="test_wrong_arguments_of_a_run_are_refused",
    ),
    mutant(
        "a run does not check num_tokens",
        'contract.integer("num_tokens", arguments["num_tokens"], 0, T)',
        'int(arguments["num_tokens"])',
        killed_by="test_wrong_arguments_of_a_run_are_refused",
    ),
    mutant(
        "a plan's run may have other sizes",
        "contract[letter] == size,",
        "contract[letter] >= 0,",
        killed_by="test_other_sizes_are_refused",
    ),
    mutant(
        "a plan's next run does not wait for its last",
        "stream.wait_event(self._last_run)",
        "stream",
        killed_by="test_a_plan_on_two_streams_keeps_its_runs_apart",
    ),
    mutant(
        "a row may have more ranks than int32 sums",
        "width <= MAX_RANK,",
        "width <= 2 * MAX_RANK,",
        killed_by="test_a_row_of_too_many_ranks_is_for_decoupled_only",
    ),
    mutant(
        "a graph holds waits for what is outside",
        "with self._api.graph(graph):\n                self._launch(arguments, attn_out)",
        "with self._api.graph(graph):\n                self.run(*args, out=attn_out)",
        killed_by="test_capture_and_replay",
    ),
    mutant(
        "a replay does not wait for the last run",
        "with self._in_turn():\n            self._graph.replay()",
        "with contextlib.nullcontext():\n            self._graph.replay()",
        killed_by="test_capture_and_replay",
    ),
    mutant(
        "the rope part may be wider than the head",
        "contract.require(P <= C,",
        "contract.require(P <= 2 * C,",
        killed_by="tests/segments/test_contract.py::test_wrong_sizes",
    ),
)
