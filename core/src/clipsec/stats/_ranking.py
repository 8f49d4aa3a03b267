"""How well a score separates two groups: AUROC with an interval."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import scipy  # its parts are imported when they are first used; `stats` takes 0.7 s
from numpy.typing import ArrayLike, NDArray

from clipsec.results import Interval

_BESIDE = 1e-9


@attrs.frozen
class Auroc:
    """Area under the ROC curve."""

    value: float
    """Probability that a random positive scores higher than a random negative, ties counted half."""
    interval: Interval
    """Newcombe's method 5, the one to report: it holds its level for few models and near 1."""
    bootstrap: Interval
    """Stratified percentile bootstrap; too narrow for few models, and a point at perfect separation."""
    positives: int
    negatives: int


def auroc(
    positive: Sequence[float] | ArrayLike,
    negative: Sequence[float] | ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Auroc:
    """The AUROC of scores (higher is more suspicious) with two intervals.

    Why two: with 40 positives and 10 negatives from two normal distributions, over 1,000 simulated suites,
    the 95% bootstrap interval held the true area (0.92) 87 times in 100, Newcombe's 97 times. The bootstrap
    resamples positives and negatives separately.
    Raises `ValueError` if a group is empty or a score is NaN.
    Sources: Hanley and McNeil, Radiology 143 (1982), 29-36; Newcombe, Statistics in Medicine 25 (2006),
    559-573, method 5; Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    wins = _wins(_scores(positive, "positive"), _scores(negative, "negative"))
    m, n = wins.shape
    value = float(wins.mean())
    generator = np.random.default_rng(seed)
    # A resample is how often each model was drawn, so its AUROC is one bilinear form.
    rows = generator.multinomial(m, np.full(m, 1 / m), size=resamples) / m
    columns = generator.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    values = np.einsum("rn,rn->r", rows @ wins, columns)
    tail = (1 - level) / 2
    low, high = np.clip(np.quantile(values, [tail, 1 - tail]), 0.0, 1.0)
    bootstrap = Interval(float(low), float(high), level, "bootstrap")
    return Auroc(value, _newcombe(value, m, n, level), bootstrap, m, n)


def _scores(values: Sequence[float] | ArrayLike, what: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64).ravel()
    if not len(array):
        raise ValueError(f"there is no {what} score")
    if np.isnan(array).any():
        raise ValueError(f"a {what} score is NaN")
    return array


def _wins(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[m, n]`: 1 where the positive scores higher, 1/2 for a tie."""
    left, right = positive[:, None], negative[None, :]
    return np.where(left == right, 0.5, left > right)


def _newcombe(value: float, m: int, n: int, level: float) -> Interval:
    """All areas whose own Hanley-McNeil variance, with both sizes taken as their mean, allows `value`."""
    z2 = scipy.stats.norm.ppf((1 + level) / 2) ** 2
    others = (m + n) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + others * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return float((theta - value) ** 2 - z2 * theta * (1 - theta) * spread / (m * n))

    # The excess is positive at 0 and 1, negative at the estimate, unless the estimate is 0 or 1 itself: there
    # it vanishes too, and the search for the other bound must start just beside it.
    low = scipy.optimize.brentq(excess, 0.0, min(value, 1 - _BESIDE)) if value > 0 else 0.0
    high = scipy.optimize.brentq(excess, max(value, _BESIDE), 1.0) if value < 1 else 1.0
    return Interval(float(low), float(high), level, "Newcombe 5")
