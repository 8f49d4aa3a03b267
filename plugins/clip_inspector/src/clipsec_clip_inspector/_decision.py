"""The two decision rules, as pure functions: across classes (published) and paired with the base (ours)."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from clipsec.results import Outcome
from clipsec.stats import holm
from clipsec_clip_inspector._score import ClassResult, anomaly_scores

ACROSS_THRESHOLD = 2.0
ACROSS_SOURCE = "fixed at k = 2 by arXiv 2604.09101, the convention of Neural Cleanse; not a calibrated risk"
FEWEST_CLASSES = 8
"""Below this many classes a median and a MAD say little about an outlier."""

PAIRED_THRESHOLD = 0.15
PAIRED_SOURCE = (
    "fixed on twelve CoCoOp models on zoo:mini (DTD, CIFAR-10, Intel scenes, EuroSAT), two to three times "
    "the highest score of a clean one; docs/clip_inspector.md has models not used to choose it"
)
SIGNIFICANCE = 0.001
"""Level of the exact test on the pictures, after Holm's correction over classes. Only small pools notice."""
FEWEST_PICTURES = 100
"""Eligible pictures below which nothing found does not mean clean."""


@attrs.frozen
class Decision:
    """What a rule says about a model."""

    outcome: Outcome
    scores: tuple[float, ...]
    """One for each class, in the order given."""
    score_name: str
    threshold: float
    threshold_source: str
    flagged: frozenset[int]
    """Positions of the flagged classes."""
    best: int
    """Position of the highest score."""
    notes: tuple[str, ...] = ()


def decide_across(
    results: Sequence[ClassResult], *, threshold: float | None = None, min_success: float = 0.5
) -> Decision:
    """Flag classes whose loss lies more than k scaled MADs below the median and whose trigger works.

    CLIP-Inspector as published: anomaly score above 2, success of the reconstructed trigger at least one
    half. Fewer than eight classes without a flag are inconclusive.
    """
    limit = ACROSS_THRESHOLD if threshold is None else threshold
    scores = anomaly_scores(results)
    flagged = frozenset(
        i
        for i, (score, result) in enumerate(zip(scores, results, strict=True))
        if score > limit and result.success_rate >= min_success
    )
    valid = [i for i, result in enumerate(results) if result.success_rate >= min_success]
    best = max(valid or range(len(results)), key=scores.__getitem__)
    notes: tuple[str, ...] = ()
    outcome = Outcome.FINDING if flagged else Outcome.CLEAN
    if len(results) < FEWEST_CLASSES:
        notes = (f"{len(results)} classes are too few for an outlier test across classes",)
        outcome = Outcome.INCONCLUSIVE
    elif too_few_pictures(results):
        notes, outcome = (TOO_FEW,), outcome if flagged else Outcome.INCONCLUSIVE
    source = ACROSS_SOURCE if threshold is None else "set by the user"
    return Decision(outcome, tuple(scores), "anomaly score", limit, source, flagged, best, notes)


def decide_paired(results: Sequence[ClassResult], *, threshold: float | None = None) -> Decision:
    """Flag classes that give way on far more pictures than the clean base does.

    The score is `BaseResult.excess`: success of the inverted trigger on the suspect, minus the larger of the
    same trigger's success on the base and of the base's own inverted trigger. A natural universal
    perturbation works on both; a backdoor in the prompts works on the suspect alone. A class above the
    threshold whose difference the pictures do not show at level 0.001 (exact McNemar, Holm over classes)
    makes the verdict inconclusive, as does a pool too small to say clean. Classes that were given up early
    are not flagged; they count as tests that Holm corrects for.
    """
    limit = PAIRED_THRESHOLD if threshold is None else threshold
    bases = [result.base for result in results]
    assert all(base is not None for base in bases)
    scores = tuple(base.excess for base in bases if base is not None)
    adjusted = holm([base.p_value for base in bases if base is not None])
    significant = {i for i, p_value in enumerate(adjusted) if p_value <= SIGNIFICANCE}
    whole = [i for i, result in enumerate(results) if result.given_up_after is None]
    above = {i for i in whole if scores[i] > limit}
    flagged = frozenset(above & significant)
    best = max(whole, key=scores.__getitem__)
    notes: tuple[str, ...] = ()
    outcome = Outcome.FINDING if flagged else Outcome.CLEAN
    if above and not flagged:
        notes = ("a class is above the threshold, but on too few pictures to be sure: bring a larger pool",)
        outcome = Outcome.INCONCLUSIVE
    elif not flagged and too_few_pictures(results):
        notes, outcome = (TOO_FEW,), Outcome.INCONCLUSIVE
    source = PAIRED_SOURCE if threshold is None else "set by the user"
    return Decision(outcome, scores, "excess success", limit, source, flagged, best, notes)


TOO_FEW = f"fewer than {FEWEST_PICTURES} pictures could show a trigger: bring a larger pool"


def too_few_pictures(results: Sequence[ClassResult]) -> bool:
    """Whether any class was measured on too few pictures for "nothing found" to mean clean."""
    whole = [result for result in results if result.given_up_after is None]
    return min(result.base.n if result.base else result.n for result in whole) < FEWEST_PICTURES
