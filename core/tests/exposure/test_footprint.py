"""Footprint labels: the published tables exactly, and what ours add."""

from __future__ import annotations

import numpy as np
import pytest

from clipsec.exposure import (
    agreement,
    extended_label,
    invalid_hybrid,
    paper_label,
    rate,
    repair_agreement,
    repair_label,
    swap_ratios,
)
from clipsec.results import Label

PUBLISHED = {
    "BadEncoder": ((0.0988, 0.9998, 0.0988, 0.9998), (1.0000, 0.0000, 0.0000), Label.VISUAL),
    "Liang-BadCLIP": ((0.0992, 0.9993, 0.0994, 0.9994), (0.9999, 0.0002, 0.0001), Label.VISUAL),
    "ContrastivePoisoning": ((0.0991, 0.9999, 0.0994, 1.0000), (0.9999, 0.0003, 0.0001), Label.VISUAL),
    "ToxicTextCLIP": ((0.0013, 0.0011, 0.0011, 0.0009), (0.5, 0.5, 0.5), Label.WEAK),
    "BadTextTower": ((0.0010, 0.0010, 0.9910, 0.9910), (0.0, 1.0, 0.0), Label.TEXTUAL),
}
"""DIFE, table 20: rates a00, a10, a01, a11; VRS, TRS, CSS; label."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_table(name: str) -> None:
    rates, expected, label = PUBLISHED[name]
    ratios = swap_ratios(*rates)
    assert (ratios.vrs, ratios.trs, ratios.css) == pytest.approx(expected, abs=6e-5)
    assert paper_label(ratios) is label
    assert extended_label(ratios) is label


def test_the_published_component_repair() -> None:
    """Bai-BadCLIP: full 1.0000, prompt only 0.1002, trigger only 0.0998, both clean 0.1019."""
    assert repair_label(1.0000, 0.1002, 0.0998, 0.1019) is Label.COUPLED


@pytest.mark.parametrize(
    ("rates", "published", "ours"),
    [
        ((0.0, 0.9, 0.9, 0.9), Label.AMBIGUOUS, Label.REDUNDANT),
        ((0.0, 0.1, 0.1, 0.9), Label.AMBIGUOUS, Label.INTERACTION),
        ((0.0, 0.6, 0.3, 1.0), Label.AMBIGUOUS, Label.AMBIGUOUS),
        ((0.0, 0.9, 0.7, 1.0), Label.VISUAL, Label.VISUAL),
        ((0.0, 0.9, 0.75, 1.0), Label.AMBIGUOUS, Label.REDUNDANT),
        ((0.10, 0.10, 0.14, 0.14), Label.WEAK, Label.WEAK),
    ],
)
def test_what_the_paper_has_no_label_for(rates, published: Label, ours: Label) -> None:
    """Either tower, both towers only, no tower, the 0.20 lead at its edge, and a signal below 0.05."""
    assert paper_label(swap_ratios(*rates)) is published
    assert extended_label(swap_ratios(*rates)) is ours


@pytest.mark.parametrize(
    ("rates", "label"),
    [((1.0, 0.9, 0.1, 0.1), Label.AMBIGUOUS), ((0.12, 0.1, 0.1, 0.1), Label.WEAK)],
)
def test_a_mechanism_whose_half_still_works_is_not_coupled(rates, label: Label) -> None:
    assert repair_label(*rates) is label


def events(n: int, *rates: float) -> dict[str, list[int]]:
    rng = np.random.default_rng(0)
    draws = rng.random(n)
    return {
        name: (draws < share).astype(int).tolist() for name, share in zip(("a00", "a10", "a01", "a11"), rates)
    }


def test_a_label_is_stable_when_resamples_agree() -> None:
    """A clear case agrees always; one at the edge does not reach 95%."""
    assert agreement(events(400, 0.0, 0.99, 0.0, 1.0), Label.VISUAL) == 1.0
    edge = events(60, 0.0, 0.72, 0.0, 1.0)
    label = extended_label(swap_ratios(*(float(np.mean(each)) for each in edge.values())))
    assert agreement(edge, label) < 0.95


def test_agreement_of_component_repair() -> None:
    full, none = [1] * 100, [0] * 100
    assert repair_agreement([full, none, none, none], Label.COUPLED) == 1.0


@pytest.mark.parametrize(("hybrid", "bad"), [(0.86, False), (0.84, True)])
def test_hybrids_must_work_on_clean_inputs(hybrid: float, bad: bool) -> None:
    """5 points below the smaller of the two models' own utility, not more."""
    made = {"a00": 0.95, "a10": hybrid, "a01": 0.93, "a11": 0.90}
    found = invalid_hybrid(
        {name: rate([1] * round(100 * v) + [0] * round(100 * (1 - v))) for name, v in made.items()}
    )
    assert bool(found) is bad
    if bad:
        assert "visual" in found


def test_hybrids_without_a_measured_utility_are_not_called_invalid() -> None:
    assert invalid_hybrid({}) == ""
