"""What judges a chain's hand-overs, and the error of attention that it starts from."""

from functools import partial

from mutants.mutant import Mutant

TESTS = "tests/reference/test_chain_bounds.py"
mutant = partial(Mutant, file="reference/chain_bounds.py", tests=TESTS)
oracle = partial(Mutant, file="reference/oracle.py", tests=TESTS)

ATTENTION = "test_the_error_of_attention_by_hand"
BY_HAND = "test_what_is_handed_on_by_hand"
STEPS = "test_steps_are_boundaries_in_between"

MUTANTS = (
    mutant(
        "any code may be one off",
        "return torch.maximum(low, high)",
        "return torch.maximum(low, high).clamp_min(1)",
        killed_by="test_a_single_wrong_code_is_seen",
    ),
    mutant(
        "a boundary below is not looked for",
        "return torch.maximum(low, high)",
        "return high",
        killed_by=STEPS,
    ),
    mutant(
        "a boundary above is not looked for",
        "return torch.maximum(low, high)",
        "return low",
        killed_by=STEPS,
    ),
    mutant(
        "a tie rounds one way only",
        "slack = 2 * spacing(x, torch.float32)",
        "slack = 0 * spacing(x, torch.float32)",
        killed_by=STEPS,
    ),
    mutant(
        "every group has an amax of its own",
        "dims = (1, 2) if by_token else (2,)",
        "dims = (2,)",
        killed_by="test_a_single_wrong_code_is_seen",
    ),
    mutant(
        "a sum may be anything near",
        "Bound(o_r_error + U",
        "Bound(o_r.double().abs() + U",
        killed_by="test_a_sum_by_its_own_error",
    ),
    mutant(
        "o_packed's difference makes none of o_r",
        "wo_a.double()).abs() + of_sums",
        "0 * wo_a.double()).abs() + of_sums",
        killed_by="test_o_r_may_differ_by_what_o_packed_does_to_it",
    ),
    mutant(
        "an output is held to the reference's codes",
        "change = handed_on - dequantised(want)",
        "change = handed_on + dequantised(want)",
        killed_by="test_a_wrong_scale_reaches_the_output",
    ),
    mutant(
        "rows behind the waves may be anything",
        "allowed = torch.zeros(T, D, dtype=torch.float64)",
        "allowed = torch.ones(T, D, dtype=torch.float64)",
        killed_by="test_rows_behind_the_waves_that_ran_are_zeros",
    ),
    mutant(
        "attention may be anything near",
        "Bound(by_group(error),",
        "Bound(by_group(error) + 1,",
        killed_by="test_an_element_of_attention_by_its_own_error",
    ),
    mutant(
        "sums of the output may be off twice as far",
        "2 * (G + 4) * U * terms",
        "4 * (G + 4) * U * terms",
        killed_by=BY_HAND,
    ),
    mutant(
        "an output may be two spacings off",
        "allowed[:tokens] += spacing(",
        "allowed[:tokens] += 2 * spacing(",
        killed_by=BY_HAND,
    ),
    mutant(
        "an output's spacing is the reference's",
        "out[:tokens].double().abs() + allowed[:tokens], torch",
        "out[:tokens].double().abs(), torch",
        killed_by=BY_HAND,
    ),
    mutant(
        "codes and scales make twice of what they do",
        "= difference.abs() +",
        "= 2 * difference.abs() +",
        killed_by=BY_HAND,
    ),
    mutant(
        "o_r is rounded twice",
        "U * o_r.double().abs()",
        "2 * U * o_r.double().abs()",
        killed_by=BY_HAND,
    ),
    mutant(
        "attention may be off twice as far",
        "Bound(by_group(error),",
        "Bound(2 * by_group(error),",
        killed_by=BY_HAND,
    ),
    mutant(
        "four spacings of fp32 to a tie",
        "slack = 2 * spacing",
        "slack = 4 * spacing",
        killed_by=STEPS,
    ),
    mutant(
        "one spacing of fp32 to a tie",
        "slack = 2 * spacing",
        "slack = spacing",
        killed_by=STEPS,
    ),
    mutant(
        "an amax has no floor",
        ".clamp_min(AMAX_FLOOR)",
        "",
        killed_by="test_an_amax_is_1e_4_at_least",
    ),
    oracle(
        "an error of bf16 in every P twice over",
        "HALF_BF16 = 2.0**-8",
        "HALF_BF16 = 2.0**-7",
        killed_by=ATTENTION,
    ),
    oracle(
        "no error for the scores",
        "(HALF_BF16 + 4 * score + rounded)",
        "(HALF_BF16 + rounded)",
        killed_by=ATTENTION,
    ),
    oracle(
        "a score's error counts twice",
        "4 * score",
        "8 * score",
        killed_by=ATTENTION,
    ),
    oracle(
        "a score's error is the mean of all",
        ".amax(dim=1, keepdim=True)",
        ".mean(dim=1, keepdim=True)",
        killed_by=ATTENTION,
    ),
    oracle(
        "steps of half the columns",
        ".shape[1] // 64)",
        ".shape[1] // 32)",
        killed_by=ATTENTION,
    ),
    oracle(
        "a step rounds twice as often",
        "(steps + 2) * 2",
        "(steps + 2) * 4",
        killed_by=ATTENTION,
    ),
    oracle(
        "the sum's error counts twice",
        "+ sum_error(len(kv), magnitude)",
        "+ 2 * sum_error(len(kv), magnitude)",
        killed_by=ATTENTION,
    ),
    oracle(
        "a pair that is turned keeps its errors apart",
        "pairs.flip(-1) * sin",
        "pairs * sin",
        killed_by=ATTENTION,
    ),
    oracle(
        "two roundings of the output",
        "error[t] += spacing(",
        "error[t] += 2 * spacing(",
        killed_by=ATTENTION,
    ),
    oracle(
        "dead rows may be off",
        "error = torch.zeros(T, H, C, dtype=torch.float64)",
        "error = torch.ones(T, H, C, dtype=torch.float64)",
        killed_by="test_a_dead_token_s_attention_is_zero",
    ),
)
