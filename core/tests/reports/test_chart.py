"""Charts: geometry that fits, order, and what is highlighted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsec.reports._chart import CLIP, MOST_BARS, chart_of
from clipsec.reports._evidence import evidence_of
from clipsec.results import ClassEvidence, Interval, Outcome, Verdict


def verdict(measures, flagged=(), target=None, score_name=""):
    rows = tuple(
        ClassEvidence(index, f"c{index}", index in flagged, values, 10, Interval(0.1, 0.4))
        for index, values in enumerate(measures)
    )
    return Verdict(Outcome.FINDING, "x", evidence=rows, target_index=target, score_name=score_name)


numbers = st.floats() | st.floats(-10, 10)
measures_of_a_class = st.fixed_dictionaries({}, optional={"score": numbers, "success_rate": numbers})


@given(st.lists(measures_of_a_class, min_size=1, max_size=60), st.none() | numbers)
def test_everything_lies_inside_the_drawing(measures, threshold):
    """Whatever the numbers (NaN, infinite, huge, absent): bars, lines and rates are within 0 to 100."""
    chart = chart_of(evidence_of(verdict(measures)), threshold)
    if chart is None:
        assert not any(measures)
        return
    assert len(chart.bars) == len(measures)
    positions = [
        chart.zero,
        *(bar.start for bar in chart.bars),
        *(bar.start + bar.length for bar in chart.bars),
    ]
    positions += [x for x in (chart.threshold, *(bar.success for bar in chart.bars)) if x is not None]
    assert all(-1e-2 <= position <= 100.01 for position in positions)


@given(st.lists(st.floats(-5, 30), min_size=2, max_size=50), st.floats(0.5, 3))
def test_lengths_are_proportional_to_scores(scores, threshold):
    """One scale for all bars, starting at zero; the threshold lies on the same scale."""
    chart = chart_of(evidence_of(verdict([{"score": score} for score in scores])), threshold)
    scale = (chart.threshold - chart.zero) / threshold
    for bar, score in zip(chart.bars, sorted(scores, reverse=True)):
        signed = bar.length if bar.start + bar.length > chart.zero + 5e-3 else -bar.length
        if not bar.clipped:
            assert signed == pytest.approx(score * scale, abs=2e-2)


@given(st.lists(st.floats() | st.none(), min_size=1, max_size=60))
def test_classes_are_sorted_and_complete(scores):
    """Highest first, those without a number last, none missing."""
    evidence = evidence_of(verdict([{} if score is None else {"score": score} for score in scores]))
    assert sorted(row.index for row in evidence.rows) == list(range(len(scores)))
    shown = [math.nan if evidence.score(row) is None else evidence.score(row) for row in evidence.rows]
    known = [score for score in shown if not math.isnan(score)]
    assert known == sorted(known, reverse=True)
    assert all(math.isnan(score) for score in shown[len(known) :])


def test_target_flagged_and_over_the_threshold_differ():
    """Colours tell which class the verdict names, which are flagged, and which only exceed the threshold."""
    scores = [{"score": score} for score in (5.0, 3.0, 2.5, 1.0)]
    chart = chart_of(evidence_of(verdict(scores, flagged=(0, 1), target=0)), 2.0)
    assert [bar.kind for bar in chart.bars] == ["target", "flagged", "over", "plain"]
    assert "3 above the threshold 2.00" in chart.summary


def test_one_absurd_score_does_not_flatten_the_others():
    """With a zero median deviation a score can be a million; the axis ends at a multiple of the threshold."""
    chart = chart_of(evidence_of(verdict([{"score": 1e6}, {"score": 1.0}])), 2.0)
    assert chart.bars[0].clipped
    assert chart.bars[0].score == "1,000,000"
    assert chart.threshold == pytest.approx(100 / CLIP)


@pytest.mark.parametrize("count", [1, 5, MOST_BARS, MOST_BARS + 1, 200])
def test_many_classes_become_columns(count):
    """Up to 40 classes are labelled one by one."""
    chart = chart_of(evidence_of(verdict([{"score": 0.1}] * count)), 2.0)
    assert chart.as_columns is (count > MOST_BARS)


def test_the_score_is_found_under_the_verdicts_name_for_it():
    """A detector may call its score by a name; `score` comes first."""
    named = evidence_of(verdict([{"loss": 1.0, "gap": 2.0}], score_name="gap"))
    assert (named.score_key, named.other_keys) == ("gap", ("loss",))
    plain = evidence_of(verdict([{"gap": 2.0, "score": 1.0}], score_name="gap"))
    assert (plain.score_key, plain.other_keys) == ("score", ("gap",))
    assert evidence_of(verdict([{"loss": 1.0}])).score_key is None


def test_no_numbers_no_chart():
    """Evidence without score and success rate has a table only."""
    assert chart_of(evidence_of(verdict([{"loss": 1.0}])), 2.0) is None
    assert chart_of(evidence_of(verdict([])), 2.0) is None
