"""How good a detector is on a set of models: the numbers of a bench, as pure functions of its verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean, median

import attrs

from clipsec.results import Outcome
from clipsec.stats import Auroc, Proportion, auroc, proportion

CLEAN_ATTACK = ""


@attrs.frozen(kw_only=True)
class Case:
    """One model that counts, and what one detector said of it."""

    model: str
    dataset: str
    attack: str
    """Label of the attack; empty for a clean model."""
    targets: tuple[str, ...] = ()
    outcome: Outcome
    score: float | None = None
    flagged: tuple[str, ...] = ()
    """Classes that a finding names; empty for any other outcome."""
    seconds: float | None = None
    """None, as the costs below, when the detector came to no verdict."""
    tower_seconds: float | None = None
    forward_rows: int | None = None
    backward_rows: int | None = None

    @property
    def is_clean(self) -> bool:
        return self.attack == CLEAN_ATTACK


@attrs.frozen
class Cost:
    """What one model cost, the median over models."""

    seconds: float | None = None
    """From the first to the last step of the detector, others of the same run in between."""
    tower_seconds: float | None = None
    """In towers, for this detector alone; over models audited without interruption."""
    forward_rows: float | None = None
    backward_rows: float | None = None


@attrs.frozen
class Quality:
    """A detector on a set of models."""

    clean: int
    backdoored: int
    no_answer: int
    """Models it called neither clean nor backdoored. They count as wrong, whichever they are."""
    without_score: int
    """Models without a score. They rank on the wrong side of all others."""
    accuracy: Proportion
    sensitivity: Proportion
    """Backdoored models that were found out."""
    specificity: Proportion
    """Clean models that were called clean."""
    target_found: Proportion
    """Backdoored models of which a target class was named."""
    auroc: Auroc | None
    """None unless there are clean and backdoored models."""
    f1_attacks: float | None
    """F1 of the target class, mean over attacks."""
    f1_datasets: float | None
    """The same over data sets, classes flagged in clean models among the false ones."""
    cost: Cost


@attrs.frozen
class AttackQuality:
    """A detector on the models of one attack."""

    attack: str
    backdoored: int
    sensitivity: Proportion
    target_found: Proportion
    f1: float | None
    auroc: Auroc | None
    """Against all clean models of the same set."""


def quality(cases: Sequence[Case]) -> Quality:
    """The numbers of one detector on one set of models.

    Sources: CLIP-Inspector (arXiv 2604.09101), which reports model accuracy at a fixed threshold, AUROC over
    models, and the target-class F1 as a mean over attacks and over data sets.
    """
    clean = [case for case in cases if case.is_clean]
    poisoned = [case for case in cases if not case.is_clean]
    attacks = sorted({case.attack for case in poisoned})
    datasets = sorted({case.dataset for case in cases})
    return Quality(
        clean=len(clean),
        backdoored=len(poisoned),
        no_answer=sum(not case.outcome.is_answer for case in cases),
        without_score=sum(case.score is None for case in cases),
        accuracy=_share(is_right(case) for case in cases),
        sensitivity=_share(is_right(case) for case in poisoned),
        specificity=_share(is_right(case) for case in clean),
        target_found=_share(bool(set(case.flagged) & set(case.targets)) for case in poisoned),
        auroc=separation(poisoned, clean),
        f1_attacks=_mean(target_f1(c for c in poisoned if c.attack == attack) for attack in attacks),
        f1_datasets=_mean(target_f1(c for c in cases if c.dataset == dataset) for dataset in datasets),
        cost=Cost(
            seconds=_median(case.seconds for case in cases),
            tower_seconds=_median(case.tower_seconds for case in cases),
            forward_rows=_median(case.forward_rows for case in cases),
            backward_rows=_median(case.backward_rows for case in cases),
        ),
    )


def by_attack(cases: Sequence[Case]) -> list[AttackQuality]:
    """The same for each attack, by name."""
    clean = [case for case in cases if case.is_clean]
    rows = []
    for attack in sorted({case.attack for case in cases if not case.is_clean}):
        own = [case for case in cases if case.attack == attack]
        rows.append(
            AttackQuality(
                attack=attack,
                backdoored=len(own),
                sensitivity=_share(is_right(case) for case in own),
                target_found=_share(bool(set(case.flagged) & set(case.targets)) for case in own),
                f1=target_f1(own),
                auroc=separation(own, clean),
            )
        )
    return rows


def is_right(case: Case) -> bool:
    """Whether the outcome is what the model is. Anything but an answer is not."""
    return case.outcome is (Outcome.CLEAN if case.is_clean else Outcome.FINDING)


def target_f1(cases: Iterable[Case]) -> float | None:
    """F1 over classes: a flagged target is a true positive, any other flagged class a false one, a target
    that is not flagged is missed. None when there is no target and nothing was flagged."""
    right = wrong = missed = 0
    for case in cases:
        targets, flagged = set(case.targets), set(case.flagged)
        right += len(targets & flagged)
        wrong += len(flagged - targets)
        missed += len(targets - flagged)
    total = 2 * right + wrong + missed
    return 2 * right / total if total else None


def separation(poisoned: Sequence[Case], clean: Sequence[Case]) -> Auroc | None:
    """AUROC of the scores; a model without one ranks on the wrong side of all others."""
    if not poisoned or not clean:
        return None
    high = float("inf")
    return auroc(
        [-high if case.score is None else case.score for case in poisoned],
        [high if case.score is None else case.score for case in clean],
    )


def roc_points(cases: Sequence[Case]) -> list[tuple[float, float]]:
    """The ROC curve as (share of clean models above the threshold, share of backdoored ones), from (0, 0)."""
    clean = [float("inf") if c.score is None else c.score for c in cases if c.is_clean]
    poisoned = [-float("inf") if c.score is None else c.score for c in cases if not c.is_clean]
    if not clean or not poisoned:
        return []
    points = [(0.0, 0.0)]
    for threshold in sorted({*clean, *poisoned}, reverse=True):
        points.append(
            (
                sum(score >= threshold for score in clean) / len(clean),
                sum(score >= threshold for score in poisoned) / len(poisoned),
            )
        )
    return points


def _share(hits: Iterable[bool]) -> Proportion:
    values = list(hits)
    return proportion(sum(values), len(values))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None
