"""The one place that maps what a check found to exit codes and report vocabularies."""

from __future__ import annotations

import enum
from collections.abc import Iterable

EXIT_CLEAN, EXIT_FINDING, EXIT_ERROR, EXIT_NOTHING_RAN, EXIT_USAGE = range(5)


class Outcome(enum.StrEnum):
    """What a check says about a suspect. Only `CLEAN` reads as a pass, anywhere."""

    CLEAN = "clean"
    FINDING = "finding"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"
    SKIPPED = "skipped"

    @property
    def is_pass(self) -> bool:
        return self is Outcome.CLEAN

    @property
    def is_answer(self) -> bool:
        """Whether the check came to an answer, which only a model that was loaded correctly can give."""
        return self in (Outcome.CLEAN, Outcome.FINDING)


# From the most to the least serious; a run is as bad as its worst verdict. A finding outranks an error: a
# second check that crashed must not hide what the first one found.
_SEVERITY = (Outcome.FINDING, Outcome.ERROR, Outcome.INCONCLUSIVE, Outcome.CLEAN, Outcome.SKIPPED)


def overall(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of a run: its most serious verdict; `SKIPPED` when nothing ran."""
    seen = set(outcomes)
    return next((outcome for outcome in _SEVERITY if outcome in seen), Outcome.SKIPPED)


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """0 clean, 1 finding, 2 error or inconclusive, 3 nothing ran."""
    return {
        Outcome.CLEAN: EXIT_CLEAN,
        Outcome.FINDING: EXIT_FINDING,
        Outcome.ERROR: EXIT_ERROR,
        Outcome.INCONCLUSIVE: EXIT_ERROR,
        Outcome.SKIPPED: EXIT_NOTHING_RAN,
    }[overall(outcomes)]
