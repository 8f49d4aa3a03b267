"""Robust z-scores: the definition, and what a plain z-score cannot do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from clipsec.stats import robust_z

values = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30)


@given(values)
def test_it_is_the_stated_formula(xs):
    """(x - median) / (1.4826 MAD + 1e-6), computed with plain numpy."""
    median = np.median(xs)
    expected = (np.array(xs) - median) / (1.4826 * np.median(np.abs(np.array(xs) - median)) + 1e-6)
    assert robust_z(xs) == pytest.approx(expected)


@given(values)
def test_low_is_high_of_the_negated(xs):
    """A suspiciously low value scores as its mirror image would."""
    assert robust_z(xs, "low") == pytest.approx(robust_z([-x for x in xs]), abs=1e-9)


@given(
    st.lists(st.integers(-100, 100), min_size=3, max_size=30), st.integers(1, 50), st.integers(-1000, 1000)
)
def test_scale_and_offset_do_not_matter(xs, factor, offset):
    """Up to the floor, which is 1e-6 in the values' unit."""
    assume(stats.median_abs_deviation(xs) > 0)
    moved = robust_z([x * factor + offset for x in xs])
    assert moved == pytest.approx(robust_z(xs), rel=1e-5, abs=1e-5)


def test_a_normal_sample_has_unit_spread():
    """1.4826 makes the MAD of a normal sample its standard deviation."""
    scores = robust_z(np.random.default_rng(0).normal(5, 3, 20_000))
    assert scores.std() == pytest.approx(1, abs=0.02)


def test_one_class_far_off_is_not_limited_by_their_number():
    """With 50 classes a plain z-score cannot exceed 6.93; here the outlier shows at its own distance."""
    losses = np.random.default_rng(1).normal(5, 1, 50)
    losses[7] = -11
    assert np.argmax(robust_z(losses, "low")) == 7
    assert robust_z(losses, "low")[7] > 10
    assert abs(stats.zscore(losses)[7]) < 6.93


def test_equal_values_are_no_outliers_and_one_among_equals_is():
    """The floor makes 0 of 0/0, and a large number of x/0."""
    assert not robust_z([2.0] * 9).any()
    assert robust_z([2.0] * 9 + [3.0])[-1] == pytest.approx(1e6)


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [math.inf, 1.0], [[1.0, 2.0]], 3.0])
def test_values_without_a_score_are_refused(bad):
    """A NaN would compare as not an outlier."""
    with pytest.raises(ValueError):
        robust_z(bad)
