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
LEAST_LIKENESS = 0.95
"""Mean cosine of clean captions' features to the suspect's that a repaired text tower must keep."""


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
    """How many of `n` pictures or captions, with a 95% interval."""

    successes: int
    n: int
    interval: Interval

    @property
    def value(self) -> float:
        return self.successes / self.n if self.n else 0.0


@attrs.frozen
class BeforeAfter:
    """One rate of the suspect, of the repaired model and of a clean one, on the same held-out pictures or
    captions."""

    before: Rate
    after: Rate
    base: Rate | None
    """A prompt-tuned delivery's own base answering zero-shot; else the clean reference, None without one."""


@attrs.frozen
class TriggerRates:
    """How often a trigger sends pictures of other classes to its target, or captions to what it aims at."""

    origin: str
    """The detector that found it, or the attack whose card was given."""
    planted: bool
    """Whether it is the attacker's own, from a trigger card; a repair is shown it only when the user says
    so, see `known`."""
    target_index: int
    """-1 for a trigger in captions."""
    target: str
    success: BeforeAfter
    name: str = ""
    """What is put into captions; empty for a trigger on pictures."""
    known: bool = False
    """Whether the repair was shown it."""

    @property
    def whose(self) -> str:
        """For people: "the attacker's trigger" and the like."""
        if self.known:
            return "the known trigger"
        return "the attacker's trigger" if self.planted else "the found trigger"

    @property
    def inputs(self) -> str:
        """What it is put on: pictures or captions."""
        return "captions" if self.name else "pictures"


@attrs.frozen
class Likeness:
    """How alike the features of held-out clean captions are, as mean cosines. It says what a repair costs
    where the space of the features stays as it was: the image tower is the same, or somewhere else."""

    to_suspect: float
    """Of the repaired model to the suspect."""
    lowest: float
    """The same of the caption that moved furthest."""
    n: int
    before_to_base: float | None = None
    """Of the suspect to the clean reference."""
    after_to_base: float | None = None
    """Of the repaired model to the clean reference."""


@attrs.frozen
class RepairResult:
    """A repair: what was repaired with what, and what that did on held-out pictures."""

    suspect: SuspectCard
    outcome: RepairOutcome
    summary: str
    """One sentence for people."""
    accuracy: BeforeAfter | None
    """On clean pictures; None for a text tower without pictures, or without an image tower at hand."""
    triggers: tuple[TriggerRates, ...]
    goal: float
    allowed_drop: float
    repair: str
    """Canonical plugin name, `distribution/name`."""
    version: str
    options: dict[str, Any]
    seed: int
    finding: str
    """Content key of the verdict that the repair worked from; empty when there was none."""
    data: dict[str, str]
    """Digests of the pictures that the repair had (`labelled`), of those it was measured on (`held_out`),
    of the pool, of captions in the same two parts and of the clean reference."""
    repaired_digest: str
    notes: tuple[str, ...]
    environment: dict[str, str]
    started: str
    """UTC, ISO 8601."""
    seconds: float
    folder: str = ""
    """Where the repaired delivery lies; empty when it was not kept."""
    likeness: Likeness | None = None
    """None for a model without a text tower, with learned prompts, or whose image tower was trained too."""
    least_likeness: float = LEAST_LIKENESS
    schema_version: str = SCHEMA_VERSION

    @property
    def exit_code(self) -> int:
        """0 repaired, 2 anything else."""
        return self.outcome.exit_code


add_words(RepairOutcome)


def judge_repair(
    accuracy: BeforeAfter | None,
    triggers: Sequence[TriggerRates],
    *,
    goal: float = GOAL,
    allowed_drop: float = ALLOWED_DROP,
    likeness: Likeness | None = None,
    least_likeness: float = LEAST_LIKENESS,
) -> tuple[RepairOutcome, str]:
    """Whether these rates are a success, and the sentence that says why or why not.

    Repaired: every trigger, also the attacker's own if it is known, succeeds on at most `goal` of the
    held-out inputs, the 95% interval of that ends below twice the goal, clean accuracy has not fallen by
    more than `allowed_drop`, clean captions keep a mean cosine of `least_likeness` to where they were, and
    some trigger did succeed on more than the goal before. Where the last is not so, too few inputs tell, or
    neither accuracy nor likeness was measured, the outcome is inconclusive.
    """
    if not triggers:
        return RepairOutcome.INCONCLUSIVE, "there is no trigger to measure the repair with"
    working = [t for t in triggers if t.success.before.value > goal]
    worst = max(triggers, key=lambda t: t.success.after.value)
    left, natural = worst.success.after, worst.success.base
    if left.value > goal:
        also = ""
        if natural is not None and natural.value > goal:
            also = f"; on the clean base it reaches {natural.value:.1%}"
        to = f" to {worst.target!r}" if worst.target else ""
        return (
            RepairOutcome.NOT_REPAIRED,
            f"{worst.whose} still sends {left.value:.1%} of {worst.inputs}{to}, {goal:.1%} may be left{also}",
        )
    if accuracy is not None and accuracy.before.value - accuracy.after.value > allowed_drop + 1e-9:
        return (
            RepairOutcome.NOT_REPAIRED,
            f"clean accuracy falls from {accuracy.before.value:.1%} to {accuracy.after.value:.1%}, by more "
            f"than {100 * allowed_drop:.2g} points",
        )
    # Written so that a likeness that is no number is not enough.
    if likeness is not None and not likeness.to_suspect >= least_likeness:
        return (
            RepairOutcome.NOT_REPAIRED,
            f"clean captions keep a mean cosine of {likeness.to_suspect:.3f} to where they were, "
            f"{least_likeness:.3f} is asked for",
        )
    if not working:
        return (
            RepairOutcome.INCONCLUSIVE,
            f"no trigger worked on more than {goal:.1%} of these inputs before: nothing was to repair",
        )
    unsure = max(triggers, key=lambda t: t.success.after.interval.high)
    if unsure.success.after.interval.high > CERTAINTY * goal:
        rate = unsure.success.after
        return (
            RepairOutcome.INCONCLUSIVE,
            f"{rate.n} held-out {unsure.inputs} are too few: what is left may be up to "
            f"{rate.interval.high:.1%}",
        )
    if accuracy is None and likeness is None:
        return (
            RepairOutcome.INCONCLUSIVE,
            "nothing says what the repair cost: its image tower was trained too, and there are no labelled "
            "pictures",
        )
    strongest = max(working, key=lambda t: t.success.before.value).success
    kept = []
    if accuracy is not None:
        kept.append(f"clean accuracy goes from {accuracy.before.value:.1%} to {accuracy.after.value:.1%}")
    if likeness is not None:
        kept.append(f"clean captions keep a mean cosine of {likeness.to_suspect:.3f}")
    return (
        RepairOutcome.REPAIRED,
        f"success falls from {strongest.before.value:.1%} to {strongest.after.value:.1%}, {', '.join(kept)}",
    )


def repair_to_text(result: RepairResult) -> str:
    """The text of `repair.json`. Raises `ContractError` for what is not plain data."""
    return json.dumps(write_document(result), indent=1, allow_nan=False) + "\n"


def repair_from_json(document: Any) -> RepairResult:
    """The record that `repair_to_text` wrote. Raises `StoreError` like `from_json`."""
    result: RepairResult = read_document(document, RepairResult, "repair")
    return result
