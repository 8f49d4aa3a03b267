"""Two runs side by side: a lost answer is never unchanged, a known finding is the very same finding."""

from __future__ import annotations

import itertools

import attrs
import pytest

from clipsec.results import (
    Change,
    GateResult,
    Outcome,
    Provenance,
    RunResult,
    SuspectCard,
    Verdict,
    compare_runs,
    counted_outcomes,
    exit_code,
    known_findings,
)

PROVENANCE = Provenance("d/c", "d", "1.0", "aa" * 32, {"epsilon": 0.1}, 0, "bfloat16", "float32", "m", "p")


def a_run(*verdicts, digest="m", passed=True):
    names = {f"d/c{place}": verdict for place, verdict in enumerate(verdicts) if verdict is not None}
    return RunResult(
        SuspectCard("model", digest, "clip", "a", "gelu"),
        names,
        GateResult(passed, {}, "" if passed else "zero-shot accuracy 0.02"),
        {"torch": "2"},
        "2026-01-01T00:00:00+00:00",
        1.0,
    )


def said(outcome, target=None, **facts):
    target = "crab" if outcome is Outcome.FINDING and target is None else target
    return Verdict(outcome, "said so", target=target, provenance=attrs.evolve(PROVENANCE, **facts))


POSSIBLE = [None, *map(said, Outcome), said(Outcome.FINDING, "chair")]


@pytest.mark.parametrize(
    ("first", "second"),
    list(itertools.product(POSSIBLE, POSSIBLE)),
    ids=lambda verdict: "absent" if verdict is None else f"{verdict.outcome} {verdict.target or ''}".strip(),
)
def test_every_pair_of_verdicts(first, second):
    """Exit code 1 exactly for a finding that is new; unchanged only with the same answer in both."""
    comparison = compare_runs(a_run(first), a_run(second))
    before = None if first is None or not first.outcome.is_answer else (first.outcome, first.target)
    now = None if second is None or not second.outcome.is_answer else (second.outcome, second.target)
    new = now is not None and now[0] is Outcome.FINDING and now != before
    assert (comparison.exit_code == 1) is new
    if first is None and second is None:
        assert (comparison.checks, comparison.exit_code) == ((), 3)
        return
    change = comparison.checks[0].change
    assert (change is Change.UNCHANGED) is (before is not None and before == now)
    assert (change is Change.LOST_ANSWER) is (before is not None and now is None)
    if before is not None and now is None:
        assert comparison.exit_code == 2
    if change in (Change.UNCHANGED, Change.NEW_ANSWER):
        assert comparison.exit_code == 0


@pytest.mark.parametrize(
    ("facts", "what"),
    [
        ({"seed": 1}, "seed"),
        ({"version": "1.1"}, "version"),
        ({"data_digest": "q"}, "data (pool, labels, reference)"),
        ({"options": {"epsilon": 0.2}}, "option epsilon"),
        ({"search_dtype": "float32"}, "search precision"),
        ({"key": "bb" * 32}, "code or content key"),
    ],
)
def test_conditions_that_differ_are_named(facts, what):
    """Another seed, version, pool, option, precision; edited code of the same version."""
    comparison = compare_runs(a_run(said(Outcome.CLEAN)), a_run(said(Outcome.CLEAN, **facts)))
    assert [difference.what for difference in comparison.checks[0].conditions] == [what]
    assert comparison.exit_code == 0
    same = compare_runs(a_run(said(Outcome.CLEAN)), a_run(said(Outcome.CLEAN)))
    assert same.checks[0].conditions == ()


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ({}, {"digest": "n"}, "two models"),
        ({"passed": False}, {}, "sanity gate failed in the first"),
        ({}, {"passed": False}, "sanity gate failed in the second"),
    ],
)
def test_runs_that_say_nothing_about_each_other(first, second, why):
    """Two models, or a model that was not loaded correctly: exit code 2, whatever the verdicts."""
    for outcome in Outcome:
        comparison = compare_runs(a_run(said(Outcome.CLEAN), **first), a_run(said(outcome), **second))
        assert why in comparison.not_comparable[0]
        assert comparison.exit_code == 2


def test_no_check_in_common():
    """Each run has checks, none of them both."""
    comparison = compare_runs(a_run(said(Outcome.CLEAN)), a_run(None, said(Outcome.CLEAN)))
    assert comparison.not_comparable == ("they have no check in common",)


def test_a_finding_that_is_gone_is_not_good_news():
    """The model is the same, so the check changed: exit code 2, a person must look."""
    comparison = compare_runs(a_run(said(Outcome.FINDING)), a_run(said(Outcome.CLEAN, version="2.0")))
    assert (comparison.checks[0].change, comparison.exit_code) == (Change.FINDING_GONE, 2)


def test_only_the_very_same_finding_is_known():
    """Same model, check and target; another of them is new, and a failed gate knows nothing."""
    finding = a_run(said(Outcome.FINDING))
    assert known_findings(finding, finding) == {"d/c0"}
    assert not known_findings(None, finding)
    assert not known_findings(a_run(said(Outcome.FINDING, "chair")), finding)
    assert not known_findings(a_run(said(Outcome.FINDING), digest="n"), finding)
    assert not known_findings(a_run(None, said(Outcome.FINDING)), finding)
    assert not known_findings(a_run(said(Outcome.FINDING), passed=False), finding)
    assert not known_findings(a_run(said(Outcome.CLEAN)), finding)


@pytest.mark.parametrize("now", list(Outcome))
def test_a_baseline_forgives_its_findings_and_nothing_else(now):
    """A check that answered then and crashed, was skipped or cannot tell now counts as what it is."""
    baseline = a_run(said(Outcome.FINDING), said(Outcome.FINDING))
    result = a_run(said(Outcome.FINDING), said(now))
    expected = {"clean": 0, "finding": 0, "inconclusive": 2, "error": 2, "skipped": 0}[now]
    assert exit_code(counted_outcomes(result, baseline)) == expected
    assert result.exit_code == 1


@pytest.mark.parametrize("fail_on", [{"finding", "error"}, {"error"}, {"error", "skipped"}])
def test_a_failed_gate_is_excused_by_no_choice_of_outcomes(fail_on):
    """Inconclusive after a failed gate counts as an error; only an empty choice gives 0."""
    result = a_run(said(Outcome.CLEAN), said(Outcome.FINDING), passed=False)
    assert exit_code(counted_outcomes(result, None), set(map(Outcome, fail_on))) == 2
    assert exit_code(counted_outcomes(result, None), ()) == 0
