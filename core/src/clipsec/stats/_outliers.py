"""Outliers among a few values: robust z-scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy  # its parts are imported when they are first used; `stats` takes 0.7 s
from numpy.typing import ArrayLike, NDArray

FLOOR = 1e-6
"""Added to the scaled MAD, so that values of which most are equal do not divide by zero."""
_TO_SIGMA = 1.4826
"""1 / Phi^-1(3/4), rounded as in the literature: a normal sample's MAD times this is its spread."""


def robust_z(
    values: Sequence[float] | ArrayLike, direction: Literal["low", "high"] = "high"
) -> NDArray[np.float64]:
    """How far each value lies from the median in the suspicious direction, in robust standard deviations.

    `(x - median) / (1.4826 * MAD + 1e-6)`, negated for `direction="low"`; positive is suspicious. Median and
    MAD are those of all values, the outlier included. A plain z-score of n values cannot exceed
    (n - 1) / sqrt(n), this one can.
    Raises `ValueError` if there is no value or one is not finite.
    Source: Iglewicz and Hoaglin (1993); as anomaly index in Wang et al., Neural Cleanse, S&P 2019, sec. V-B.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"a list of values is needed, not an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("a value is not finite")
    median = np.median(array)
    spread = _TO_SIGMA * scipy.stats.median_abs_deviation(array) + FLOOR
    scores: NDArray[np.float64] = (array - median) / spread
    return -scores if direction == "low" else scores
