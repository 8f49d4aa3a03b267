"""The decision, as a pure function."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from clipsec.results import Outcome
from clipsec_decree._options import DecreeOptions

PUBLISHED = 0.1
PUBLISHED_SOURCE = (
    "PL1 below 0.1, as recalled of Feng et al., CVPR 2023 and consistent with their logs; not calibrated here"
)
RATIO = 2.0
RATIO_SOURCE = "half the reference's mask, fixed by hand before any model was measured; not calibrated"


@attrs.frozen
class Start:
    """What one start measured."""

    pl1: float
    """Share of the picture that its mask covers."""
    similarity: float
    """Mean cosine of held-out pictures with its trigger, in the decision's precision."""
    works: bool
    """Whether its search reached the similarity."""
    ended: bool
    """Whether its search stopped by itself."""


@attrs.frozen
class Decision:
    """What the masks say about a tower."""

    outcome: Outcome
    score: float
    """The larger, the more suspicious; see `score_name`."""
    score_name: str
    threshold: float
    threshold_source: str
    smallest: int
    """Position of the start with the smallest mask that works, else of the first."""
    notes: tuple[str, ...] = ()

    @property
    def flagged(self) -> bool:
        return self.outcome is Outcome.FINDING


def valid(options: DecreeOptions, start: Start) -> bool:
    """Whether a mask collapses pictures that it was not made of, too."""
    return start.works and start.similarity > options.similarity - options.tolerance


def decide(options: DecreeOptions, suspect: Sequence[Start], reference: Sequence[Start] = ()) -> Decision:
    """Flag a tower whose smallest working mask covers abnormally little of a picture.

    `published`: the score is `-log10 PL1`, the threshold `-log10 0.1`. `paired`: the score is `log10` of the
    reference's PL1 over the suspect's. A mask that does not work on held-out pictures has no size. Without
    any, or, below the threshold, with a search that ended for lack of updates, nothing is known:
    inconclusive. A reference's search that was cut short leaves its mask too large, which may flag a clean
    suspect: then a score above the threshold is inconclusive, too.
    """
    paired = options.rule == "paired"
    best = _smallest(options, suspect)
    base = _smallest(options, reference)
    limit = options.threshold if options.threshold is not None else (RATIO if paired else PUBLISHED)
    threshold = math.log10(limit) if paired else -math.log10(limit)
    source = RATIO_SOURCE if paired else PUBLISHED_SOURCE
    name = "log10 (reference's PL1 / PL1)" if paired else "-log10 PL1"
    notes: list[str] = []
    if best is None or (paired and base is None):
        whose = "suspect" if best is None else "reference"
        notes.append(f"no mask was found that makes the {whose}'s features coincide: allow more steps")
        outcome, score = Outcome.INCONCLUSIVE, 0.0
    else:
        size = max(suspect[best].pl1, 1e-9)
        score = math.log10(reference[base].pl1 / size) if paired and base is not None else -math.log10(size)
        outcome = Outcome.FINDING if score > threshold else Outcome.CLEAN
        if outcome is Outcome.CLEAN and not all(start.ended for start in suspect):
            notes.append("the mask was still shrinking when the updates ran out: allow more steps")
            outcome = Outcome.INCONCLUSIVE
        if outcome is Outcome.FINDING and paired and not all(start.ended for start in reference):
            notes.append(
                "the reference's mask was still shrinking when the updates ran out: allow more steps"
            )
            outcome = Outcome.INCONCLUSIVE
    return Decision(
        outcome=outcome,
        score=score,
        score_name=name,
        threshold=threshold,
        threshold_source=source if options.threshold is None else "set by the user",
        smallest=0 if best is None else best,
        notes=tuple(notes),
    )


def _smallest(options: DecreeOptions, starts: Sequence[Start]) -> int | None:
    working = [place for place, start in enumerate(starts) if valid(options, start)]
    return min(working, key=lambda place: starts[place].pl1, default=None)
