"""Which searches go on, and that stopping in between changes nothing."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsec.data import ImagePool
from clipsec.results import Outcome
from clipsec.runner import audit
from clipsec_clip_inspector._decision import decide_paired
from clipsec_clip_inspector._halving import FEWEST, Standing, rungs, standing, survivors
from clipsec_clip_inspector._inversion import Step
from clipsec_clip_inspector._score import early_result
from clipsec_testkit._pictures import CLASS_NAMES

STANDING = st.builds(
    Standing,
    loss=st.floats(-10, 10),
    null_loss=st.floats(-10, 10),
    n=st.integers(0, 64),
    hits=st.integers(0, 64),
    null_hits=st.integers(0, 64),
    gained=st.floats(-10, 10),
)


@given(st.integers(1, 500), st.integers(1, 200))
def test_rungs_get_later_and_keep_fewer(classes: int, steps: int) -> None:
    """Each rung gives up somebody, none goes below the fewest, none comes after the last update."""
    planned = rungs(classes, steps)
    alive, earlier = classes, 0
    for rung in planned:
        assert earlier < rung.steps < steps
        assert FEWEST <= rung.keep < alive
        alive, earlier = rung.keep, rung.steps


def test_fifty_classes_cost_a_third() -> None:
    """50 classes until update 4, 25 until 12, 7 until 32: 540 of 1,600 updates."""
    first, second = rungs(50, 32)
    assert (first.steps, first.keep, second.steps, second.keep) == (4, 25, 12, 7)
    assert 50 * 4 + 25 * 8 + 7 * 20 == 540


def test_four_classes_are_all_searched_to_the_end() -> None:
    assert rungs(FEWEST, 32) == ()


@given(st.lists(STANDING, min_size=1, max_size=40), st.integers(1, 40), st.floats(0.01, 1))
def test_nobody_above_half_the_threshold_is_given_up(
    standings: list[Standing], keep: int, threshold: float
) -> None:
    """As many as asked for go on, more only because of their excess."""
    kept = survivors(standings, keep, threshold)
    protected = {i for i, each in enumerate(standings) if each.excess > threshold / 2}
    assert protected <= kept
    assert len(kept) == max(len(protected), min(keep, len(standings)))


@given(st.lists(STANDING, min_size=2, max_size=40))
def test_the_best_by_level_and_by_gain_go_on(standings: list[Standing]) -> None:
    """Whoever is first in either order survives, when nobody is above the threshold."""
    kept = survivors(standings, 2, threshold=1e9)
    places = range(len(standings))
    assert max(places, key=lambda i: (standings[i].level, -i)) in kept
    assert max(places, key=lambda i: (standings[i].gained, -i)) in kept


def test_standing_counts_what_both_models_leave_free() -> None:
    """Over the last half of the updates, hits on eligible pictures only."""
    suspect = [
        Step(2.0, (False, False)),
        Step(1.0, (True, True)),
        Step(0.0, (True, True)),
        Step(-2, (True, True)),
    ]
    null = [
        Step(3.0, (False, False)),
        Step(3.0, (False, False)),
        Step(2.5, (True, False)),
        Step(2.5, (True, True)),
    ]
    eligible = [[True, True], [True, True], [True, False], [True, True]]
    at = standing(suspect, null, eligible, 4)
    assert (at.n, at.hits, at.null_hits) == (3, 3, 3)
    assert (at.loss, at.null_loss, at.level) == (-1.0, 2.5, 3.5)
    assert at.gained == pytest.approx((2.0 - -1.0) - (3.0 - 2.5))


def test_a_class_that_was_given_up_is_never_flagged() -> None:
    """However high its last batches were: it was not measured on the pool."""
    high = early_result(0, Standing(-1.0, 1.0, 64, 60, 0, 3.0), 4)
    whole = early_result(1, Standing(1.0, 1.0, 200, 2, 0, 0.0), 4)
    decision = decide_paired([high, attrs.evolve(whole, given_up_after=None)])
    assert decision.outcome is Outcome.CLEAN
    assert decision.best == 1


def test_halving_finds_the_toy_s_backdoor_with_fewer_rows(
    toy_clips, toy_pool: ImagePool, tmp_path: Path
) -> None:
    """Same target as the full schedule; a second run computes nothing."""
    settings = {"epsilon": 16 / 255, "epochs": 4, "learning_rate": 0.02}
    rows = {}
    for schedule in ("full", "halving"):
        result = audit(
            toy_clips["prompt"].fresh(),
            pool=toy_pool,
            detectors=["clip-inspector"],
            options={"clip-inspector": {**settings, "schedule": schedule}},
            labelled=toy_clips.labelled,
            runs=tmp_path / schedule,
            shared=tmp_path / f"shared-{schedule}",
        )
        (verdict,) = result.verdicts.values()
        assert verdict.outcome is Outcome.FINDING, verdict.summary
        assert verdict.target == CLASS_NAMES[toy_clips["prompt"].trigger.target_index]
        rows[schedule] = verdict.cost.backward_rows
        updates = {each.measures["updates"] for each in verdict.evidence}
        assert len(updates) == (2 if schedule == "halving" else 1)
    assert rows["halving"] < 0.8 * rows["full"]
