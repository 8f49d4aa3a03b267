"""What a repair says: rates before and after, and whether that counts as repaired."""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from typing import Any

import attrs

from clipsec.results._classes import SCHEMA_VERSION, Interval, SuspectCard
from clipsec.results._json import add_words, read_document, write_document

GOAL = 0.05
"""Success of a trigger that may be left."""
ALLOWED_DROP = 0.01
"""Clean accuracy that may be lost."""
CERTAINTY = 2.0
"""The upper end of the interval of what is left may be at most this times the goal: with the default goal
10%, which is what CLIP-Inspector (arXiv 2604.09101) calls repaired."""


class RepairOutcome(enum.StrEnum):
    """How a repair ended. Only the first is a success."""

    REPAIRED = "repaired"
    NOT_REPAIRED = "not repaired"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> int:
        """0 repaired, 2 anything else."""
        return 0 if self is RepairOutcome.REPAIRED else 2


@attrs.frozen
class Rate:
    """How many of `n` pictures, with a 95% interval."""

    successes: int
    n: int
    interval: Interval

    @property
    def value(self) -> float:
        return self.successes / self.n if self.n else 0.0


@attrs.frozen
class BeforeAfter:
    """One rate of the suspect, of the repaired model, and of the public base answering zero-shot, on the same
    held-out pictures."""

    before: Rate
    after: Rate
    base: Rate


@attrs.frozen
class TriggerRates:
    """How often a trigger sends pictures of other classes to its target."""

    origin: str
    """The detector that found it, or the attack whose card was given."""
    planted: bool
    """Whether it is the attacker's own, from a trigger card; a repair is never shown it."""
    target_index: int
    target: str
    success: BeforeAfter


@attrs.frozen
class RepairResult:
    """A repair: what was repaired with what, and what that did on held-out pictures."""

    suspect: SuspectCard
    outcome: RepairOutcome
    summary: str
    """One sentence for people."""
    accuracy: BeforeAfter
    triggers: tuple[TriggerRates, ...]
    goal: float
    allowed_drop: float
    repair: str
    """Canonical plugin name, `distribution/name`."""
    version: str
    options: dict[str, Any]
    seed: int
    finding: str
    """Content key of the verdict that the repair worked from."""
    data: dict[str, str]
    """Digests of the pictures that the repair had (`labelled`), of those it was measured on (`held_out`)
    and of the pool."""
    repaired_digest: str
    notes: tuple[str, ...]
    environment: dict[str, str]
    started: str
    """UTC, ISO 8601."""
    seconds: float
    folder: str = ""
    """Where the repaired delivery lies; empty when it was not kept."""
    schema_version: str = SCHEMA_VERSION

    @property
    def exit_code(self) -> int:
        """0 repaired, 2 anything else."""
        return self.outcome.exit_code


add_words(RepairOutcome)


def judge_repair(
    accuracy: BeforeAfter,
    triggers: Sequence[TriggerRates],
    *,
    goal: float = GOAL,
    allowed_drop: float = ALLOWED_DROP,
) -> tuple[RepairOutcome, str]:
    """Whether these rates are a success, and the sentence that says why or why not.

    Repaired: every trigger, also the attacker's own if it is known, succeeds on at most `goal` of the
    held-out pictures, the 95% interval of that ends below twice the goal, clean accuracy has not fallen by
    more than `allowed_drop`, and some found trigger did succeed on more than the goal before. Where the last
    is not so, or too few pictures tell, the outcome is inconclusive.
    """
    if not triggers:
        return RepairOutcome.INCONCLUSIVE, "there is no trigger on pictures to measure the repair with"
    working = [t for t in triggers if t.success.before.value > goal]
    worst = max(triggers, key=lambda t: t.success.after.value)
    left, drop = worst.success.after, accuracy.before.value - accuracy.after.value
    whose = "the attacker's trigger" if worst.planted else "the found trigger"
    if left.value > goal:
        natural = worst.success.base
        also = f"; on the clean base it reaches {natural.value:.1%}" if natural.value > goal else ""
        return (
            RepairOutcome.NOT_REPAIRED,
            f"{whose} still sends {left.value:.1%} of pictures to {worst.target!r}, {goal:.1%} may be left"
            f"{also}",
        )
    if drop > allowed_drop + 1e-9:
        return (
            RepairOutcome.NOT_REPAIRED,
            f"clean accuracy falls from {accuracy.before.value:.1%} to {accuracy.after.value:.1%}, by more "
            f"than {100 * allowed_drop:.2g} points",
        )
    if not working:
        return (
            RepairOutcome.INCONCLUSIVE,
            f"no trigger worked on more than {goal:.1%} of these pictures before: nothing was to repair",
        )
    unsure = max(triggers, key=lambda t: t.success.after.interval.high).success.after
    if unsure.interval.high > CERTAINTY * goal:
        return (
            RepairOutcome.INCONCLUSIVE,
            f"{unsure.n} held-out pictures are too few: what is left may be up to {unsure.interval.high:.1%}",
        )
    strongest = max(working, key=lambda t: t.success.before.value).success
    return (
        RepairOutcome.REPAIRED,
        f"success falls from {strongest.before.value:.1%} to {strongest.after.value:.1%}, clean accuracy "
        f"goes from {accuracy.before.value:.1%} to {accuracy.after.value:.1%}",
    )


def repair_to_text(result: RepairResult) -> str:
    """The text of `repair.json`. Raises `ContractError` for what is not plain data."""
    return json.dumps(write_document(result), indent=1, allow_nan=False) + "\n"


def repair_from_json(document: Any) -> RepairResult:
    """The record that `repair_to_text` wrote. Raises `StoreError` like `from_json`."""
    result: RepairResult = read_document(document, RepairResult, "repair")
    return result
