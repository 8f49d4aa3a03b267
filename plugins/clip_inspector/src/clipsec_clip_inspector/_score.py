"""Scores and decisions, as pure functions over per-class numbers."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

FLOOR = 1e-6
"""Added to the MAD so that identical losses do not divide by zero."""


@attrs.frozen
class ClassResult:
    """What inverting one class measured on the delivered model, and on its null where there is one."""

    index: int
    loss: float
    """Mean margin of triggered pictures on the delivered head; lower means the target wins more clearly."""
    hits: int
    """Eligible pictures that the trigger sends to the class."""
    n: int
    """Eligible pictures: those whose clean prediction is another class."""
    transfer_loss: float | None = None
    """Mean margin of the same triggered pictures on the null's head."""
    transfer_hits: int | None = None
    transfer_n: int | None = None
    null_loss: float | None = None
    """Mean margin on the null's head under the trigger found for the null itself."""
    null_hits: int | None = None
    null_n: int | None = None

    @property
    def success_rate(self) -> float:
        return self.hits / self.n if self.n else 0.0


def robust_scores(values: Sequence[float]) -> NDArray[np.float64]:
    """How far each value lies below the median, in scaled median absolute deviations.

    `(median - value) / (1.4826 * median |value - median| + FLOOR)`; positive means suspiciously low. The
    across-class anomaly score of the paper in its defensible reading (robust, since mean scores above
    (n-1)/sqrt(n) are reported).
    """
    array = np.asarray(values, dtype=np.float64)
    median = np.median(array)
    spread = 1.4826 * np.median(np.abs(array - median)) + FLOOR
    return (median - array) / spread
