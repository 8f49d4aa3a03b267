"""What counts as repaired, and its record."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsec.errors import StoreError
from clipsec.results import (
    BeforeAfter,
    Likeness,
    Rate,
    RepairOutcome,
    RepairResult,
    SuspectCard,
    TriggerRates,
    judge_repair,
    repair_from_json,
    repair_to_text,
)
from clipsec.stats import wilson


def rate(successes: int, n: int = 100) -> Rate:
    return Rate(successes, n, wilson(successes, n))


def change(before: int, after: int, base: int = 0, n: int = 100) -> BeforeAfter:
    return BeforeAfter(rate(before, n), rate(after, n), rate(base, n))


def trigger(before: int, after: int, *, planted: bool = False, n: int = 100, base: int = 0) -> TriggerRates:
    return TriggerRates("a detector", planted, 3, "cat", change(before, after, base, n))


STEADY = change(90, 90)
counts = st.integers(0, 100)


def test_a_trigger_that_is_gone_is_repaired() -> None:
    """Little left, accuracy kept: the one success, and exit code 0."""
    outcome, sentence = judge_repair(STEADY, [trigger(95, 2)])
    assert outcome is RepairOutcome.REPAIRED
    assert outcome.exit_code == 0
    assert "95.0%" in sentence
    assert "2.0%" in sentence


@given(counts, counts, counts, counts, counts, counts, st.integers(1, 400))
def test_whatever_is_wrong_is_no_success(
    before: int, after: int, planted: int, planted_before: int, clean: int, clean_after: int, n: int
) -> None:
    """Repaired implies: every trigger within the goal and surely below twice of it, accuracy kept, and
    something worked before. Only then the exit code is 0."""
    found = TriggerRates("d", False, 0, "cat", change(before * n // 100, after * n // 100, 0, n))
    true = TriggerRates("a", True, 0, "cat", change(planted_before * n // 100, planted * n // 100, 0, n))
    accuracy = change(clean * n // 100, clean_after * n // 100, 0, n)
    outcome, _ = judge_repair(accuracy, [found, true])
    fine = (
        all(t.success.after.value <= 0.05 and t.success.after.interval.high <= 0.1 for t in (found, true))
        and accuracy.before.value - accuracy.after.value <= 0.01 + 1e-9
        and any(t.success.before.value > 0.05 for t in (found, true))
    )
    assert (outcome is RepairOutcome.REPAIRED) == fine
    assert (outcome.exit_code == 0) == fine


def test_the_attacker_s_own_trigger_counts() -> None:
    """The found trigger gone and the planted one alive is not repaired, and the sentence says whose it is."""
    outcome, sentence = judge_repair(STEADY, [trigger(95, 0), trigger(97, 60, planted=True)])
    assert outcome is RepairOutcome.NOT_REPAIRED
    assert "the attacker's trigger" in sentence


def test_lost_accuracy_is_not_repaired() -> None:
    """Within a point it is, two points it is not."""
    assert judge_repair(change(90, 89), [trigger(95, 0)])[0] is RepairOutcome.REPAIRED
    assert judge_repair(change(90, 88), [trigger(95, 0)])[0] is RepairOutcome.NOT_REPAIRED


@pytest.mark.parametrize(
    "triggers", [[], [trigger(3, 0)], [trigger(10, 0, n=12)]], ids=["none", "never worked", "twelve pictures"]
)
def test_what_cannot_be_seen_is_inconclusive(triggers: list[TriggerRates]) -> None:
    """No trigger, one that did nothing before, or a dozen pictures: no success can be claimed."""
    outcome, _ = judge_repair(STEADY, triggers)
    assert outcome is RepairOutcome.INCONCLUSIVE
    assert outcome.exit_code == 2


def test_what_the_clean_base_gives_way_to_is_named() -> None:
    """Where the public base falls for the trigger too, the reader is told."""
    _, sentence = judge_repair(STEADY, [trigger(95, 30, base=28)])
    assert "on the clean base it reaches 28.0%" in sentence


def alike(cosine: float) -> Likeness:
    return Likeness(to_suspect=cosine, lowest=cosine, n=200)


@pytest.mark.parametrize(
    ("accuracy", "likeness", "expected"),
    [
        (None, alike(0.97), RepairOutcome.REPAIRED),
        (STEADY, alike(0.97), RepairOutcome.REPAIRED),
        (None, alike(0.94), RepairOutcome.NOT_REPAIRED),
        (STEADY, alike(0.94), RepairOutcome.NOT_REPAIRED),
        (change(90, 80), alike(0.99), RepairOutcome.NOT_REPAIRED),
        (None, alike(float("nan")), RepairOutcome.NOT_REPAIRED),
        (None, None, RepairOutcome.INCONCLUSIVE),
    ],
)
def test_what_a_text_tower_keeps_counts(
    accuracy: BeforeAfter | None, likeness: Likeness | None, expected: RepairOutcome
) -> None:
    """Accuracy and likeness must both be kept where they were measured, and one of them must have been."""
    gone = attrs.evolve(trigger(95, 0, planted=True), name="prepend 'velvet'")
    outcome, sentence = judge_repair(accuracy, [gone], likeness=likeness)
    assert outcome is expected
    assert ("0.94" in sentence) == (likeness == alike(0.94))


def test_a_rate_without_a_clean_model_is_judged() -> None:
    """And the sentence says what the trigger is put on, and that the user knew it."""
    left = attrs.evolve(change(95, 30), base=None)
    known = TriggerRates("an attack", True, -1, "a teapot", left, name="prepend 'velvet'", known=True)
    outcome, sentence = judge_repair(None, [known], likeness=alike(1))
    assert outcome is RepairOutcome.NOT_REPAIRED
    assert "the known trigger still sends 30.0% of captions to 'a teapot'" in sentence


def record() -> RepairResult:
    return RepairResult(
        suspect=SuspectCard("delivery", "00", "prompt-tuned", "toy", "gelu"),
        outcome=RepairOutcome.REPAIRED,
        summary="success falls",
        accuracy=STEADY,
        triggers=(trigger(95, 0),),
        goal=0.05,
        allowed_drop=0.01,
        repair="vendor/mend",
        version="1.0",
        options={"epochs": 3},
        seed=0,
        finding="ab" * 32,
        data={"labelled": "11"},
        repaired_digest="22",
        notes=(),
        environment={},
        started="2026-01-01T00:00:00+00:00",
        seconds=1.5,
    )


def test_the_record_is_read_as_it_was_written() -> None:
    """JSON and back."""
    assert repair_from_json(json.loads(repair_to_text(record()))) == record()
    of_text = attrs.evolve(record(), accuracy=None, likeness=alike(0.97), triggers=(trigger(95, 0),))
    assert repair_from_json(json.loads(repair_to_text(of_text))) == of_text


def test_a_record_from_before_text_towers_is_read() -> None:
    """Without the fields that they brought."""
    document = json.loads(repair_to_text(record()))
    del document["likeness"], document["least_likeness"]
    del document["triggers"][0]["name"], document["triggers"][0]["known"]
    assert repair_from_json(document) == record()


@pytest.mark.parametrize(
    "change", [{"outcome": "fixed"}, {"goal": "0.05"}, {"extra": 1}, {"schema_version": "9.0"}]
)
def test_a_record_that_was_tampered_with_is_refused(change: dict[str, object]) -> None:
    """An unknown outcome, a wrong type, an unknown field, another version."""
    with pytest.raises(StoreError):
        repair_from_json({**json.loads(repair_to_text(record())), **change})


def test_outcomes_have_one_success() -> None:
    """Exactly one outcome exits with 0."""
    assert [outcome for outcome in RepairOutcome if outcome.exit_code == 0] == [RepairOutcome.REPAIRED]
    assert attrs.evolve(record(), outcome=RepairOutcome.INCONCLUSIVE).exit_code == 2
