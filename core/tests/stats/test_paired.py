"""Paired differences and several tests at once: closed forms, bootstraps, what holds for all tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsec.stats import holm, newcombe, newcombe_paired, no_change_bound, paired_bootstrap, wilson

tables = st.tuples(*[st.integers(0, 60)] * 4).filter(any)


@given(tables)
def test_the_paired_interval_holds_the_difference_and_turns_with_the_conditions(table) -> None:
    """Exchanging the two conditions mirrors the interval; it always holds the observed difference."""
    both, first, second, neither = table
    found, other = newcombe_paired(*table), newcombe_paired(both, second, first, neither)
    difference = (first - second) / sum(table)
    assert found.low - 1e-9 <= difference <= found.high + 1e-9
    assert (found.low, found.high) == pytest.approx((-other.high, -other.low))


def test_without_correlation_the_paired_interval_is_that_of_independent_samples() -> None:
    """A table that factorises carries no correlation."""
    found, apart = newcombe_paired(12, 12, 8, 8), newcombe(24, 40, 20, 40)
    assert (found.low, found.high) == pytest.approx((apart.low, apart.high))


def test_correlation_narrows_the_paired_interval() -> None:
    """Cases that mostly agree tell more about a difference than independent ones."""
    found, apart = newcombe_paired(100, 10, 2, 88), newcombe(110, 200, 102, 200)
    assert found.high - found.low < 0.6 * (apart.high - apart.low)


def test_the_paired_interval_covers_at_its_level() -> None:
    """Over 2,000 samples of 80 correlated pairs, 95% intervals hold the true difference 93 to 98 times in
    100."""
    rng = np.random.default_rng(0)
    samples = rng.multinomial(80, [0.3, 0.25, 0.1, 0.35], size=2_000)
    unique, counts = np.unique(samples, axis=0, return_counts=True)
    held = 0
    for table, count in zip(unique, counts):
        found = newcombe_paired(*map(int, table))
        held += count * (found.low <= 0.15 <= found.high)
    assert 0.93 <= held / 2_000 <= 0.98


def test_nothing_is_known_without_cases() -> None:
    found = newcombe_paired(0, 0, 0, 0)
    assert (found.low, found.high) == (-1.0, 1.0)
    with pytest.raises(ValueError):
        newcombe_paired(-1, 0, 0, 2)


def test_the_bootstrap_of_outcomes_agrees_with_the_normal_interval() -> None:
    """For 400 outcomes of a half, the percentile interval is within a point of the textbook one."""
    found = paired_bootstrap([0, 1] * 200, seed=3)
    assert (found.low, found.high) == pytest.approx((0.451, 0.549), abs=0.01)


def test_pools_that_differ_widen_the_interval() -> None:
    """Five pools of which one decides: resampling queries alone would call 0.2 certain."""
    values = np.tile([1, 0, 0, 0, 0], 200)
    pools = np.tile(np.arange(5), 200)
    one_way, two_way = paired_bootstrap(values), paired_bootstrap(values, pools=pools)
    assert one_way.high - one_way.low < 0.06
    assert (two_way.low, two_way.high) == pytest.approx((0.0, 0.6))


@pytest.mark.parametrize("pools", [[0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1]])
def test_queries_and_pools_must_be_crossed(pools) -> None:
    with pytest.raises(ValueError, match="crossed"):
        paired_bootstrap(np.zeros(len(pools)), pools=pools)


@pytest.mark.parametrize("values", [[], [float("nan")]])
def test_a_bootstrap_needs_values(values) -> None:
    with pytest.raises(ValueError):
        paired_bootstrap(values)


@given(st.integers(0, 10_000))
def test_no_change_is_wilson_s_limit(n: int) -> None:
    """What no changed case among n leaves open is the upper end of Wilson's interval for 0 of n."""
    assert no_change_bound(n) == pytest.approx(wilson(0, n).high)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.001, 0.2))
def test_holm_rejects_no_more_than_each_alone_and_no_less_than_bonferroni(p_values, level) -> None:
    """Holm lies between Bonferroni and no correction."""
    adjusted = holm(p_values)
    rejected = {i for i, p in enumerate(adjusted) if p <= level}
    assert rejected <= {i for i, p in enumerate(p_values) if p <= level}
    assert {i for i, p in enumerate(p_values) if len(p_values) * p <= level} <= rejected


def test_holm_on_a_worked_example() -> None:
    """4, 3, 2 and 1 times the sorted values, never falling."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
