"""Clean accuracy and attack success rate, as counts with intervals."""

from __future__ import annotations

import attrs
from torch import Tensor

from clipsec.errors import DataError
from clipsec.results import Interval
from clipsec.stats import wilson


@attrs.frozen
class Rate:
    """How many of `n` pictures."""

    successes: int
    n: int

    @property
    def value(self) -> float:
        return self.successes / self.n

    @property
    def interval(self) -> Interval:
        """95% Wilson score interval."""
        return wilson(self.successes, self.n)

    def as_json(self) -> dict[str, float | int]:
        """Plain data: value, counts and interval."""
        interval = self.interval
        return {
            "value": self.value,
            "successes": self.successes,
            "n": self.n,
            "low": interval.low,
            "high": interval.high,
        }


def clean_accuracy(logits: Tensor, labels: Tensor) -> Rate:
    """Share of pictures whose largest logit is their label. `logits [n, classes]`, `labels [n]` int64.

    Raises `DataError` when there is no picture.
    """
    if not len(labels):
        raise DataError("there is no picture to measure accuracy on", remedy="Bring labelled pictures.")
    return Rate(int((logits.argmax(dim=1) == labels).sum()), len(labels))


def attack_success_rate(triggered_logits: Tensor, labels: Tensor, target: int) -> Rate:
    """Share of triggered pictures that are answered with the target, pictures of the target class left out.

    `triggered_logits [n, classes]`, `labels [n]` are the true classes. BadCLIP's own evaluation keeps the
    target's pictures, which adds about 1 / classes; BackdoorBench leaves them out, as here. Raises
    `DataError` when every picture is of the target class.
    """
    others = labels != target
    if not bool(others.any()):
        raise DataError(
            "every picture is of the target class; an attack has nothing to change",
            remedy="Bring pictures of the other classes.",
        )
    return Rate(int((triggered_logits[others].argmax(dim=1) == target).sum()), int(others.sum()))
