"""The judge, which stands behind every comparison with a reference, and what it is handed."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(Mutant, file="reference/bounds.py", tests="tests/reference/test_bounds.py")
compare = partial(Mutant, file="reference/compare.py", tests="tests/reference/test_compare.py")
points = partial(
    Mutant,
    file="reference/rounding_points.py",
    tests="tests/reference/test_rounding_points.py",
)

HOLDS = "holds=bool((used <= 1).all()),"
CONSTANTS = "test_what_bounds_are_made_of"
WIDE = "tests/chains/test_chain.py::test_no_tolerance_is_twice_as_wide_as_it_must_be"
DIFFERENCE = "(got64 - want64).abs()).nan_to_num(torch.inf, torch.inf)"

MUTANTS = (
    mutant(
        "no bound is looked at",
        HOLDS,
        "holds=True,",
        killed_by="test_a_deviation_is_held_to_its_own_elements_bound",
    ),
    mutant(
        "one element within its bound is enough",
        HOLDS,
        "holds=bool((used <= 1).any()),",
        killed_by="test_a_deviation_is_held_to_its_own_elements_bound",
    ),
    mutant(
        "twice the bound",
        HOLDS,
        "holds=bool((used <= 2).all()),",
        killed_by="test_below_and_above_are_held_alike",
    ),
    mutant(
        "every element has the largest bound",
        "used = torch.where(same, 0.0, difference / allowed)",
        "used = torch.where(same, 0.0, difference / allowed.max())",
        killed_by="test_a_deviation_is_held_to_its_own_elements_bound",
    ),
    mutant(
        "only what is too large deviates",
        DIFFERENCE,
        "(got64 - want64).clamp_min(0)).nan_to_num(torch.inf, torch.inf)",
        killed_by="test_below_and_above_are_held_alike",
    ),
    mutant(
        "a NaN deviates by nothing",
        DIFFERENCE,
        "(got64 - want64).abs()).nan_to_num(0.0, torch.inf)",
        killed_by="test_what_is_not_finite_stands_at_the_same_places",
    ),
    mutant(
        "an Inf deviates by nothing",
        DIFFERENCE,
        "(got64 - want64).abs()).nan_to_num(torch.inf, 0.0)",
        killed_by="test_what_is_not_finite_stands_at_the_same_places",
    ),
    mutant(
        "any NaN will do",
        "(got64.isnan() & want64.isnan())",
        "(got64.isnan() | want64.isnan())",
        killed_by="test_what_is_not_finite_stands_at_the_same_places",
    ),
    mutant(
        "others' elements are looked at",
        "        same |= bound.left\n",
        "        same &= ~bound.left\n",
        killed_by="test_what_is_left_to_others_is_not_looked_at",
    ),
    mutant(
        "an element of any shape",
        "    assert got.shape == want.shape, (got.shape, want.shape)\n",
        "",
        killed_by="test_nothing_holds_and_another_shape_or_dtype_is_no_comparison",
    ),
    mutant(
        "an element of any dtype",
        "    assert got.dtype == want.dtype, (got.dtype, want.dtype)\n",
        "",
        killed_by="test_nothing_holds_and_another_shape_or_dtype_is_no_comparison",
    ),
    mutant(
        "a comparison in fp32",
        "got64, want64 = got.detach().cpu().double(), want.detach().cpu().double()\n    same",
        "got64, want64 = got.detach().cpu().float(), want.detach().cpu().float()\n    same",
        killed_by="test_integers_are_compared_exactly",
    ),
    mutant(
        "the spacing above",
        "magnitude.log2().floor()",
        "magnitude.log2().ceil()",
        killed_by="test_spacing_is_the_step_to_the_neighbour",
    ),
    mutant(
        "a rounded result may always be the neighbour",
        "return torch.maximum(low, high)",
        "return torch.maximum(low, high) + spacing(want, want.dtype)",
        killed_by="test_a_rounded_result_moves_only_where_its_error_reaches_a_tie",
    ),
    mutant(
        "a rounded result moves up only",
        "for sign in (-1, 1))",
        "for sign in (0, 1))",
        killed_by="test_a_rounded_result_moves_only_where_its_error_reaches_a_tie",
    ),
    mutant(
        "a rounded result moves down only",
        "for sign in (-1, 1))",
        "for sign in (-1, 0))",
        killed_by="test_a_rounded_result_moves_only_where_its_error_reaches_a_tie",
    ),
    mutant(
        "a sum's error grows with its terms",
        "max(terms, 1) ** 0.5",
        "max(terms, 1)",
        killed_by="test_a_sum_s_error_grows_with_the_root_of_its_terms",
    ),
    mutant(
        "what is exact may be off a little",
        "Bound(0.0, because) for name",
        "Bound(U, because) for name",
        killed_by="test_exact_allows_nothing",
    ),
    mutant(
        "twice the roundoff",
        "U = 2.0**-24\n",
        "U = 2.0**-23\n",
        killed_by=CONSTANTS,
    ),
    mutant(
        "sums may be off by a quarter more",
        "LAMBDA = 8.0",
        "LAMBDA = 10.0",
        killed_by=CONSTANTS,
    ),
    mutant(
        "exp functions of two ulp each",
        "EXP_ERROR = 4 * U",
        "EXP_ERROR = 8 * U",
        killed_by=CONSTANTS,
    ),
    mutant(
        "the chain may be off twice as far",
        "CHAIN_REL_L2 = 2e-3",
        "CHAIN_REL_L2 = 4e-3",
        killed_by=WIDE,
    ),
    mutant(
        "INT8 may cost twice as much",
        "ORACLE_REL_L2 = 1.2e-2",
        "ORACLE_REL_L2 = 2.4e-2",
        killed_by=WIDE,
    ),
    mutant(
        "a share is no percentage",
        "{100 * self.share:.3g} %",
        "{self.share:.3g} %",
        killed_by="test_a_deviation_is_held_to_its_own_elements_bound",
    ),
    mutant(
        "what holds is called broken",
        '"holds" if self.holds else "BROKEN"',
        '"BROKEN" if self.holds else "holds"',
        killed_by="test_a_deviation_is_held_to_its_own_elements_bound",
    ),
    mutant(
        "an angle in fp32",
        "got.detach().cpu().double().flatten(), want.detach().cpu().double().flatten()",
        "got.detach().cpu().float().flatten(), want.detach().cpu().float().flatten()",
        killed_by="test_distances",
    ),
    mutant(
        "a distance in fp32",
        "got.detach().cpu().double(), want.detach().cpu().double()\n    distance",
        "got.detach().cpu().float(), want.detach().cpu().float()\n    distance",
        killed_by="test_distances",
    ),
    mutant(
        "a distance is not relative",
        "return distance / size if size else distance",
        "return distance",
        killed_by="test_distances",
    ),
    compare(
        "strides are lost on the way from an accelerator",
        "if tensor.is_cpu or tensor.is_contiguous():",
        "if True:",
        killed_by="test_strides_survive_the_way_to_the_cpu",
    ),
    compare(
        "an output that the reference does not make is not compared",
        "(made,), strict=True)",
        "(made,), strict=False)",
        killed_by="test_every_output_is_compared",
    ),
    points(
        "a token of one slot is dead",
        "(live > 0)",
        "(live > 1)",
        killed_by="test_no_point_is_the_oracle",
    ),
)
