"""Paired outcomes: closed-form and bootstrap intervals for differences on the same cases."""

from __future__ import annotations

import math

import numpy as np
import scipy  # its parts are imported when they are first used; `stats` takes 0.7 s
from numpy.typing import ArrayLike, NDArray

from clipsec.results import Interval
from clipsec.stats._proportions import wilson

RESAMPLES = 10_000
_CHUNK = 2_000_000
"""Most weights that are held at once."""


def newcombe_paired(both: int, first: int, second: int, neither: int, level: float = 0.95) -> Interval:
    """Interval for p1 - p2, two proportions of the same n cases, from the four counts of a 2 x 2 table.

    `first` cases succeeded under the first condition alone, `second` under the second alone. Two Wilson
    intervals are combined with the correlation that the table shows; [-1, 1] when there is no case. Raises
    `ValueError` for a negative count. Source: Newcombe, Statistics in Medicine 17 (1998), 2635-2650, method
    10.
    """
    counts = (both, first, second, neither)
    if min(counts) < 0:
        raise ValueError(f"counts are not negative: {counts}")
    n = sum(counts)
    if n == 0:
        return Interval(-1.0, 1.0, level, "Newcombe paired")
    one, two = wilson(both + first, n, level), wilson(both + second, n, level)
    p1, p2 = (both + first) / n, (both + second) / n
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    cross = float(both * neither - first * second)
    # The correction applies to positive association only, and does not turn its sign.
    cross = max(cross - n / 2, 0.0) if cross > 0 else cross
    phi = cross / math.sqrt(margins) if margins else 0.0
    below, above = (p1 - one.low, two.high - p2), (one.high - p1, p2 - two.low)
    low = (p1 - p2) - _combined(*below, phi)
    high = (p1 - p2) + _combined(*above, phi)
    return Interval(max(-1.0, low), min(1.0, high), level, "Newcombe paired")


def _combined(x: float, y: float, phi: float) -> float:
    return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))


def paired_bootstrap(
    values: ArrayLike,
    *,
    pools: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the mean of one number a case, e.g. a difference of paired outcomes.

    Cases are resampled with replacement. When the same queries are put to several pools, `values` is
    `[queries, pools]` flattened in that order and `pools` says which pool a case belongs to: queries and
    pools are then both resampled, and a case counts with the product of how often its query and its pool
    were drawn. Raises `ValueError` when there is no value, one is not finite, or queries and pools are not
    crossed.
    Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; Owen, Annals of
    Applied Statistics 1 (2007), 386-411 (two-way resampling).
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    if not len(array) or not np.isfinite(array).all():
        raise ValueError("a bootstrap needs at least one value, and finite ones")
    generator = np.random.default_rng(seed)
    if pools is None or len(np.unique(np.asarray(pools))) < 2:
        means = _one_way(array, resamples, generator)
    else:
        means = _two_way(_crossed(array, np.asarray(pools)), resamples, generator)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high), level, "bootstrap")


def _one_way(
    array: NDArray[np.float64], resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    # Outcomes take a handful of values, so a resample is how often each was drawn, not which cases.
    distinct, counts = np.unique(array, return_counts=True)
    means = np.empty(resamples)
    step = max(1, _CHUNK // len(distinct))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = generator.multinomial(len(array), counts / len(array), size=size)
        means[start : start + size] = drawn @ distinct / len(array)
    return means


def _crossed(array: NDArray[np.float64], pools: NDArray[np.int64]) -> NDArray[np.float64]:
    count = len(np.unique(pools))
    if len(pools) != len(array) or len(array) % count:
        raise ValueError("queries and pools are not crossed: each query must be put to every pool")
    table = pools.reshape(-1, count)
    if (table != table[0]).any() or len(set(table[0].tolist())) != count:
        raise ValueError("queries and pools are not crossed: each query must be put to every pool")
    return array.reshape(-1, count)


def _two_way(
    table: NDArray[np.float64], resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    queries, pools = table.shape
    means = np.empty(resamples)
    step = max(1, _CHUNK // queries)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        rows = generator.multinomial(queries, np.full(queries, 1 / queries), size=size)
        columns = generator.multinomial(pools, np.full(pools, 1 / pools), size=size)
        means[start : start + size] = np.einsum("rp,rp->r", rows @ table, columns) / table.size
    return means


def no_change_bound(n: int, level: float = 0.95) -> float:
    """The largest rate of changed cases that n cases of which none changed are compatible with.

    Wilson's upper limit for 0 of n, z^2 / (n + z^2); 1 when n is 0. A bootstrap of equal values is a point,
    however few they are; its interval is never to be narrower than this.
    """
    z2 = float(scipy.stats.norm.ppf((1 + level) / 2)) ** 2
    return z2 / (n + z2)
