"""One table maps outcomes to exit codes; only `clean` ever passes."""

from __future__ import annotations

import itertools

import attrs
import pytest

from clipsec.results import Cost, GateResult, Outcome, RunResult, SuspectCard, Verdict, exit_code, overall

ALL = tuple(Outcome)
COMBINATIONS = [
    combination for size in range(len(ALL) + 1) for combination in itertools.combinations(ALL, size)
]


def expected(outcomes):
    """The documented rule, written again: 1 finding, 2 error or inconclusive, 3 nothing ran, 0 clean."""
    if "finding" in outcomes:
        return 1
    if "error" in outcomes or "inconclusive" in outcomes:
        return 2
    return 0 if "clean" in outcomes else 3


@pytest.mark.parametrize("combination", COMBINATIONS, ids="+".join)
def test_exit_code_of_every_combination(combination):
    """All 32 sets of outcomes, whatever their order and however often each occurs."""
    wanted = expected({str(outcome) for outcome in combination})
    assert exit_code(combination) == wanted
    assert exit_code(reversed(combination * 2)) == wanted
    assert exit_code(iter(combination)) == wanted


@pytest.mark.parametrize("combination", COMBINATIONS, ids="+".join)
def test_a_run_is_clean_only_if_something_ran_and_nothing_else_happened(combination):
    """Exit code 0 and outcome `clean` mean: at least one clean, none inconclusive, error or finding."""
    rest = set(combination) - {Outcome.CLEAN, Outcome.SKIPPED}
    really_clean = Outcome.CLEAN in combination and not rest
    assert (exit_code(combination) == 0) is really_clean
    assert overall(combination).is_pass is really_clean


CHOICES = list(
    dict.fromkeys(frozenset(some) | {Outcome.ERROR} for some in COMBINATIONS if Outcome.CLEAN not in some)
)


@pytest.mark.parametrize("fail_on", CHOICES, ids=lambda choice: "+".join(sorted(choice)))
@pytest.mark.parametrize("combination", COMBINATIONS, ids="+".join)
def test_a_choice_of_outcomes_forgives_what_is_not_chosen(combination, fail_on):
    """An error and a run in which nothing ran fail under every choice; exit codes keep their meaning."""
    code = exit_code(combination, fail_on)
    counted = set(combination) & fail_on
    if set(combination) <= {Outcome.SKIPPED}:
        assert code == 3
    elif counted - {Outcome.SKIPPED}:
        assert code == exit_code(counted - {Outcome.SKIPPED})
    else:
        assert code == (3 if Outcome.SKIPPED in counted else 0)
    if Outcome.ERROR in combination:
        assert code in (1, 2)
    assert exit_code(combination, ()) == 0


def test_no_two_outcomes_have_the_same_terms():
    """Only clean passes in SARIF and JUnit, and only a finding fails."""
    terms = {outcome: outcome.terms for outcome in Outcome}
    assert [o for o in Outcome if terms[o].sarif_kind == "pass"] == [Outcome.CLEAN]
    assert [o for o in Outcome if terms[o].junit_element is None] == [Outcome.CLEAN]
    assert [o for o in Outcome if terms[o].sarif_notification is None] == [Outcome.CLEAN, Outcome.FINDING]
    assert [o for o in Outcome if terms[o].junit_element == "failure"] == [Outcome.FINDING]
    assert len({terms[outcome].html_class for outcome in Outcome}) == len(Outcome)


def test_only_clean_is_a_pass_and_only_clean_and_finding_are_answers():
    """The two properties that reports ask."""
    assert [outcome for outcome in Outcome if outcome.is_pass] == [Outcome.CLEAN]
    assert [outcome for outcome in Outcome if outcome.is_answer] == [Outcome.CLEAN, Outcome.FINDING]


def run_with(outcomes, passed):
    return RunResult(
        SuspectCard("m", "d", "clip", "a", "gelu"),
        {f"dist/d{position}": Verdict(outcome, "said so") for position, outcome in enumerate(outcomes)},
        GateResult(passed, {}, "" if passed else "zero-shot accuracy 0.02"),
        {},
        "2026-01-01T00:00:00+00:00",
        1.0,
    )


@pytest.mark.parametrize("combination", COMBINATIONS, ids="+".join)
def test_a_failed_gate_leaves_no_answer(combination):
    """A model that was loaded wrongly is neither clean nor backdoored, whatever detectors said."""
    result = run_with(combination, passed=False)
    assert not any(verdict.outcome.is_answer for verdict in result.verdicts.values())
    assert result.exit_code == (3 if set(combination) <= {Outcome.SKIPPED} else 2)
    for verdict, outcome in zip(result.verdicts.values(), combination):
        if outcome.is_answer:
            assert "zero-shot accuracy 0.02" in verdict.summary
            assert str(outcome) in verdict.summary
    again = attrs.evolve(result, seconds=2.0)
    assert again.verdicts == result.verdicts


@pytest.mark.parametrize("combination", COMBINATIONS, ids="+".join)
def test_a_passed_gate_changes_nothing(combination):
    """With the gate passed the verdicts are the detectors' own."""
    result = run_with(combination, passed=True)
    assert [verdict.outcome for verdict in result.verdicts.values()] == list(combination)
    assert result.outcome is overall(combination)


def test_results_cannot_be_changed():
    """Results are frozen."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Cost().seconds = 3.0
