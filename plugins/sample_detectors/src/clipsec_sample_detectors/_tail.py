"""Do more samples stand out than chance explains? An exact test beside samples that are known to be clean."""

from __future__ import annotations

import math

import attrs
import scipy  # its parts are imported when they are first used
import torch
from torch import Tensor

LEVEL = 0.01
"""A finding is a tail probability below this. Fixed by hand before anything was measured."""


@attrs.frozen(eq=False)
class Tail:
    """How many samples lie beyond what nearly all clean ones stay within."""

    threshold: float
    """A sample with a higher score is flagged."""
    flagged: Tensor
    """bool `[n]`."""
    expected: float
    """Flagged samples that chance gives."""
    p: float
    """Probability of so many flagged samples or more when all are of the clean kind."""
    clean: int

    @property
    def significant(self) -> bool:
        return self.p < LEVEL


def fewest_clean(share: float) -> int:
    """Clean samples that a threshold at their highest `share` needs at least."""
    return math.ceil(1 / share - 1e-9) - 1


def tail(scores: Tensor, clean: Tensor, share: float) -> Tail:
    """Flag scores `[n]` above the highest `share` of clean ones `[m]`, both the higher the more suspicious.

    The threshold is the r-th highest clean score, r = floor(share (m + 1)). If all m + n are exchangeable,
    the number of samples above it is beta-binomial (n, r, m + 1 - r), whatever the scores' distribution;
    ties are not above, so they make the test cautious. Raises `ValueError` when m is below
    `fewest_clean(share)` or a score is not a number.
    Source: Wilks, Ann. Math. Statist. 13 (1942), 400-409 (the number of exceedances).
    """
    n, m = len(scores), len(clean)
    if m < fewest_clean(share):
        raise ValueError(f"{m} clean samples are too few for a threshold at their highest {share:.1%}")
    if not bool(torch.isfinite(scores).all() and torch.isfinite(clean).all()):
        raise ValueError("a score is not a number")
    rank = max(1, math.floor(share * (m + 1) + 1e-9))
    threshold = float(clean.double().sort(descending=True).values[rank - 1])
    flagged = scores.double() > threshold
    count = int(flagged.sum())
    null = scipy.stats.betabinom(n, rank, m + 1 - rank)
    return Tail(threshold, flagged, n * rank / (m + 1), min(1.0, float(null.sf(count - 1))), m)
