"""The judge and what bounds are made of: each clause of a verdict by itself."""

from __future__ import annotations

import math

import pytest
import torch

from reference.bounds import (
    EXP_ERROR,
    LAMBDA,
    Bound,
    U,
    Verdict,
    cosine,
    exact,
    judge,
    narrowed,
    relative_l2,
    spacing,
    sum_error,
)

INF, NAN = torch.inf, torch.nan


def verdict(got: list[float], want: list[float], allowed: object = 0.0, **rest: object) -> Verdict:
    bound = Bound(torch.tensor(allowed) if isinstance(allowed, list) else allowed, "why", **rest)
    return judge("o_r", torch.tensor(got), torch.tensor(want), bound)


def test_what_is_equal_holds_whatever_the_bound():
    found = verdict([1.0, NAN, INF, -INF, 0.0], [1.0, NAN, INF, -INF, -0.0])
    assert found.holds
    assert (found.deviation, found.used, found.share) == (0, 0, 0)


def test_a_deviation_is_held_to_its_own_elements_bound():
    assert verdict([1.0, 2.5], [1.0, 2.0], [0.0, 0.5]).holds
    assert not verdict([1.0, 2.5], [1.0, 2.0], [0.5, 0.25]).holds
    found = verdict([1.0, 2.0, 3.0], [1.0, 1.5, 3.25], [1.0, 2.0, 0.125])
    assert not found.holds
    assert (found.deviation, found.used) == (0.5, 2.0)
    assert found.share == pytest.approx(2 / 3)
    assert found.where == "[2]: 3 for 3.25"
    assert found.because == "why"
    assert str(found) == (
        "o_r: BROKEN: largest deviation 0.5 (2.00 of the bound), 66.7 % of elements differ; "
        "worst [2]: 3 for 3.25; bound: why"
    )
    assert str(verdict([1.0], [1.0])).startswith("o_r: holds: ")


def test_below_and_above_are_held_alike():
    for sign in (1, -1):
        assert verdict([sign * 0.5], [0.0], 0.5).holds
        assert not verdict([sign * 0.5], [0.0], 0.49).holds


def test_where_nothing_is_allowed_any_deviation_breaks():
    found = verdict([1.0 + 2**-23], [1.0])
    assert not found.holds
    assert found.used == INF


@pytest.mark.parametrize(
    ("got", "want"), [(NAN, 1.0), (1.0, NAN), (INF, 1.0), (INF, -INF), (NAN, INF), (INF, NAN)]
)
def test_what_is_not_finite_stands_at_the_same_places(got, want):
    assert not verdict([got], [want], 1e30).holds


def test_what_is_left_to_others_is_not_looked_at():
    left = torch.tensor([True, False])
    assert verdict([NAN, 1.0], [0.0, 1.0], left=left).holds
    assert not verdict([NAN, 1.5], [0.0, 1.0], left=left).holds


def test_nothing_holds_and_another_shape_or_dtype_is_no_comparison():
    assert verdict([], []).holds
    with pytest.raises(AssertionError):
        judge("o_r", torch.ones(2), torch.ones(1, 2), Bound(0.0, ""))
    with pytest.raises(AssertionError):
        judge("o_r", torch.ones(2), torch.ones(2).double(), Bound(0.0, ""))


def test_integers_are_compared_exactly():
    want = torch.tensor([2**31 - 1], dtype=torch.int32)
    assert not judge("partial", want - 1, want, Bound(0.0, "")).holds
    assert judge("partial", want - 1, want, Bound(1.0, "")).holds


@pytest.mark.parametrize(
    ("x", "dtype", "step"),
    [
        (1.0, torch.bfloat16, 2.0**-7),
        (1.99, torch.bfloat16, 2.0**-7),
        (2.0, torch.bfloat16, 2.0**-6),
        (-3.0, torch.float32, 2.0**-22),
        (0.0, torch.float32, 2.0**-149),
        (INF, torch.float32, 0.0),
        (NAN, torch.bfloat16, 0.0),
    ],
)
def test_spacing_is_the_step_to_the_neighbour(x, dtype, step):
    assert float(spacing(torch.tensor(x, dtype=dtype), dtype)) == step


@pytest.mark.parametrize(
    ("exact", "error", "want", "allowed"),
    [
        (1.001, 1e-6, 1.0, 0.0),  # far from the tie at 1 + 2**-8
        (1 + 2.0**-8, 1e-6, 1.0, 2.0**-7),  # at it
        (1 + 2.0**-8 - 2e-6, 1e-6, 1.0, 0.0),
        (1 + 2.0**-8 + 2e-6, 1e-6, 1.0 + 2.0**-7, 0.0),
        (1 + 2.0**-8 - 1e-6, 2e-6, 1.0, 2.0**-7),  # its error reaches above
        (1 + 2.0**-8 + 1e-6, 2e-6, 1.0 + 2.0**-7, 2.0**-7),  # and below
        (NAN, 0.0, NAN, 0.0),
        (INF, 0.0, INF, 0.0),
    ],
)
def test_a_rounded_result_moves_only_where_its_error_reaches_a_tie(exact, error, want, allowed):
    x, e = (torch.tensor(v, dtype=torch.float64) for v in (exact, error))
    assert float(narrowed(x, e, torch.tensor(want).bfloat16())) == allowed


def test_what_bounds_are_made_of():
    ulp = torch.finfo(torch.float32).eps  # of 1, whose relative size is the largest
    assert ulp / 2 == U
    assert 2 * ulp == EXP_ERROR
    assert 2 * 4096 * math.exp(-(LAMBDA**2) / 2) == pytest.approx(1e-10, rel=0.1)


def test_a_sum_s_error_grows_with_the_root_of_its_terms():
    one = torch.ones(1, dtype=torch.float64)
    assert float(sum_error(1, one)) == 2 * LAMBDA * U
    assert float(sum_error(4096, 3 * one)) == pytest.approx(64 * 3 * 2 * LAMBDA * U)
    assert float(sum_error(0, one)) == float(sum_error(1, one))


def test_exact_allows_nothing():
    bound = exact({"kv": torch.ones(1)}, "moves")["kv"]
    assert (bound.allowed, bound.because, bound.left) == (0.0, "moves", None)


def test_distances():
    one = torch.ones(1, dtype=torch.float64)
    assert relative_l2(one + 1e-9, one) == pytest.approx(1e-9)
    near, axis = torch.tensor([1.0, 1e-5]).double(), torch.tensor([1.0, 0.0])
    assert 1 - cosine(near, axis) == pytest.approx(5e-11, rel=1e-3)
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    assert relative_l2(b, a) == pytest.approx(0.1)
    assert relative_l2(a, torch.zeros(2)) == 5.0
    assert relative_l2(torch.zeros(2), torch.zeros(2)) == 0.0
    assert cosine(a, -a) == pytest.approx(-1)
    assert cosine(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])) == 0.0
    assert cosine(torch.zeros(2), torch.zeros(2)) == 1.0
