"""The per-class evidence of a verdict in the order and with the columns that reports show."""

from __future__ import annotations

import math

import attrs

from clipsec.reports._text import decimals_for, in_column, is_rate, percent
from clipsec.results import ClassEvidence, Verdict

SCORE, SUCCESS = "score", "success_rate"


@attrs.frozen
class Evidence:
    """All classes, the most suspicious first. None is ever left out."""

    rows: tuple[ClassEvidence, ...]
    score_key: str | None
    """The measure that the threshold is compared with; None if the detector gives none by class."""
    other_keys: tuple[str, ...]
    """Further measures, without score and success rate."""
    has_success: bool
    has_interval: bool
    target_index: int | None
    decimals: dict[str, int]
    """By measure: the decimals that its column is shown with."""

    def text(self, row: ClassEvidence, key: str | None) -> str:
        """One measure of a class as its column shows it; a dash if the class lacks it."""
        if key is None:
            return ""
        value = row.measures.get(key)
        return percent(value) if is_rate(key) else in_column(value, self.decimals[key])

    def score(self, row: ClassEvidence) -> float | None:
        """The class's score, None if it has none."""
        return row.measures.get(self.score_key) if self.score_key is not None else None

    def is_target(self, row: ClassEvidence) -> bool:
        """Whether the verdict names this class as the backdoor's target."""
        return row.index == self.target_index


def evidence_of(verdict: Verdict) -> Evidence:
    """Sort classes by score (without one: last), then flagged first, then by index; collect the columns.

    The score of a class is its measure `score`, or else the one named like the verdict's score.
    """
    keys = list(dict.fromkeys(key for row in verdict.evidence for key in row.measures))
    score_key = next((key for key in (SCORE, verdict.score_name) if key in keys), None)

    def order(row: ClassEvidence) -> tuple[bool, float, bool, int]:
        score = row.measures.get(score_key) if score_key is not None else None
        missing = score is None or math.isnan(score)
        return missing, 0.0 if score is None or missing else -score, not row.flagged, row.index

    return Evidence(
        rows=tuple(sorted(verdict.evidence, key=order)),
        score_key=score_key,
        other_keys=tuple(key for key in keys if key not in (score_key, SUCCESS)),
        has_success=SUCCESS in keys,
        has_interval=any(row.success_interval is not None for row in verdict.evidence),
        target_index=verdict.target_index,
        decimals={key: decimals_for(row.measures.get(key) for row in verdict.evidence) for key in keys},
    )
