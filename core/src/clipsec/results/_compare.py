"""Two runs side by side: what changed, under which conditions, and which findings were known before."""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from clipsec.results._classes import Provenance, RunResult, Verdict
from clipsec.results._outcome import EXIT_CLEAN, EXIT_ERROR, EXIT_FINDING, EXIT_NOTHING_RAN, Outcome


class Change(enum.StrEnum):
    """What became of one check between two runs of one model, from the most to the least serious."""

    NEW_FINDING = "new finding"
    """A finding that the first run did not have: none at all, or with another target."""
    LOST_ANSWER = "answer lost"
    """It answered in the first run and does not in the second: crashed, inconclusive, skipped, not asked."""
    FINDING_GONE = "finding gone"
    """Clean now. The model is the same, so what changed is the check or its conditions."""
    NEW_ANSWER = "new answer"
    """Clean now, no answer before."""
    UNCHANGED = "unchanged"
    NO_ANSWER = "no answer in either"


@attrs.frozen
class Difference:
    """A condition in which two runs differ."""

    what: str
    first: str
    second: str


@attrs.frozen
class CheckComparison:
    """One check in both runs; None where a run does not have it."""

    name: str
    change: Change
    first: Verdict | None
    second: Verdict | None
    conditions: tuple[Difference, ...]
    """Where they differ, the two scores are not measurements of one thing."""


@attrs.frozen
class Comparison:
    """Two runs of one suspect."""

    first: RunResult
    second: RunResult
    not_comparable: tuple[str, ...]
    """Why the two runs say nothing about each other; empty when they can be compared."""
    checks: tuple[CheckComparison, ...]
    environment: tuple[Difference, ...]

    @property
    def exit_code(self) -> int:
        """1 a new finding; 2 an answer lost, a finding gone, or not comparable; 3 no check at all; 0 else."""
        changes = {check.change for check in self.checks}
        if Change.NEW_FINDING in changes and not self.not_comparable:
            return EXIT_FINDING
        if self.not_comparable or changes & {Change.LOST_ANSWER, Change.FINDING_GONE}:
            return EXIT_ERROR
        return EXIT_CLEAN if changes - {Change.NO_ANSWER} else EXIT_NOTHING_RAN


def compare_runs(first: RunResult, second: RunResult) -> Comparison:
    """Compare two runs, verdict by verdict. Pure; raises nothing."""
    names = list(dict.fromkeys([*first.verdicts, *second.verdicts]))
    return Comparison(
        first=first,
        second=second,
        not_comparable=tuple(_not_comparable(first, second)),
        checks=tuple(_check(name, first.verdicts.get(name), second.verdicts.get(name)) for name in names),
        environment=tuple(_differences(first.environment, second.environment)),
    )


def finding_fingerprint(suspect_digest: str, detector: str, target: str | None) -> str:
    """What makes a finding the same finding in another run: the model's bytes, the check, and the target.

    Hex sha256; scores, versions and names of files are left out.
    """
    parts = json.dumps([suspect_digest, detector, target])
    return hashlib.sha256(parts.encode()).hexdigest()


def known_findings(baseline: RunResult | None, result: RunResult) -> frozenset[str]:
    """The checks of `result` whose finding the baseline already has, by canonical detector name.

    A baseline of another model (another digest) knows nothing of this one.
    """
    if baseline is None:
        return frozenset()
    known = {_fingerprint(baseline, name) for name in _findings(baseline)}
    return frozenset(name for name in _findings(result) if _fingerprint(result, name) in known)


def counted_outcomes(result: RunResult, baseline: RunResult | None) -> list[Outcome]:
    """The outcomes that decide the exit code: a finding that the baseline knows counts like a clean verdict.

    Nothing else is forgiven: a check that answered in the baseline and does not now is what it is. After a
    failed sanity gate `inconclusive` counts as an error, which no choice of outcomes but none at all excuses.
    """
    known = known_findings(baseline, result)
    outcomes = [
        Outcome.CLEAN if name in known else verdict.outcome for name, verdict in result.verdicts.items()
    ]
    if result.gate.passed:
        return outcomes
    return [Outcome.ERROR if outcome is Outcome.INCONCLUSIVE else outcome for outcome in outcomes]


def _findings(result: RunResult) -> list[str]:
    return [name for name, verdict in result.verdicts.items() if verdict.outcome is Outcome.FINDING]


def _fingerprint(result: RunResult, name: str) -> str:
    return finding_fingerprint(result.suspect.digest, name, result.verdicts[name].target)


def _not_comparable(first: RunResult, second: RunResult) -> Iterable[str]:
    if first.suspect.digest != second.suspect.digest:
        yield f"they are about two models, {first.suspect.name} and {second.suspect.name}"
    elif first.suspect.base_digest != second.suspect.base_digest:
        yield "the model sits on two different bases"
    for which, run in (("first", first), ("second", second)):
        if not run.gate.passed:
            yield f"the sanity gate failed in the {which} run ({run.gate.reason})"
    if first.verdicts and second.verdicts and not first.verdicts.keys() & second.verdicts.keys():
        yield "they have no check in common"


def _check(name: str, first: Verdict | None, second: Verdict | None) -> CheckComparison:
    conditions: tuple[Difference, ...] = ()
    if first is not None and second is not None:
        conditions = tuple(_conditions(first, second))
    return CheckComparison(name, change_between(first, second), first, second, conditions)


def change_between(first: Verdict | None, second: Verdict | None) -> Change:
    """What became of a check; None where a run does not have it."""
    answered = first is not None and first.outcome.is_answer
    if second is None or not second.outcome.is_answer:
        return Change.LOST_ANSWER if answered else Change.NO_ANSWER
    if second.outcome is Outcome.FINDING:
        same = first is not None and first.outcome is Outcome.FINDING and first.target == second.target
        return Change.UNCHANGED if same else Change.NEW_FINDING
    if not answered:
        return Change.NEW_ANSWER
    assert first is not None
    return Change.FINDING_GONE if first.outcome is Outcome.FINDING else Change.UNCHANGED


def _conditions(first: Verdict, second: Verdict) -> Iterable[Difference]:
    if first.provenance is not None and second.provenance is not None:
        yield from _provenances(first.provenance, second.provenance)
    yield from _differences(
        {"threshold": first.threshold, "pictures": first.n},
        {"threshold": second.threshold, "pictures": second.n},
    )


_NAMED = {
    "distribution": "distribution",
    "version": "version",
    "seed": "seed",
    "search_dtype": "search precision",
    "decision_dtype": "decision precision",
    "suspect_digest": "model",
    "data_digest": "data (pool, labels, reference)",
}


def _provenances(first: Provenance, second: Provenance) -> Iterable[Difference]:
    found = list(_differences(_named(first), _named(second)))
    yield from found
    if not found and first.key != second.key:
        # The key covers the bytes of the plugin's files too: an edit that kept its version.
        yield Difference("code or content key", first.key, second.key)


def _named(provenance: Provenance) -> dict[str, Any]:
    facts = {name: getattr(provenance, key) for key, name in _NAMED.items()}
    return facts | {f"option {key}": value for key, value in provenance.options.items()}


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterable[Difference]:
    for what in dict.fromkeys([*first, *second]):
        texts = [_told(values, what) for values in (first, second)]
        if texts[0] != texts[1]:
            yield Difference(what, *texts)


def _told(values: Mapping[str, Any], what: str) -> str:
    value = values.get(what, "")
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
