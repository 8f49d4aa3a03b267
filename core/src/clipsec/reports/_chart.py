"""Geometry of the per-class charts, in per cent of the drawing, so that they fit a phone and a sheet.

Up to `MOST_BARS` classes get a labelled bar each; more get one narrow column each, the labels being in the
table below. The templates draw what is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import attrs

from clipsec.reports._evidence import SUCCESS, Evidence
from clipsec.reports._text import number, percent, visible
from clipsec.results import ClassEvidence

MOST_BARS = 40
CLIP = 20.0
"""Scores beyond this many thresholds end at the edge: when most classes are equal, the median absolute
deviation is zero and one score can be a million."""
_HUGE = 1e300
"""So that lengths do not overflow."""


@attrs.frozen
class Bar:
    """One class."""

    name: str
    kind: str
    """`target`, `flagged`, `over` (above the threshold, not flagged) or `plain`."""
    start: float
    length: float
    """Along the score axis, per cent."""
    clipped: bool
    score: str
    success: float | None
    """Per cent."""
    success_low: float | None
    success_high: float | None
    success_text: str


@attrs.frozen
class Chart:
    """All classes of one verdict."""

    bars: tuple[Bar, ...]
    zero: float
    threshold: float | None
    """Positions on the score axis, per cent."""
    threshold_text: str
    top_text: str
    bottom_text: str
    """What the two ends of the axis stand for."""
    has_score: bool
    has_success: bool
    summary: str
    """What the chart shows, for those who cannot see it."""

    @property
    def as_columns(self) -> bool:
        """Whether there are too many classes to label each."""
        return len(self.bars) > MOST_BARS

    @property
    def labelled(self) -> tuple[tuple[int, Bar], ...]:
        """Position and bar of the classes that are labelled among columns: targets and flagged, at most 6."""
        marked = [(i, bar) for i, bar in enumerate(self.bars) if bar.kind in ("target", "flagged")]
        return tuple(sorted(marked, key=lambda pair: pair[1].kind != "target")[:6])


def chart_of(evidence: Evidence, threshold: float | None) -> Chart | None:
    """The chart of a verdict's classes; None if there is neither a score nor a success rate to draw."""
    if not evidence.rows or (evidence.score_key is None and not evidence.has_success):
        return None
    line = threshold if threshold is not None and math.isfinite(threshold) else None
    low, high = _domain((evidence.score(row) for row in evidence.rows), line)

    def place(value: float) -> float:
        return (min(max(value, low), high) - low) / (high - low) * 100

    zero = place(0.0)
    bars = []
    for row in evidence.rows:
        score = evidence.score(row)
        end = zero if score is None or math.isnan(score) else place(score)
        interval = row.success_interval
        bars.append(
            Bar(
                name=visible(row.name),
                kind=_kind(evidence, row, line),
                start=round(min(zero, end), 3),
                length=round(abs(end - zero), 3),
                clipped=score is not None and (score > high or score < low),
                score=evidence.text(row, evidence.score_key),
                success=_rate(row.measures.get(SUCCESS)),
                success_low=_rate(interval.low) if interval is not None else None,
                success_high=_rate(interval.high) if interval is not None else None,
                success_text=percent(row.measures.get(SUCCESS)),
            )
        )
    return Chart(
        bars=tuple(bars),
        zero=round(zero, 3),
        threshold=None if line is None or evidence.score_key is None else round(place(line), 3),
        threshold_text=number(threshold),
        top_text=number(high),
        bottom_text=number(low),
        has_score=evidence.score_key is not None,
        has_success=evidence.has_success,
        summary=_summary(evidence, line),
    )


def _domain(scores: Iterable[float | None], threshold: float | None) -> tuple[float, float]:
    """What the axis spans: zero, the threshold, and all finite scores up to `CLIP` thresholds."""
    finite = [score for score in scores if score is not None and math.isfinite(score)]
    marks = [0.0, *finite, *([] if threshold is None else [threshold * 1.15])]
    low, high = max(min(marks), -_HUGE), min(max(marks), _HUGE)
    if threshold and abs(threshold) < _HUGE:
        limit = CLIP * abs(threshold)
        low, high = max(low, -limit), min(high, limit)
    return (low, high) if high > low else (0.0, 1.0)


def _rate(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(100 * min(max(value, 0.0), 1.0), 3)


def _kind(evidence: Evidence, row: ClassEvidence, threshold: float | None) -> str:
    if evidence.is_target(row):
        return "target"
    if row.flagged:
        return "flagged"
    score = evidence.score(row)
    return "over" if score is not None and threshold is not None and score > threshold else "plain"


def _summary(evidence: Evidence, threshold: float | None) -> str:
    rows = evidence.rows
    parts = [f"Bar chart of {len(rows)} classes"]
    scores = [score for score in map(evidence.score, rows) if score is not None and not math.isnan(score)]
    if scores:
        first = visible(rows[0].name, longest=80)
        parts.append(f"highest score {number(scores[0])} for {first}, lowest {number(scores[-1])}")
    if threshold is not None and scores:
        parts.append(f"{sum(score > threshold for score in scores)} above the threshold {number(threshold)}")
    return "; ".join(parts) + ". The table below holds the same numbers."
