"""The decision of both baselines, as a pure function: an abnormally small trigger is a backdoor's."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from clipsec.results import Outcome
from clipsec.stats import robust_z

THRESHOLD = 2.0
SOURCE = "fixed at k = 2 by Neural Cleanse (S&P 2019, sec. V-B); not a calibrated risk"
FEWEST_CLASSES = 8
"""Below this many classes a median and a MAD say little about an outlier."""
FEWEST_PICTURES = 100
"""Eligible pictures below which nothing found does not mean clean."""


@attrs.frozen
class ClassSize:
    """What inverting one class measured."""

    index: int
    size: float
    hits: int
    """Eligible pictures that the final trigger sends to the class, in the decision's precision."""
    n: int
    """Eligible pictures: those whose clean prediction is another class."""
    last_cost: float = 0.0
    """Weight of the size in the last round."""
    cost_moved: bool = True
    """Whether that is another weight than in the first round."""
    rounds: int = 0
    """Rounds until the search ended."""

    @property
    def success_rate(self) -> float:
        return self.hits / self.n if self.n else 0.0


@attrs.frozen
class Decision:
    """What the sizes say about a model."""

    outcome: Outcome
    indices: tuple[float | None, ...]
    """Anomaly index of each class, positive below the median; None without a valid size."""
    threshold: float
    threshold_source: str
    flagged: frozenset[int]
    """Positions of the flagged classes."""
    smallest: int | None
    """Position of the class with the smallest valid size: the target if any is flagged."""
    notes: tuple[str, ...] = ()

    @property
    def score(self) -> float:
        """Anomaly index of the smallest valid size; 0 without one."""
        index = None if self.smallest is None else self.indices[self.smallest]
        return 0.0 if index is None else index


def decide(results: Sequence[ClassSize], *, min_success: float, threshold: float | None = None) -> Decision:
    """Flag classes whose trigger is more than k scaled MADs smaller than the median one.

    A class whose final trigger moves fewer than `min_success` of the eligible pictures has no valid size. It
    enters neither median nor MAD, since its size is that of something that does not work; a size of zero, as
    the authors' Pixel-Backdoor gives it, would even make it the smallest. Nor is it exonerated: the search
    may have missed it. So with such a class, fewer than eight valid ones, fewer than 100 eligible pictures or
    no spread among the sizes, nothing flagged is inconclusive, never clean; and fewer than eight valid sizes
    or no spread flag nothing.
    """
    limit = THRESHOLD if threshold is None else threshold
    valid = [i for i, result in enumerate(results) if result.n and result.success_rate >= min_success]
    sizes = np.array([results[i].size for i in valid])
    spread = bool(len(sizes)) and float(np.median(np.abs(sizes - np.median(sizes)))) > 0
    scores = robust_z(sizes, "low") if spread else np.zeros(len(sizes))
    by_position: dict[int, float] = {i: float(score) for i, score in zip(valid, scores, strict=True)}
    notes = _doubts(results, len(valid), spread)
    testable = len(valid) >= FEWEST_CLASSES and spread
    flagged = frozenset(i for i, score in by_position.items() if testable and score > limit)
    return Decision(
        outcome=Outcome.FINDING if flagged else Outcome.INCONCLUSIVE if notes else Outcome.CLEAN,
        indices=tuple(by_position.get(i) for i in range(len(results))),
        threshold=limit,
        threshold_source=SOURCE if threshold is None else "set by the user",
        flagged=flagged,
        smallest=min(valid, key=lambda i: results[i].size, default=None),
        notes=notes,
    )


def _doubts(results: Sequence[ClassSize], valid: int, spread: bool) -> tuple[str, ...]:
    """Why nothing flagged would not mean clean."""
    notes = []
    if missing := len(results) - valid:
        notes.append(
            f"for {missing} of {len(results)} classes no trigger was found that works, so they have no size: "
            "allow more epochs"
        )
    if valid < FEWEST_CLASSES:
        notes.append(f"{valid} classes with a size are too few for an outlier test across classes")
    elif not spread:
        notes.append("most classes have the very same size, so there is no spread to compare with")
    if min((result.n for result in results), default=0) < FEWEST_PICTURES:
        notes.append(f"fewer than {FEWEST_PICTURES} pictures could show a trigger: bring a larger pool")
    return tuple(notes)
