"""Successive halving over classes: which searches go on, judged after few updates.

Most classes are far from giving way, which shows after a few updates; only the ones that stand out against
the clean base get all of them and are measured on every picture. Source: the idea is Jamieson and Talwalkar's
(AISTATS 2016), with the paired null as what a class is judged by; specification of CLIP-Inspector, idea 7.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from clipsec_clip_inspector._inversion import Step

FEWEST = 4
"""Classes that are never given up, however few there are."""


@attrs.frozen
class Rung:
    """A point at which searches are compared and some are given up."""

    steps: int
    """Updates that each search has had."""
    keep: int
    """Searches that go on."""


def rungs(classes: int, steps: int) -> tuple[Rung, ...]:
    """Half of the classes are given up after an eighth of the updates, three quarters of the rest after three
    eighths; never below `FEWEST`. With 32 updates: after 4 and after 12."""
    planned = [Rung(steps // 8, -(-classes // 2)), Rung(3 * steps // 8, -(-classes // 8))]
    useful, alive = [], classes
    for rung in planned:
        keep = max(FEWEST, rung.keep)
        if rung.steps > 0 and keep < alive:
            useful.append(Rung(rung.steps, keep))
            alive = keep
    return tuple(useful)


@attrs.frozen
class Standing:
    """How one class stands at a rung, over the last half of the updates so far; and the base on the same
    batches."""

    loss: float
    """Mean margin on the suspect."""
    null_loss: float
    """Mean margin of the base's own search on the base."""
    n: int
    """Eligible pictures in these batches."""
    hits: int
    null_hits: int
    gained: float
    """How much further the margin fell on the suspect than on the base, each from where it began."""

    @property
    def level(self) -> float:
        """How much lower the suspect's margin lies than the base's."""
        return self.null_loss - self.loss

    @property
    def excess(self) -> float:
        """Share of pictures won beyond what the base gives way to."""
        return (self.hits - self.null_hits) / self.n if self.n else 0.0


def standing(
    suspect: Sequence[Step], null: Sequence[Step], eligible: Sequence[Sequence[bool]], steps: int
) -> Standing:
    """The standing after `steps` updates. `eligible[i]` says which pictures of batch i neither model gives to
    the class without a trigger."""
    window = range(steps - max(1, steps // 2), steps)

    def mean(of: Sequence[Step]) -> float:
        return sum(of[i].loss for i in window) / len(window)

    def hits(of: Sequence[Step]) -> int:
        return sum(won and free for i in window for won, free in zip(of[i].won, eligible[i], strict=True))

    loss, null_loss = mean(suspect), mean(null)
    return Standing(
        loss=loss,
        null_loss=null_loss,
        n=sum(sum(eligible[i]) for i in window),
        hits=hits(suspect),
        null_hits=hits(null),
        gained=(suspect[0].loss - loss) - (null[0].loss - null_loss),
    )


def survivors(standings: Sequence[Standing], keep: int, threshold: float) -> set[int]:
    """Positions that go on: the best by level, then by gain, in turns, until there are `keep`; and whoever is
    above half the threshold already.

    By level alone, classes that the tuned prompts merely favour would stay; by gain alone, a target whose
    margin is low from the start would go.
    """
    places = range(len(standings))
    by_level = sorted(places, key=lambda i: -standings[i].level)
    by_gain = sorted(places, key=lambda i: -standings[i].gained)
    kept = {i for i in places if standings[i].excess > threshold / 2}
    for first, second in zip(by_level, by_gain, strict=True):
        for place in (first, second):
            if len(kept) < keep:
                kept.add(place)
    return kept
