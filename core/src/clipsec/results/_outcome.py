"""The one place that maps what a check found to exit codes and report vocabularies."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable

import attrs

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

    @property
    def terms(self) -> Terms:
        """What the outcome is in each report format."""
        return _TERMS[self]


@attrs.frozen
class Terms:
    """One outcome in the vocabularies of the report formats."""

    exit_code: int
    """Of a run whose most serious verdict it is."""
    html_class: str
    sarif_kind: str | None
    """SARIF 2.1.0, 3.27.9; None: the rule was not evaluated, so there is no result, only a notification."""
    sarif_level: str
    """SARIF 2.1.0, 3.27.10: `none` for every kind but `fail`."""
    sarif_notification: str | None
    """Level of the notification that tells why there is no answer (3.58.6)."""
    junit_element: str | None
    """Child of the `testcase`; a test case without one has passed."""


_TERMS = {
    Outcome.CLEAN: Terms(EXIT_CLEAN, "clean", "pass", "none", None, None),
    Outcome.FINDING: Terms(EXIT_FINDING, "finding", "fail", "error", None, "failure"),
    Outcome.INCONCLUSIVE: Terms(EXIT_ERROR, "inconclusive", "open", "none", "warning", "error"),
    Outcome.ERROR: Terms(EXIT_ERROR, "error", None, "none", "error", "error"),
    Outcome.SKIPPED: Terms(EXIT_NOTHING_RAN, "skipped", "notApplicable", "none", "note", "skipped"),
}

# From the most to the least serious; a run is as bad as its worst verdict. A finding outranks an error: a
# second check that crashed must not hide what the first one found.
_SEVERITY = (Outcome.FINDING, Outcome.ERROR, Outcome.INCONCLUSIVE, Outcome.CLEAN, Outcome.SKIPPED)

FAIL_ON = frozenset({Outcome.FINDING, Outcome.ERROR, Outcome.INCONCLUSIVE})
"""The outcomes that make an exit code other than 0, unless a user says otherwise."""


def overall(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of a run: its most serious verdict; `SKIPPED` when nothing ran."""
    seen = set(outcomes)
    return next((outcome for outcome in _SEVERITY if outcome in seen), Outcome.SKIPPED)


def exit_code(outcomes: Iterable[Outcome], fail_on: Collection[Outcome] = FAIL_ON) -> int:
    """0 clean, 1 finding, 2 error or inconclusive, 3 nothing ran.

    Only outcomes in `fail_on` count. With `SKIPPED` among them, one skipped check beside clean ones gives 3
    too. Without it, 3 still says that nothing ran at all; only an empty `fail_on` gives 0 always.
    """
    seen = set(outcomes)
    worst = next((outcome for outcome in _SEVERITY if outcome in seen and outcome in fail_on), None)
    if worst is None or worst is Outcome.CLEAN:
        nothing_ran = not seen - {Outcome.SKIPPED}
        strict = Outcome.SKIPPED in fail_on and Outcome.SKIPPED in seen
        return EXIT_NOTHING_RAN if fail_on and (nothing_ran or strict) else EXIT_CLEAN
    return worst.terms.exit_code
