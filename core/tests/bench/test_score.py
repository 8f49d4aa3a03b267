"""The numbers of a bench, on cases small enough to count by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsec.bench import Case, by_attack, quality, target_f1
from clipsec.bench._pace import Pace
from clipsec.bench._score import roc_points
from clipsec.results import Outcome


def case(attack: str = "", outcome: Outcome = Outcome.CLEAN, **fields: Any) -> Case:
    return Case(**{"model": "m", "dataset": "d", "attack": attack, "outcome": outcome, **fields})


def found(*flagged: str, target: str = "cat", **fields: Any) -> Case:
    return case("a", Outcome.FINDING, targets=(target,), flagged=flagged, **fields)


def missed(target: str = "cat", **fields: Any) -> Case:
    return case("a", Outcome.CLEAN, targets=(target,), **fields)


def test_the_papers_per_attack_f1_is_reproduced_from_its_counts() -> None:
    """CLIP-Inspector: Blended 10 right and one class too many, WaNet 8 right, 2 missed, 1 wrong."""
    blended = [found("cat") for _ in range(9)] + [found("cat", "dog")]
    wanet = [found("cat") for _ in range(8)] + [found("dog"), missed()]
    assert target_f1(blended) == pytest.approx(0.952, abs=5e-4)
    assert target_f1(wanet) == pytest.approx(0.842, abs=5e-4)


def test_f1_over_datasets_sees_false_alarms_on_clean_models() -> None:
    """Over attacks it cannot: clean models have none."""
    cases = [found("cat"), case(outcome=Outcome.FINDING, flagged=("dog",))]
    assert quality(cases).f1_attacks == 1.0
    assert quality(cases).f1_datasets == pytest.approx(2 / 3)


def test_f1_is_unknown_where_nothing_is_to_be_found_and_nothing_was() -> None:
    """A data set of clean models that were all passed says nothing, in neither direction."""
    assert target_f1([case()]) is None
    assert quality([case(), found("cat", dataset="other")]).f1_datasets == 1.0


def test_no_answer_counts_as_wrong_whichever_the_model_is() -> None:
    """A detector gains nothing by crashing, skipping or being unsure."""
    for outcome in (Outcome.ERROR, Outcome.SKIPPED, Outcome.INCONCLUSIVE):
        result = quality([case(outcome=outcome), case("a", outcome, targets=("cat",))])
        assert (result.accuracy.k, result.specificity.k, result.sensitivity.k) == (0, 0, 0)
        assert result.no_answer == 2


def test_a_model_without_a_score_ranks_on_the_wrong_side() -> None:
    """Otherwise AUROC could be raised by saying nothing about hard models."""
    good = [case(score=0.1), missed(score=0.9)]
    first, worse = quality(good).auroc, quality([*good, case(score=None), missed(score=None)]).auroc
    assert first is not None
    assert worse is not None
    assert (first.value, worse.value) == (1.0, 0.25)
    assert quality([case(score=None)]).without_score == 1


def test_of_two_targets_one_that_is_named_was_found_and_the_other_missed() -> None:
    """Naming any of them counts as a target found; F1 is over both."""
    two = {"attack": "a", "targets": ("cat", "dog"), "outcome": Outcome.FINDING}
    one, both, wrong = (case(**two, flagged=names) for names in (("dog",), ("dog", "cat"), ("owl",)))
    result = quality([one, both, wrong])
    assert (result.target_found.k, result.target_found.n) == (2, 3)
    assert target_f1([both]) == 1.0
    assert target_f1([one]) == pytest.approx(2 / 3)
    assert target_f1([wrong]) == 0.0


def test_each_attack_is_compared_with_all_clean_models() -> None:
    """Its AUROC is against the same clean models as that of the whole set."""
    cases = [case(score=0.2), case(score=0.4), found("cat", score=0.3), missed(score=0.9)]
    (row,) = by_attack(cases)
    assert row.auroc is not None
    assert (row.auroc.positives, row.auroc.negatives, row.auroc.value) == (2, 2, 0.75)
    assert (row.sensitivity.k, row.sensitivity.n, row.target_found.k) == (1, 2, 1)


@settings(deadline=None, max_examples=50)
@given(
    clean=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    poisoned=st.lists(st.integers(0, 5), min_size=1, max_size=8),
)
def test_the_area_below_the_curve_is_the_auroc(clean: list[int], poisoned: list[int]) -> None:
    """The drawn curve and the number say the same, ties included."""
    cases = [case(score=score) for score in clean] + [missed(score=score) for score in poisoned]
    points = roc_points(cases)
    area = sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in pairwise(points))
    number = quality(cases).auroc
    assert number is not None
    assert points[-1] == (1.0, 1.0)
    assert area == pytest.approx(number.value)


def test_the_time_left_goes_by_kind_of_unit() -> None:
    """An attack that takes an hour does not make audits look slow; unknown kinds are taken for their
    like."""
    pace = Pace()
    assert pace.left([("audits", "x")]) is None
    pace.add(("models", "slow"), 100.0)
    pace.add(("models", "quick"), 10.0)
    pace.add(("audits", "x"), 2.0)
    assert pace.left([("models", "slow"), ("audits", "x"), ("audits", "y")]) == 104.0
    assert pace.left([("models", "new")]) == 55.0
    assert pace.left([]) == 0.0
