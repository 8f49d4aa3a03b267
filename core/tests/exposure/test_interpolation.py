"""Between two models whose branches cannot be swapped: what the valid mixtures support, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsec.exposure import GRID, interpolation_of
from clipsec.exposure._interpolation import SPANS, corners
from clipsec.results import Interpolation, Label, Measurement
from clipsec.runner._swaps import branch_footprint

N = 100
NAMES = {"a00": (0.0, 0.0), "a10": (1.0, 0.0), "a01": (0.0, 1.0), "a11": (1.0, 1.0)}
LABELS = {Label.VISUAL, Label.TEXTUAL, Label.REDUNDANT, Label.INTERACTION, Label.INVALID}
Share = Callable[[float, float], float]


def pair(effect: float, utility: float, n: int = N) -> tuple[Measurement, Measurement]:
    """Without and with the trigger; the same first cases are hit everywhere."""
    hits, good = round(effect * n), round(utility * N)
    clean = Measurement(events=(0,) * n, utility=(1,) * good + (0,) * (N - good))
    return clean, Measurement(events=(1,) * hits + (0,) * (n - hits))


def grid(effect: Share, utility: Share, n: int = N):
    return {(v, t): pair(effect(v, t), utility(v, t), n) for v, t in GRID}


def near(within: float) -> Share:
    """Clean use works where the branches are at most so far apart."""
    return lambda v, t: 0.9 if abs(v - t) <= within else 0.2


def found(effect: Share, utility: Share, n: int = N) -> Interpolation:
    return interpolation_of(grid(effect, utility, n), replicates=200)


def test_spans_are_tried_the_longest_first_and_nearest_to_the_suspect() -> None:
    """All parts of the way but the whole, which is the swap that is invalid."""
    assert SPANS[:4] == ((0.25, 1.0), (0.0, 0.75), (0.5, 1.0), (0.25, 0.75))
    assert len(SPANS) == len(set(SPANS)) == 9
    assert (0.0, 1.0) not in SPANS


@pytest.mark.parametrize(
    ("effect", "label", "span"),
    [
        (lambda v, t: float(v >= 0.75), Label.VISUAL, (0.5, 1.0)),
        (lambda v, t: float(t >= 0.5), Label.TEXTUAL, (0.25, 0.75)),
        (lambda v, t: float(max(v, t) >= 0.75), Label.REDUNDANT, (0.5, 1.0)),
        (lambda v, t: float(min(v, t) >= 0.75), Label.INTERACTION, (0.5, 1.0)),
    ],
)
def test_the_swap_is_read_where_the_effect_lies_and_clean_use_is_intact(effect, label, span) -> None:
    """Branches half of the way apart work, wider ones do not: the label is that of the branch at work."""
    answer = found(effect, near(0.5))
    assert answer.label is label
    assert (answer.low, answer.high) == span
    assert answer.agreement == 1.0


@pytest.mark.parametrize(
    ("effect", "utility", "reason"),
    [
        (lambda v, t: v, near(0.0), "over no part"),
        (lambda v, t: v, near(0.5), "50% of the effect"),
        (lambda v, t: 0.55 * (v >= 0.75) + 0.45 * (t >= 0.75), near(0.5), "no branch dominates"),
    ],
)
def test_without_support_the_swap_stays_invalid(effect: Share, utility: Share, reason: str) -> None:
    """No valid part, an effect that builds up over all of the way, two branches that share it."""
    answer = found(effect, utility)
    assert answer.label is Label.INVALID
    assert reason in answer.reason


def test_a_label_of_few_cases_is_not_given() -> None:
    answer = found(lambda v, t: 0.75 * (v >= 0.75) + 0.25 * (min(v, t) >= 0.75), near(0.5), n=20)
    assert answer.label is Label.INVALID
    assert answer.agreement is not None
    assert answer.agreement < 0.95
    assert "resamples" in answer.reason


rates = st.integers(0, 20).map(lambda k: k / 20)
tables = st.fixed_dictionaries({place: st.tuples(rates, st.sampled_from((0.2, 0.9))) for place in GRID})


def of_table(table) -> dict:
    """The two ends are the models themselves, which work."""
    ends = {place: (table[place][0], 0.9) for place in ((0.0, 0.0), (1.0, 1.0))}
    return {place: pair(*values) for place, values in {**table, **ends}.items()}


@given(tables)
@settings(max_examples=60, deadline=None)
def test_a_label_has_four_valid_corners_and_most_of_the_effect(table) -> None:
    """Whatever the rates: else the swap stays invalid, and a reason is given."""
    answer = interpolation_of(of_table(table), replicates=50)
    assert answer.label in LABELS
    assert answer.reason
    assert len(answer.points) == len(GRID)
    if answer.label is not Label.INVALID:
        at = {(point.visual, point.textual): point for point in answer.points}
        a00, a10, a01, a11 = (at[place] for place in corners((answer.low, answer.high)))
        assert all(point.valid for point in (a00, a10, a01, a11))
        whole = at[1.0, 1.0].rate.value - at[0.0, 0.0].rate.value
        assert (a11.rate.value - a00.rate.value) / whole >= 0.7 - 1e-5


@given(tables)
@settings(max_examples=60, deadline=None)
def test_swapping_the_branches_swaps_the_label(table) -> None:
    mirrored = {(v, t): table[t, v] for v, t in GRID}
    names = {Label.VISUAL: Label.TEXTUAL, Label.TEXTUAL: Label.VISUAL}
    one, other = (interpolation_of(of_table(each), replicates=50) for each in (table, mirrored))
    assert other.label is names.get(one.label, one.label)
    assert (one.low, one.high, one.agreement) == (other.low, other.high, other.agreement)


@given(tables, st.data())
@settings(max_examples=60, deadline=None)
def test_mixtures_that_do_not_work_have_no_say(table, data: st.DataObject) -> None:
    """Other rates in their place give the same answer."""
    broken = [place for place in GRID if table[place][1] < 0.5 and place[0] != place[1]]
    other = {**table, **{place: (data.draw(rates), table[place][1]) for place in broken}}
    one, again = (interpolation_of(of_table(each), replicates=50) for each in (table, other))
    assert (one.label, one.low, one.high, one.ratios) == (again.label, again.low, again.high, again.ratios)


def swap(effect: Share, utility: Share):
    return {name: pair(effect(*place), utility(*place)) for name, place in NAMES.items()}


def test_an_invalid_swap_says_nothing_of_resamples() -> None:
    mark = branch_footprint(0, "d/i", swap(lambda v, t: v, near(0.5)), (), 0)
    assert (mark.label, mark.agreement) == (Label.INVALID, None)
    assert "clean use falls to 20.0%" in mark.reason


def test_that_a_trigger_does_nothing_takes_no_hybrid_to_see() -> None:
    """Weak is about the two models themselves, whatever their hybrids do."""
    mark = branch_footprint(0, "d/i", swap(lambda v, t: 0.6 * (v != t), near(0.5)), (), 0)
    assert mark.label is Label.WEAK
    assert mark.agreement == 1.0
    assert "clean use falls to 20.0%" in mark.reason


def test_points_are_counts_of_the_measurements() -> None:
    answer = found(lambda v, t: v, near(0.5))
    at = {(point.visual, point.textual): point for point in answer.points}
    assert attrs.astuple(at[0.75, 0.25].rate)[:2] == (75, N)
    assert at[1.0, 0.0].utility.value == 0.2
    assert [place for place in GRID if not at[place].valid] == [(v, t) for v, t in GRID if abs(v - t) > 0.5]
