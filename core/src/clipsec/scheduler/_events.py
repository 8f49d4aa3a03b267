"""What a scheduler tells a listener, and the time that is left."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import TypeAlias

import attrs

__all__ = ["Eta", "Event", "OutOfMemory", "ProblemDone", "ProblemStarted", "StepDone"]


@attrs.frozen
class ProblemStarted:
    """A problem was drawn from its iterable and runs its first lines."""

    session: str
    tag: Hashable


@attrs.frozen
class ProblemDone:
    """A problem ended, with a value, with an error, or by being closed."""

    session: str
    tag: Hashable
    error: BaseException | None = None
    cancelled: bool = False


@attrs.frozen
class StepDone:
    """One physical call of a tower has ended."""

    label: str
    """The tower's label."""
    op: str
    """`forward` (no gradient wanted), `grad` (forward that will be pulled back), `recompute` or
    `backward`."""
    rows: int
    """Rows of problems in the call, without padding."""
    micro_batch: int
    """Physical rows of the call."""
    seconds: float


@attrs.frozen
class OutOfMemory:
    """A call did not fit; its micro-batch was halved for the rest of the run."""

    label: str
    op: str
    micro_batch: int
    """The new micro-batch."""


Event: TypeAlias = ProblemStarted | ProblemDone | StepDone | OutOfMemory


class Eta:
    """Fraction done and seconds left, given how many rows the problems will ask for in all.

    A listener: pass it (or call it from) `on_event`. Only first forwards are counted, in the steps of op
    `forward` and `grad`; backward and recompute time is in the clock. A line `seconds = a n + b` fitted by
    least squares passes through the mean call, so while the batches stay as they are it predicts what the
    mean rate predicts; the rate over the last `window` calls is used, because it also follows a change of
    batch.

    Rows served by the cache never become a step: leave them out of `expected_rows`, or `skip` them.
    """

    def __init__(
        self, expected_rows: int, *, window: int = 64, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        if expected_rows < 1:
            raise ValueError("expected_rows must be at least 1")
        self._expected = expected_rows
        self._clock = clock
        self._done = 0
        self._marks: deque[tuple[float, int]] = deque([(clock(), 0)], maxlen=window + 1)

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone) and event.op in ("forward", "grad"):
            self._done += event.rows
            self._marks.append((self._clock(), self._done))

    def skip(self, rows: int) -> None:
        """Expect `rows` fewer (a problem failed, ended early, or was answered by the cache)."""
        self._expected = max(1, self._expected - rows)

    @property
    def fraction(self) -> float:
        """Share of the expected rows that has been computed, in [0, 1]."""
        return min(1.0, self._done / self._expected)

    @property
    def seconds_left(self) -> float | None:
        """Predicted seconds until the last row; None before the first step."""
        (start, before), (_, now) = self._marks[0], self._marks[-1]
        if now == before:
            return None
        elapsed = self._clock() - start
        return max(0, self._expected - self._done) * elapsed / (now - before)
