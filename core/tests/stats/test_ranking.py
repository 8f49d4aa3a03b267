"""AUROC: against scipy's Mann-Whitney statistic and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clipsec.stats import auroc

scores = st.lists(st.integers(-5, 5).map(float) | st.just(math.inf), min_size=1, max_size=12)


@settings(deadline=None)
@given(scores, scores)
def test_the_area_is_the_mann_whitney_statistic(positive, negative):
    """Equal to U / (m n), ties counted half; both intervals hold it and stay within [0, 1]."""
    found = auroc(positive, negative, resamples=200)
    ranked = stats.rankdata([*positive, *negative])[: len(positive)].sum()
    u = ranked - len(positive) * (len(positive) + 1) / 2
    assert found.value == pytest.approx(u / (len(positive) * len(negative)))
    assert 0 <= found.interval.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.interval.high <= 1
    assert 0 <= found.bootstrap.low <= found.bootstrap.high <= 1


@settings(deadline=None)
@given(scores, scores)
def test_exchanging_the_groups_mirrors_the_area(positive, negative):
    """AUROC(a, b) = 1 - AUROC(b, a), interval included."""
    one, other = auroc(positive, negative, resamples=10), auroc(negative, positive, resamples=10)
    assert one.value == pytest.approx(1 - other.value)
    assert one.interval.low == pytest.approx(1 - other.interval.high, abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.lists(st.floats(-5, 5), min_size=1, max_size=9))
def test_only_the_order_counts(positive, negative):
    """A strictly increasing change of scale changes nothing."""
    stretched = auroc(
        [math.ldexp(x, 3) for x in positive], [math.ldexp(x, 3) for x in negative], resamples=10
    )
    assert auroc(positive, negative, resamples=10) == stretched


def test_perfect_separation_of_few_models_is_not_certainty():
    """Five against five: area 1, but the interval reaches far below; it narrows with the number of models."""
    few = auroc(range(10, 15), range(5), resamples=50)
    many = auroc(range(100, 150), range(50), resamples=50)
    assert few.value == many.value == 1.0
    assert few.interval.low < 0.7 < 0.9 < many.interval.low < few.interval.high == 1.0
    assert (few.bootstrap.low, few.bootstrap.high) == (1.0, 1.0)


def test_the_seed_decides_the_bootstrap():
    """Same seed, same interval."""
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(1, 1, 20), rng.normal(0, 1, 20)
    assert auroc(positive, negative, seed=3) == auroc(positive, negative, seed=3)
    assert auroc(positive, negative, seed=3).bootstrap != auroc(positive, negative, seed=4).bootstrap


@pytest.mark.parametrize(("distance", "m", "n"), [(1, 40, 10), (2, 40, 10), (2, 10, 10), (1, 50, 50)])
def test_the_reported_interval_covers_the_truth(distance, m, n):
    """On 400 simulated suites the 95% interval holds the true area at least 93 times in 100."""
    truth = stats.norm.cdf(distance / math.sqrt(2))
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        found = auroc(rng.normal(distance, 1, m), rng.normal(0, 1, n), resamples=1)
        covered += found.interval.low <= truth <= found.interval.high
    assert covered / 400 >= 0.93


def test_the_bootstrap_agrees_with_the_other_interval_on_many_models():
    """With 300 models a side both intervals nearly coincide."""
    rng = np.random.default_rng(1)
    found = auroc(rng.normal(1, 1, 300), rng.normal(0, 1, 300))
    assert found.bootstrap.low == pytest.approx(found.interval.low, abs=0.01)
    assert found.bootstrap.high == pytest.approx(found.interval.high, abs=0.01)


@pytest.mark.parametrize(
    ("positive", "negative"), [([], [1]), ([1], []), ([math.nan], [1]), ([1], [math.nan])]
)
def test_nothing_to_rank_is_refused(positive, negative):
    """An empty group or a NaN has no rank."""
    with pytest.raises(ValueError):
        auroc(positive, negative)
