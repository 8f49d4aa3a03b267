"""Where a branch swap is invalid: the same question over a part of the way from the reference to the suspect.

theta(alpha) = (1 - alpha) theta_reference + alpha theta_suspect for each branch. Two branches that are not
far apart on their ways may share a space where the two ends do not, and then a rate is about the backdoor.
Ours; pure functions (`docs/dife.md`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from clipsec.exposure._estimate import rate
from clipsec.exposure._footprint import (
    DOMINANT,
    EPSILON,
    REPLICATES,
    STABLE,
    WEAK,
    Ratios,
    extended_label,
    least_utility,
    share_with_label,
    swap_ratios,
    works,
)
from clipsec.results import DosePoint, Interpolation, Label, Measurement

ALPHAS = (0.25, 0.5, 0.75)
"""Shares of the way that are measured between the ends; fixed, so that none is chosen by what it shows."""
STEPS = (0.0, *ALPHAS, 1.0)
Place = tuple[float, float]
"""How far the visual and the textual branch are on their ways."""
GRID: tuple[Place, ...] = tuple(itertools.product(STEPS, STEPS))
SPANS: tuple[Place, ...] = tuple(
    sorted(
        ((low, high) for low, high in itertools.combinations(STEPS, 2) if high - low < 1),
        key=lambda span: (span[0] - span[1], -span[1]),
    )
)
"""From where to where a swap is read: the longest first, of those the one that ends nearest to the
suspect."""
_SLACK = 1e-6


def corners(span: Place) -> tuple[Place, Place, Place, Place]:
    """The four models of a swap over this part of the way, in the order a00, a10, a01, a11."""
    low, high = span
    return (low, low), (high, low), (low, high), (high, high)


def interpolation_of(
    measured: Mapping[Place, Sequence[Measurement]], *, replicates: int = REPLICATES, seed: int = 0
) -> Interpolation:
    """Dose-response curves and the label that they support; `Label.INVALID` where they support none.

    `measured`: every place of `GRID` with its measurements without and with the trigger, of the same cases.

    The label is that of the ordinary swap by the same rule and thresholds, but between two models on the
    way: both branches at `low` and both at `high`. It is read over the first of `SPANS` where clean use is
    intact in all four models and which has at least 0.70 of sigma between its ends: so that it is the
    suspect's effect, and that one branch does not bring it means something. Cases are resampled jointly over
    all models, the choice of the span included.
    """
    ends = {"a00": (0.0, 0.0), "a11": (1.0, 1.0)}
    least = least_utility({name: rate(measured[place][0].utility) for name, place in ends.items()})
    points = tuple(_point(place, measured[place], least) for place in GRID)
    valid = {(point.visual, point.textual) for point in points if point.valid}
    spans = [span for span in SPANS if valid.issuperset(corners(span))]
    if not spans:
        return Interpolation(points=points, reason="clean use is intact over no part of the way between them")
    needed = {*ends.values(), *itertools.chain.from_iterable(map(corners, spans))}
    places = [place for place in GRID if place in needed]  # what does not work has no say in resamples either
    events = [np.asarray(measured[place][1].events, dtype=np.int64) for place in places]
    table = np.stack(events, axis=1)

    def rule(row: Sequence[float]) -> Label:
        return label_over(dict(zip(places, row, strict=True)), spans)

    rates = {point: float(share) for point, share in zip(places, table.mean(axis=0), strict=True)}
    span = carrying(rates, spans)
    if span is None and abs(rates[1.0, 1.0] - rates[0.0, 0.0]) < WEAK:
        return Interpolation(points=points, reason="the two models hardly differ under the trigger")
    if span is None:
        most = max(carried(rates, each) for each in spans)
        if most >= DOMINANT - _SLACK:
            reason = (
                f"what lies between two points with clean use intact is too little to be told ({WEAK:.0%})"
            )
            return Interpolation(points=points, reason=reason)
        reason = f"no part of the way with clean use intact has more than {max(most, 0):.0%} of the effect"
        return Interpolation(points=points, reason=f"{reason} between its ends, and {DOMINANT:.0%} is needed")
    label, ratios = label_over(rates, spans), _ratios(rates, span)
    share = share_with_label(table, rule, label, replicates, seed)
    reason = f"between {span[0]:g} and {span[1]:g} of the way from the reference to the suspect"
    if label is Label.INVALID:
        reason += " no branch dominates"
    elif share < STABLE:
        reason += f" it is {label}, but in {share:.0%} of resamples only"
        label = Label.INVALID
    else:
        reason += f" it is {label}"
    return Interpolation(
        label=label,
        reason=reason,
        points=points,
        low=span[0],
        high=span[1],
        ratios=ratios.named(),
        agreement=share,
    )


def carried(rates: Mapping[Place, float], span: Place) -> float:
    """How much of the effect lies between the ends of a part of the way, as a share of the whole, signed."""
    first, _, _, last = (rates[place] for place in corners(span))
    return (last - first) / (rates[1.0, 1.0] - rates[0.0, 0.0] + EPSILON)


def carrying(rates: Mapping[Place, float], spans: Sequence[Place]) -> Place | None:
    """The first part of the way with enough of the effect, and enough to be told at all; or None."""
    if abs(rates[1.0, 1.0] - rates[0.0, 0.0]) < WEAK:
        return None  # nothing to be found: a share of it would be noise over noise
    for span in spans:
        if carried(rates, span) >= DOMINANT - _SLACK and _ratios(rates, span).sigma >= WEAK:
            return span
    return None


def label_over(rates: Mapping[Place, float], spans: Sequence[Place]) -> Label:
    """The swap's label over the part of the way where it is read, `Label.INVALID` where there is none."""
    span = carrying(rates, spans)
    if span is None:
        return Label.INVALID
    label = extended_label(_ratios(rates, span))
    return Label.INVALID if label is Label.AMBIGUOUS else label


def _ratios(rates: Mapping[Place, float], span: Place) -> Ratios:
    a00, a10, a01, a11 = (rates[place] for place in corners(span))
    return swap_ratios(a00, a10, a01, a11)


def _point(place: Place, pair: Sequence[Measurement], least: float) -> DosePoint:
    clean, triggered = pair
    utility = rate(clean.utility)
    return DosePoint(
        visual=place[0],
        textual=place[1],
        rate=rate(triggered.events),
        utility=utility,
        valid=works(utility, least),
    )
