"""What follows from the sizes of all classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsec.results import Outcome
from clipsec_baselines.detectors._decision import ClassSize, Decision, decide

NATURAL = [100.0, 104.0, 96.0, 108.0, 92.0, 112.0, 98.0, 101.0]


def judged(sizes: list[float], hits: dict[int, int] | None = None, n: int = 200) -> Decision:
    hits = hits or {}
    return decide([ClassSize(i, s, hits.get(i, n), n) for i, s in enumerate(sizes)], min_success=0.9)


def test_an_abnormally_small_trigger_is_a_finding() -> None:
    """The class far below the others is flagged, and its index is the score."""
    decision = judged([*NATURAL, 10.0])
    assert decision.outcome is Outcome.FINDING
    assert decision.flagged == {8}
    assert decision.smallest == 8
    assert decision.score == decision.indices[8]


def test_the_index_is_the_authors() -> None:
    """|median - size| / (1.4826 MAD), positive below the median."""
    sizes = np.array([*NATURAL, 10.0])
    mad = np.median(np.abs(sizes - np.median(sizes))) * 1.4826
    assert judged(list(sizes)).score == pytest.approx((np.median(sizes) - 10) / mad, rel=1e-5)


def test_an_abnormally_large_trigger_is_none() -> None:
    """Only the small side is suspicious."""
    decision = judged([*NATURAL, 1000.0])
    assert decision.outcome is Outcome.CLEAN
    assert not decision.flagged


def test_of_several_flagged_the_smallest_is_the_target() -> None:
    """Two outliers are both flagged; the smaller is named."""
    decision = judged([*NATURAL, 30.0, 10.0])
    assert decision.flagged == {8, 9}
    assert decision.smallest == 9


def test_a_trigger_that_fails_has_no_size() -> None:
    """The smallest trigger does not count when it does not work, and then nothing is clean."""
    decision = judged([*NATURAL, 0.0], {8: 179})
    assert decision.indices[8] is None
    assert decision.smallest != 8
    assert decision.outcome is Outcome.INCONCLUSIVE
    assert "1 of 9 classes" in decision.notes[0]
    assert judged([*NATURAL, 0.0], {8: 180}).outcome is Outcome.FINDING


def test_a_failed_class_does_not_hide_a_found_one() -> None:
    """A finding stands although another class has no size."""
    decision = judged([*NATURAL, 10.0, 50.0], {9: 0})
    assert decision.outcome is Outcome.FINDING
    assert decision.flagged == {8}


def test_few_valid_classes_decide_nothing() -> None:
    """Below eight classes with a size neither clean nor finding, also when there were more classes."""
    assert judged([*NATURAL[:6], 1.0]).outcome is Outcome.INCONCLUSIVE
    few = judged([*NATURAL[:7], 1.0], {0: 0})
    assert few.outcome is Outcome.INCONCLUSIVE
    assert not few.flagged


def test_equal_sizes_decide_nothing() -> None:
    """Without spread an index would be a million for one pixel's difference."""
    decision = judged([1024.0] * 8 + [1023.0])
    assert decision.outcome is Outcome.INCONCLUSIVE
    assert decision.score == 0.0


def test_a_small_pool_says_no_clean() -> None:
    """Fewer than a hundred eligible pictures can show a backdoor, but not its absence."""
    assert judged(NATURAL, n=99).outcome is Outcome.INCONCLUSIVE
    assert judged(NATURAL, n=100).outcome is Outcome.CLEAN
    assert judged([*NATURAL, 10.0], n=99).outcome is Outcome.FINDING


def test_no_class_at_all_is_no_verdict() -> None:
    """With no valid size the score is 0 and the outcome inconclusive."""
    decision = judged(NATURAL, dict.fromkeys(range(8), 0))
    assert (decision.outcome, decision.score, decision.smallest) == (Outcome.INCONCLUSIVE, 0.0, None)
    assert judged(NATURAL, n=0).outcome is Outcome.INCONCLUSIVE


@given(st.lists(st.tuples(st.floats(1, 1000), st.integers(0, 200)), min_size=1, max_size=20))
def test_clean_means_that_every_class_was_measured(measured: list[tuple[float, int]]) -> None:
    """Whatever the numbers: clean only with a valid size for every class, of at least eight, none above k."""
    results = [ClassSize(i, size, hits, 200) for i, (size, hits) in enumerate(measured)]
    decision = decide(results, min_success=0.9)
    assert (decision.outcome is Outcome.FINDING) == bool(decision.flagged)
    if decision.outcome is Outcome.CLEAN:
        assert len(results) >= 8
        assert all(result.success_rate >= 0.9 for result in results)
        assert all(index is not None and index <= 2 for index in decision.indices)
    if decision.flagged:
        assert decision.smallest in decision.flagged
