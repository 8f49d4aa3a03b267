"""What each outcome is called, in every format. Nothing but a clean run is ever worded as a pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import attrs

from clipsec.reports._text import plural, visible
from clipsec.results import (
    FAIL_ON,
    WHEN_NAMED,
    Outcome,
    RunResult,
    Verdict,
    counted_outcomes,
    exit_code,
    known_findings,
)


@attrs.frozen
class Words:
    """How one outcome is shown."""

    label: str
    """For one check."""
    headline: str
    """For a run."""
    symbol: str
    """One character, so that colour is never the only sign."""
    style: str
    """For the console."""


WORDS = {
    Outcome.FINDING: Words("backdoor found", "Backdoor found", "!", "bold red"),
    Outcome.ERROR: Words("error", "No verdict: a check failed", "\N{MULTIPLICATION SIGN}", "bold magenta"),
    Outcome.INCONCLUSIVE: Words("inconclusive", "No verdict: inconclusive", "?", "bold yellow"),
    Outcome.CLEAN: Words("clean", "No backdoor found", "\N{CHECK MARK}", "bold green"),
    Outcome.SKIPPED: Words("skipped", "Nothing was checked", "\N{EN DASH}", "bold"),
}

CAVEAT = (
    "A clean verdict means that the checks above did not find a backdoor with the stated thresholds; it is"
    " not a proof that there is none. Skipped checks and errors say nothing about the model."
)


def headline(result: RunResult) -> str:
    """The run's verdict in one short line."""
    words = WORDS[result.outcome].headline
    if result.outcome is Outcome.INCONCLUSIVE and not result.gate.passed:
        return "No verdict: the sanity gate failed"
    targets = {
        visible(verdict.target, longest=80): target_word(result, verdict.target)
        for verdict in result.verdicts.values()
        if verdict.outcome is Outcome.FINDING and verdict.target is not None
    }
    if result.outcome is not Outcome.FINDING or not targets:
        return words
    names = ", ".join(
        f"\N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}" for name in targets
    )
    kinds = set(targets.values())
    word = kinds.pop() if len(kinds) == 1 else "target"
    return f"{words}: {word if len(targets) == 1 else _MANY[word]} {names}"


_MANY = {"target": "targets", "target class": "target classes"}


def target_word(result: RunResult, target: str) -> str:
    """What a verdict's target is: a class of the suspect, or, of a detector of texts, a caption."""
    return "target class" if target in result.suspect.class_names else "target"


def row_word(result: RunResult, verdict: Verdict) -> str:
    """What the rows of a check's evidence are: classes of the suspect, or words and starts of a search."""
    named = {row.name for row in verdict.evidence}
    return "Class" if named and named <= set(result.suspect.class_names) else "Item"


def unasked(verdict: Verdict) -> bool:
    """Whether nobody asked for the check: it is there, and runs only when it is named."""
    return verdict.outcome is Outcome.SKIPPED and verdict.summary.endswith(WHEN_NAMED)


def tally(result: RunResult) -> str:
    """What became of every check: `3 checks: 1 clean, 2 skipped.`"""
    counts = Counter(verdict.outcome for verdict in result.verdicts.values())
    if not counts:
        return "No check was asked for or none is installed."
    parts = [f"{counts[outcome]} {words.label}" for outcome, words in WORDS.items() if counts[outcome]]
    return f"{plural(sum(counts.values()), 'check')}: {', '.join(parts)}."


def reason(verdict: Verdict) -> str:
    """Why a check has no answer, or the summary of the one it has."""
    if verdict.error is not None and verdict.error.message not in verdict.summary:
        return f"{verdict.summary} ({verdict.error.type}: {verdict.error.message})"
    return verdict.summary


EXIT_WORDS = ("clean", "finding", "error or inconclusive", "nothing ran")
"""What each exit code of a run says."""


def exit_sentence(
    result: RunResult, baseline: RunResult | None = None, fail_on: Collection[Outcome] = FAIL_ON
) -> str:
    """The exit code, and why it is not the run's own when a baseline or `fail_on` makes it another."""
    forgiving = exit_code(counted_outcomes(result, baseline))
    code = exit_code(counted_outcomes(result, baseline), fail_on)
    if code == result.exit_code:
        return f"Exit code {code}: {EXIT_WORDS[code]}."
    reasons = []
    if forgiving != result.exit_code:
        reasons.append("the baseline has every finding of it")
    if code != forgiving:
        reasons.append("--fail-on counts other outcomes")
    own = f"the run itself has {result.exit_code} ({EXIT_WORDS[result.exit_code]})"
    return f"Exit code {code}: {own}, but {' and '.join(reasons)}."


def known_names(result: RunResult, baseline: RunResult | None) -> list[str]:
    """The checks whose finding the baseline has, in the run's order."""
    known = known_findings(baseline, result)
    return [name for name in result.verdicts if name in known]
