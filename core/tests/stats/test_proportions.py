"""Proportions: published values, agreement with scipy, and what must hold for all counts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from clipsec.stats import binomial_test, clopper_pearson, mcnemar_exact, newcombe, wilson


@st.composite
def counts(draw, least=0):
    n = draw(st.integers(least, 300))
    return draw(st.integers(0, n)), n


def ends(interval):
    return interval.low, interval.high


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_the_published_examples(k, n, low, high):
    """The four examples of Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3."""
    assert ends(wilson(k, n)) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("k1", "n1", "k2", "n2", "low", "high"),
    [
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (6, 7, 2, 7, 0.0582, 0.8062),
        (5, 56, 0, 29, -0.0381, 0.1926),
        (0, 10, 0, 20, -0.1611, 0.2775),
        (0, 10, 0, 10, -0.2775, 0.2775),
        (10, 10, 0, 20, 0.6791, 1.0),
        (10, 10, 0, 10, 0.6075, 1.0),
    ],
)
def test_newcombe_agrees_with_the_published_examples(k1, n1, k2, n2, low, high):
    """The eight examples of Newcombe, Statistics in Medicine 17 (1998), 873-890, table II, method 10."""
    assert ends(newcombe(k1, n1, k2, n2)) == pytest.approx((low, high), abs=5e-5)


@given(counts(), st.sampled_from([0.8, 0.95, 0.99]))
def test_intervals_hold_the_estimate_and_stay_in_range(count, level):
    """0 <= low <= k/n <= high <= 1, never a point, and mirrored for failures."""
    k, n = count
    for method in (wilson, clopper_pearson):
        interval, mirror = method(k, n, level), method(n - k, n, level)
        assert 0 <= interval.low < interval.high <= 1
        assert interval.level == level
        if n:
            assert interval.low - 1e-12 <= k / n <= interval.high + 1e-12
        assert ends(mirror) == pytest.approx((1 - interval.high, 1 - interval.low), abs=1e-9)


@given(counts(least=1))
def test_a_higher_level_is_a_wider_interval(count):
    """99% holds 95% holds 80%."""
    for method in (wilson, clopper_pearson):
        narrow, middle, wide = (method(*count, level) for level in (0.8, 0.95, 0.99))
        assert wide.low <= middle.low <= narrow.low
        assert narrow.high <= middle.high <= wide.high


@given(counts(least=1), st.floats(0.02, 0.98))
def test_clopper_pearson_is_the_inverted_exact_test(count, p):
    """A probability is outside the interval exactly if an exact one-sided test rejects it at 2.5%."""
    k, n = count
    interval = clopper_pearson(k, n)
    smaller = min(binomial_test(k, n, p, "less"), binomial_test(k, n, p, "greater"))
    if abs(smaller - 0.025) > 1e-6:
        assert (interval.low <= p <= interval.high) is (smaller > 0.025)


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("n", [5, 20, 60])
def test_coverage_over_all_outcomes(n, p):
    """Summed over every possible k: Clopper-Pearson covers at least 95%, Wilson about that (at least 88%)."""
    weights = stats.binom(n, p).pmf(range(n + 1))
    for method, least in ((clopper_pearson, 0.95), (wilson, 0.88)):
        covered = sum(w for k, w in enumerate(weights) if method(k, n).low <= p <= method(k, n).high)
        assert covered >= least


@given(counts(), counts())
def test_newcombe_holds_the_difference_and_changes_sign_when_swapped(first, second):
    """-1 <= low <= p1 - p2 <= high <= 1; exchanging the groups mirrors the interval."""
    interval, swapped = newcombe(*first, *second), newcombe(*second, *first)
    assert -1 <= interval.low < interval.high <= 1
    assert ends(swapped) == pytest.approx((-interval.high, -interval.low), abs=1e-12)
    if first[1] and second[1]:
        difference = first[0] / first[1] - second[0] / second[1]
        assert interval.low - 1e-12 <= difference <= interval.high + 1e-12


@given(counts())
def test_newcombe_against_no_observations_says_no_more_than_wilson(count):
    """A group without observations may have any proportion."""
    one = wilson(*count)
    assert ends(newcombe(*count, 0, 0)) == pytest.approx((one.low - 1, one.high), abs=1e-12)


def test_mcnemar_agrees_with_a_published_example():
    """1 against 7 discordant pairs: 18/256 (Fagerland et al., BMC Med Res Methodol 13:91, 2013)."""
    assert mcnemar_exact(1, 7) == pytest.approx(18 / 256)
    assert mcnemar_exact(0, 0) == 1.0


@given(st.integers(0, 80), st.integers(0, 80))
def test_mcnemar_is_twice_the_binomial_tail(b, c):
    """Symmetric, at most 1, and the doubled tail of a fair coin."""
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b) == pytest.approx(min(1.0, 2 * tail))


@given(counts(least=1), st.floats(1e-6, 1))
def test_the_two_tails_overlap_in_what_was_seen(count, p):
    """P(X <= k) + P(X >= k) - P(X = k) = 1."""
    k, n = count
    both = binomial_test(k, n, p, "less") + binomial_test(k, n, p, "greater")
    assert both - stats.binom(n, p).pmf(k) == pytest.approx(1.0, abs=1e-9)


def test_no_trials_say_nothing():
    """n = 0 gives the whole range and p = 1, not an error and not certainty."""
    assert ends(wilson(0, 0)) == ends(clopper_pearson(0, 0)) == (0.0, 1.0)
    assert ends(newcombe(0, 0, 0, 0)) == (-1.0, 1.0)
    assert binomial_test(0, 0, 0.3) == 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(3, 2),
        lambda: wilson(-1, 2),
        lambda: wilson(1, 2, 1.0),
        lambda: clopper_pearson(0, -1),
        lambda: newcombe(1, 2, 3, 2),
        lambda: binomial_test(1, 2, 1.5),
        lambda: mcnemar_exact(-1, 2),
    ],
)
def test_impossible_counts_are_refused(call):
    """More successes than trials is a mistake of the caller."""
    with pytest.raises(ValueError):
        call()
