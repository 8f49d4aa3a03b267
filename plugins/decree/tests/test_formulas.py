"""Objective, schedule and decision, against their formulas written out."""

from __future__ import annotations

import math

import attrs
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsec.results import Outcome
from clipsec_decree import DecreeOptions, Start, advance, decide, mask_size, objective, pl1, similarity
from clipsec_decree._objective import from_tanh, to_tanh
from clipsec_decree._plan import make_batches
from clipsec_decree._schedule import State, first_state, learning_rate

OPTIONS = DecreeOptions()
GOOD = Start(pl1=0.05, similarity=0.995, works=True, ended=True)


@given(st.integers(2, 9), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_similarity_is_the_mean_off_diagonal_cosine(n: int, width: int, seed: int) -> None:
    """Over every ordered pair of two different pictures."""
    features = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cosines = F.cosine_similarity(features[:, None], features[None], dim=-1)
    torch.testing.assert_close(similarity(features), cosines[~torch.eye(n, dtype=torch.bool)].mean())


def test_sizes_are_over_three_colours() -> None:
    """A mask of ones is 3 H W large and covers all of the picture; half a mask covers half."""
    mask = torch.ones(1, 4, 6)
    assert (float(mask_size(mask)), pl1(mask)) == (72.0, 1.0)
    mask[:, :2] = 0
    assert pl1(mask) == 0.5
    features = torch.eye(3)
    torch.testing.assert_close(objective(features, mask, 0.01), torch.tensor(0.36))


@given(st.floats(0.001, 0.999))
def test_tanh_space_goes_both_ways(value: float) -> None:
    """And a value in it stays in [0, 1]."""
    assert float(from_tanh(to_tanh(torch.tensor(value, dtype=torch.float64)))) == pytest.approx(value)
    assert 0 <= float(from_tanh(torch.tensor(value * 1e3))) <= 1


def run(similarities: list[float], sizes: list[float] | None = None) -> list[State]:
    states = [first_state(OPTIONS)]
    for step, value in enumerate(similarities):
        states.append(advance(OPTIONS, states[-1], value, sizes[step] if sizes else 100.0 - step))
    return states


def test_the_weight_changes_after_more_than_five_in_a_row() -> None:
    """Times five above the threshold, a fifth below it; an update on the other side starts the row anew."""
    assert [state.weight for state in run([1.0] * 6)] == [1e-3] * 6 + [5e-3]
    assert run([0.5] * 6)[-1].weight == pytest.approx(2e-4)
    assert run([1.0] * 5 + [0.5] + [1.0] * 5)[-1].weight == 1e-3
    assert run([0.5] * 200)[-1].weight == 1e-7


def test_the_smallest_mask_above_the_threshold_is_kept() -> None:
    """A smaller one that does not work is not, nor is a larger one that does."""
    states = run([1.0, 0.5, 1.0, 1.0], [9.0, 1.0, 8.0, 8.5])
    assert [state.kept for state in states] == [False, True, False, True, False]
    assert states[-1].best == 8.0


def test_patience_counts_once_the_weight_went_both_ways() -> None:
    """35 updates without a mask that is smaller by a hundredth end a search; before that, none do."""
    assert not run([1.0] * 200, [5.0] * 200)[-1].stopped
    both = [0.5] * 6 + [1.0] * 6  # the last of them is the first that counts
    sizes = [9.0] * 12
    assert not run(both + [1.0] * 33, sizes + [9.0] * 33)[-1].stopped
    assert run(both + [1.0] * 34, sizes + [8.95] * 34)[-1].stopped
    assert not run(both + [1.0] * 35, sizes + [9.0] * 20 + [8.0] * 15)[-1].stopped


def test_learning_rates_and_defaults_are_the_published_ones() -> None:
    """0.5, from update 200 on 0.1, from 500 on 0.05; what differs says so in its docstring."""
    assert [learning_rate(OPTIONS, step) for step in (0, 199, 200, 499, 500, 999)] == [
        0.5, 0.5, 0.1, 0.1, 0.05, 0.05,
    ]  # fmt: skip
    values = attrs.asdict(OPTIONS)
    published = {"batch_size": 32, "similarity": 0.99, "weight": 1e-3, "lowest_weight": 1e-7, "factor": 5.0}
    assert {name: values[name] for name in published} == published


def test_the_published_rule() -> None:
    """A working mask below a tenth of the picture is a finding, one above is clean."""
    assert decide(OPTIONS, [GOOD]).outcome is Outcome.FINDING
    decision = decide(OPTIONS, [attrs.evolve(GOOD, pl1=0.2)])
    assert (decision.outcome, decision.threshold) == (Outcome.CLEAN, 1.0)
    assert decision.score == pytest.approx(-math.log10(0.2))
    assert decide(DecreeOptions(threshold=0.04), [GOOD]).threshold_source == "set by the user"


def test_the_paired_rule() -> None:
    """The reference's mask over the suspect's; the reference itself is never flagged."""
    paired = DecreeOptions(rule="paired")
    assert decide(paired, [GOOD], [GOOD]).outcome is Outcome.CLEAN
    assert decide(paired, [GOOD], [attrs.evolve(GOOD, pl1=0.11)]).outcome is Outcome.FINDING
    assert decide(paired, [GOOD], [attrs.evolve(GOOD, pl1=0.09)]).outcome is Outcome.CLEAN


@pytest.mark.parametrize(
    ("options", "ours", "theirs"),
    [
        (OPTIONS, {"works": False}, {}),
        (OPTIONS, {"similarity": 0.9}, {}),
        (OPTIONS, {"pl1": 0.3, "ended": False}, {}),
        (DecreeOptions(rule="paired"), {}, {"works": False}),
        (DecreeOptions(rule="paired"), {"pl1": 0.01}, {"pl1": 0.5, "ended": False}),
    ],
)
def test_what_is_not_known_is_inconclusive(options: DecreeOptions, ours: dict, theirs: dict) -> None:
    """No mask, one that fails on held-out pictures, or a search that was cut short: never clean, and no
    finding that only a longer search of the reference could take back."""
    decision = decide(options, [attrs.evolve(GOOD, **ours)], [attrs.evolve(GOOD, **theirs)])
    assert decision.outcome is Outcome.INCONCLUSIVE
    assert "allow more steps" in decision.notes[0]


def test_the_smallest_of_the_starts_decides() -> None:
    """One that does not work is not the smallest."""
    starts = [attrs.evolve(GOOD, pl1=0.3), GOOD, attrs.evolve(GOOD, pl1=0.01, works=False)]
    assert decide(OPTIONS, starts).smallest == 1


def test_batches_are_shuffled_passes() -> None:
    """Every picture once before any twice, as many batches as updates."""
    options = DecreeOptions(steps=7, batch_size=4)
    batches = make_batches(16, options, torch.Generator().manual_seed(0))
    assert len(batches) == 7
    assert sorted(torch.cat(batches[:4]).tolist()) == list(range(16))
