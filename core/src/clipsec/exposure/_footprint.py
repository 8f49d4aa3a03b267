"""Which component carries a backdoor: the paper's rule exactly, and ours on top of it. Pure functions.

Source: DIFE (arXiv 2606.17815), section 3.3 and appendix C, for ratios, thresholds and the repair rule; the
labels redundant, interaction and unstable and the validity of hybrids are ours (`docs/dife.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from clipsec.results import Label, Rate

EPSILON = 1e-8
WEAK = 0.05
"""sigma below this is weak."""
DOMINANT = 0.70
AHEAD = 0.20
"""How far the dominant ratio must lie above the second largest."""
COMBINATIONS = ("a00", "a10", "a01", "a11")
STABLE = 0.95
REPLICATES = 2_000
UTILITY_DROP = 0.05
_SLACK = 1e-6
"""So that a ratio of 0.9 is 0.2 ahead of one of 0.7 with epsilon and in binary arithmetic too."""


@attrs.frozen
class Ratios:
    """Branch-swap ratios of four rates."""

    sigma: float
    """The absolute value of a11 - a00, the localisation signal."""
    vrs: float
    """(a10 - a00) / (a11 - a00 + epsilon): what the visual branch alone recovers."""
    trs: float
    css: float
    """(a11 - max(a10, a01)) / (a11 - a00 + epsilon): what only both together reach."""

    def named(self) -> dict[str, float]:
        """By the names that records and reports use."""
        return {"sigma": self.sigma, "VRS": self.vrs, "TRS": self.trs, "CSS": self.css}


def swap_ratios(a00: float, a10: float, a01: float, a11: float) -> Ratios:
    """The ratios of the four hybrids; `a10` has the suspect's visual branch, `a01` its textual branch."""
    gap = a11 - a00 + EPSILON
    return Ratios(abs(a11 - a00), (a10 - a00) / gap, (a01 - a00) / gap, (a11 - max(a10, a01)) / gap)


def paper_label(ratios: Ratios) -> Label:
    """The published rule: weak below 0.05 of signal; visual or textual when that ratio is above 0.70 and at
    least 0.20 above the second largest of the three; else none."""
    if ratios.sigma < WEAK:
        return Label.WEAK
    named = {Label.VISUAL: ratios.vrs, Label.TEXTUAL: ratios.trs, Label.INTERACTION: ratios.css}
    first, second = sorted(named.values(), reverse=True)[:2]
    best = max(named, key=named.__getitem__)
    if best is not Label.INTERACTION and first > DOMINANT and first - second >= AHEAD - _SLACK:
        return best
    return Label.AMBIGUOUS


def extended_label(ratios: Ratios) -> Label:
    """The published rule, and where it has no label: redundant when either branch suffices, interaction when
    only both together do."""
    published = paper_label(ratios)
    if published is not Label.AMBIGUOUS:
        return published
    if min(ratios.vrs, ratios.trs) >= DOMINANT - _SLACK:
        return Label.REDUNDANT
    if ratios.css >= DOMINANT - _SLACK:
        return Label.INTERACTION
    return Label.AMBIGUOUS


def repair_label(full: float, prompt_only: float, trigger_only: float, neither: float) -> Label:
    """Component repair of a mechanism: coupled when the full mechanism is exposed and every repaired variant
    collapses to the reference; weak when it is not exposed.

    The paper says "stays exposed" and "collapse" without numbers. Ours: sigma is at least 0.05, and no
    variant keeps more than 0.30 of it (1 - 0.70).
    """
    gap = full - neither
    if gap < WEAK:
        return Label.WEAK
    left = max(prompt_only - neither, trigger_only - neither) / (gap + EPSILON)
    return Label.COUPLED if left <= 1 - DOMINANT + _SLACK else Label.AMBIGUOUS


def agreement(
    events: Mapping[str, Sequence[int]], label: Label, *, replicates: int = REPLICATES, seed: int = 0
) -> float:
    """Share of bootstrap replicates, cases resampled jointly over the four hybrids, with this label."""
    table = np.stack([np.asarray(events[name], dtype=np.int64) for name in COMBINATIONS], axis=1)
    return share_with_label(table, lambda rates: extended_label(swap_ratios(*rates)), label, replicates, seed)


def repair_agreement(
    events: Sequence[Sequence[int]], label: Label, *, replicates: int = REPLICATES, seed: int = 0
) -> float:
    """The same for `repair_label`: events of full, prompt only, trigger only, neither."""
    table = np.stack([np.asarray(each, dtype=np.int64) for each in events], axis=1)
    return share_with_label(table, lambda rates: repair_label(*rates), label, replicates, seed)


def share_with_label(
    table: NDArray[np.int64],
    rule: Callable[[tuple[float, ...]], Label],
    label: Label,
    replicates: int,
    seed: int,
) -> float:
    """Share of bootstrap replicates of the cases `[n, models]` whose rates the rule gives this label."""
    distinct, counts = np.unique(table, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(table), counts / len(table), size=replicates)
    rates = drawn @ distinct / len(table)
    return sum(rule(tuple(map(float, row))) is label for row in rates) / replicates


def invalid_hybrid(utilities: Mapping[str, Rate]) -> str:
    """Why the hybrids cannot be used, or nothing: a clean use that works on both models must work on them.

    The clean utility of `a10` and `a01` may lie 5 points below the smaller of the two models' own; otherwise
    the branches do not share a space, and a rate of the hybrid is not about the backdoor.
    """
    if not all(name in utilities for name in COMBINATIONS):
        return ""
    least = least_utility(utilities)
    for name, whose in (("a10", "visual"), ("a01", "textual")):
        if not works(utilities[name], least):
            return (
                f"with the suspect's {whose} branch on the reference, clean use falls to "
                f"{utilities[name].value:.1%} (the models themselves: {least:.1%})"
            )
    return ""


def least_utility(utilities: Mapping[str, Rate]) -> float:
    """The smaller clean use of the two models themselves."""
    return min(utilities["a00"].value, utilities["a11"].value)


def works(utility: Rate, least: float) -> bool:
    """Whether clean use of a mixture lies at most 5 points below the smaller of the two models' own."""
    return utility.value >= least - UTILITY_DROP - _SLACK
