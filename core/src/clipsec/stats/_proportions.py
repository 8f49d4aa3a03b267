"""Proportions: intervals, differences and exact tests."""

from __future__ import annotations

import math
from typing import Literal

import attrs
import scipy  # its parts are imported when they are first used; `stats` takes 0.7 s

from clipsec.results import Interval

Alternative = Literal["two-sided", "less", "greater"]


@attrs.frozen
class Proportion:
    """k of n, with an interval."""

    k: int
    n: int
    value: float | None
    """k / n; None when n is 0."""
    interval: Interval


def proportion(k: int, n: int, level: float = 0.95) -> Proportion:
    """k of n with Wilson's interval. Raises `ValueError` like `wilson`."""
    return Proportion(k, n, k / n if n else None, wilson(k, n, level))


def wilson(k: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for k successes out of n; [0, 1] when n is 0.

    Unlike the textbook (Wald) interval it is neither empty at 0 or n successes nor reaches outside [0, 1].
    Raises `ValueError` unless 0 <= k <= n and 0 < level < 1. Source: Wilson, JASA 22 (1927), 209-212.
    """
    return _interval(k, n, level, "wilson")


def clopper_pearson(k: int, n: int, level: float = 0.95) -> Interval:
    """The exact interval for k successes out of n: coverage is never below `level`; [0, 1] when n is 0.

    For claims that must not be too good, such as "at most this many clean models are flagged". Raises
    `ValueError` like `wilson`. Source: Clopper and Pearson, Biometrika 26 (1934), 404-413.
    """
    return _interval(k, n, level, "exact")


def _interval(k: int, n: int, level: float, method: Literal["wilson", "exact"]) -> Interval:
    _check(k, n, level)
    name = {"wilson": "Wilson", "exact": "Clopper-Pearson"}[method]
    if n == 0:
        return Interval(0.0, 1.0, level, name)
    found = scipy.stats.binomtest(k, n).proportion_ci(level, method=method)
    return Interval(float(found.low), float(found.high), level, name)


def newcombe(k1: int, n1: int, k2: int, n2: int, level: float = 0.95) -> Interval:
    """Interval for the difference of two independent proportions, k1/n1 - k2/n2.

    Newcombe's hybrid of two Wilson intervals, without continuity correction; a group without observations may
    have any proportion. Raises `ValueError` like
    `wilson`. Source: Newcombe, Statistics in Medicine 17 (1998), 873-890, method 10.
    """
    first, second = wilson(k1, n1, level), wilson(k2, n2, level)
    # Without observations the interval is [0, 1]; any point inside serves as the estimate.
    p1 = k1 / n1 if n1 else 0.5
    p2 = k2 / n2 if n2 else 0.5
    difference = p1 - p2
    low = difference - math.hypot(p1 - first.low, second.high - p2)
    high = difference + math.hypot(first.high - p1, p2 - second.low)
    if not n1 or not n2:
        low, high = first.low - second.high, first.high - second.low
    return Interval(max(-1.0, low), min(1.0, high), level, "Newcombe")


def binomial_test(k: int, n: int, p: float, alternative: Alternative = "two-sided") -> float:
    """The exact p-value of k successes out of n when each succeeds with probability p; 1 when n is 0.

    Raises `ValueError` unless 0 <= k <= n and 0 <= p <= 1.
    """
    _check(k, n)
    if not 0 <= p <= 1:
        raise ValueError(f"a probability is between 0 and 1, not {p}")
    if n == 0:
        return 1.0
    return float(scipy.stats.binomtest(k, n, p, alternative).pvalue)


def mcnemar_exact(b: int, c: int) -> float:
    """The exact two-sided p-value of McNemar's test from the two discordant counts; 1 when both are 0.

    b pairs changed one way and c the other, e.g. pictures that only the first or only the second model gets
    right. Conditional on b + c, b is binomial with probability 1/2. Raises `ValueError` for a negative count.
    Source: McNemar, Psychometrika 12 (1947), 153-157, in its exact form.
    """
    if b < 0 or c < 0:
        raise ValueError(f"counts are not negative: {b}, {c}")
    return binomial_test(b, b + c, 0.5)


def _check(k: int, n: int, level: float = 0.95) -> None:
    if not 0 <= k <= n:
        raise ValueError(f"successes must be between 0 and the number of trials: {k} of {n}")
    if not 0 < level < 1:
        raise ValueError(f"a confidence level is between 0 and 1, not {level}")
