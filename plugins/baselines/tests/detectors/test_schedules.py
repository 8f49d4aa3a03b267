"""The schedules against the authors' rules: hand-computed traces, and what holds for every history."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsec_baselines.detectors._schedule import (
    Cost,
    CostRules,
    Rules,
    State,
    advance,
    first_cost,
    next_cost,
    start,
)

NEURAL_CLEANSE = CostRules(initial=1e-3, from_zero=True, patience=2, multiplier=4.0)
PIXEL_BACKDOOR = CostRules(initial=1e-3, from_zero=False, patience=2, multiplier=4.0)


def costs(rules: CostRules, history: str) -> list[float]:
    """The cost after each round, in thousandths; `+` is a success, `-` a failure."""
    cost, values = first_cost(rules), []
    for sign in history:
        cost = next_cost(rules, cost, sign == "+")
        values.append(cost.value * 1000)
    return values


# By hand: x 4 up, / 4 ** 1.5 = / 8 down.
@pytest.mark.parametrize(
    ("rules", "history", "expected"),
    [
        (NEURAL_CLEANSE, "+-++", [0, 0, 0, 1]),
        (NEURAL_CLEANSE, "++++++", [0, 1, 4, 4, 16, 16]),
        (NEURAL_CLEANSE, "++---+--", [0, 1, 1, 1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 64]),
        (NEURAL_CLEANSE, "--------", [0] * 8),
        (PIXEL_BACKDOOR, "++++", [1, 4, 4, 16]),
        (PIXEL_BACKDOOR, "+-+-+-", [1] * 6),
        (PIXEL_BACKDOOR, "--++", [1, 1 / 8, 1 / 8, 1 / 2]),
    ],
)
def test_costs_by_hand(rules: CostRules, history: str, expected: list[float]) -> None:
    """Zero until `patience` successes, then up after `patience` successes and down after as many failures."""
    assert costs(rules, history) == pytest.approx(expected)


def test_five_published_epochs_never_regularise_a_mask() -> None:
    """Neural Cleanse with patience 5 in epochs: all five epochs of a perfect search run at cost zero."""
    rules, cost = CostRules(initial=1e-3, from_zero=True, patience=5, multiplier=2.0), Cost(0.0)
    for _ in range(5):
        assert cost.value == 0.0
        cost = next_cost(rules, cost, True)
    assert cost.value == 1e-3


def test_five_published_epochs_never_adapt_the_pixel_cost() -> None:
    """Pixel-Backdoor with patience 10 in epochs keeps its first cost, whatever happens."""
    rules = CostRules(initial=1e-3, from_zero=False, patience=10, multiplier=1.5)
    assert costs(rules, "+++++") == costs(rules, "-----") == [1.0] * 5


any_rules = st.builds(
    CostRules,
    initial=st.sampled_from([1e-3, 0.1]),
    from_zero=st.booleans(),
    patience=st.integers(1, 6),
    multiplier=st.floats(1.1, 4),
)


@given(any_rules, st.lists(st.booleans(), max_size=60))
def test_every_change_of_cost_follows_patience_equal_rounds(rules: CostRules, history: list[bool]) -> None:
    """The cost changes only after `patience` rounds of one kind, up after successes, down after failures, by
    the multiplier or its power 1.5."""
    cost = first_cost(rules)
    for i, succeeded in enumerate(history):
        after = next_cost(rules, cost, succeeded)
        if after.value != cost.value:
            assert history[i + 1 - rules.patience : i + 1] == [succeeded] * rules.patience
            assert (after.value > cost.value) == succeeded
            if cost.value > 0:
                factor = rules.multiplier if succeeded else rules.multiplier**-1.5
                assert after.value == pytest.approx(cost.value * factor)
        cost = after


@given(any_rules, st.lists(st.booleans(), max_size=60))
def test_a_steady_run_moves_the_cost_once_every_patience_rounds(
    rules: CostRules, history: list[bool]
) -> None:
    """Whatever came before, a long run of successes raises the cost at least once every `patience` rounds."""
    cost = first_cost(rules)
    for succeeded in history:
        cost = next_cost(rules, cost, succeeded)
    for _ in range(3):
        before = cost.value
        for _ in range(rules.patience):
            cost = next_cost(rules, cost, True)
        assert cost.value > before


@given(any_rules, st.lists(st.booleans(), max_size=60))
def test_the_flags_say_which_ways_the_cost_went(rules: CostRules, history: list[bool]) -> None:
    """`went_up` and `went_down` are what happened since the cost was first set; setting it is neither."""
    cost, up, down = first_cost(rules), False, False
    for succeeded in history:
        before, cost = cost.value, next_cost(rules, cost, succeeded)
        if before > 0:
            up, down = up or cost.value > before, down or cost.value < before
        elif rules.patience == 1 and cost.value:
            up = True
        assert (cost.went_up, cost.went_down) == (up, down)


RULES = Rules(cost=NEURAL_CLEANSE, success_threshold=0.9, stop_patience=3)
round_results = st.lists(
    st.tuples(st.sampled_from([0.0, 0.89, 0.9, 1.0]), st.floats(1, 100), st.floats(1, 100)), max_size=50
)


@given(round_results)
def test_what_is_kept_is_the_smallest_that_works(history: list[tuple[float, float, float]]) -> None:
    """With one size: after any history the best is the smallest size among the rounds that succeeded."""
    state = start(Rules(cost=NEURAL_CLEANSE, success_threshold=0.9))
    seen: list[float] = []
    for rate, size, _ in history:
        state = advance(Rules(cost=NEURAL_CLEANSE, success_threshold=0.9), state, rate, (size,))
        assert state.kept == (rate >= 0.9 and size < min(seen, default=math.inf))
        seen += [size] if rate >= 0.9 else []
        assert state.best == ((min(seen),) if seen else None)


@given(round_results)
def test_with_two_sizes_both_must_shrink(history: list[tuple[float, float, float]]) -> None:
    """Pixel-Backdoor resets only when the smooth count and the number of pixels both improve."""
    rules = Rules(cost=PIXEL_BACKDOOR, success_threshold=0.9)
    state, best = start(rules), (math.inf, math.inf)
    for rate, *sizes in history:
        state = advance(rules, state, rate, tuple(sizes))
        better = rate >= 0.9 and sizes[0] < best[0] and sizes[1] < best[1]
        assert state.kept == better
        best = (sizes[0], sizes[1]) if better else best
        assert not state.stopped


@given(round_results, st.integers(1, 5))
def test_a_lucky_batch_keeps_nothing(history: list[tuple[float, float, float]], settle: int) -> None:
    """A trigger is kept only at the end of `settle` successes in a row."""
    rules = Rules(cost=NEURAL_CLEANSE, success_threshold=0.9, settle=settle)
    state = start(rules)
    for i, (rate, size, _) in enumerate(history):
        state = advance(rules, state, rate, (size,))
        if state.kept:
            row = [r for r, _, _ in history[i + 1 - settle : i + 1]]
            assert len(row) == settle
            assert min(row) >= 0.9


def run(history: list[tuple[float, float]]) -> list[State]:
    states = [start(RULES)]
    for rate, size in history:
        states.append(advance(RULES, states[-1], rate, (size,)))
    return states[1:]


def test_early_stop_by_hand() -> None:
    """It stops once the cost went both ways and the best has not shrunk by 1% for three rounds."""
    both_ways = [(1, 50.0), (1, 40.0), (1, 30.0), (0, 9.0), (0, 9.0)]  # set, up after three, down after two
    states = run([*both_ways, (1, 20.0), (0, 9.0), (1, 20.0), (1, 19.9)])
    assert [state.stalled for state in states] == [0, 0, 0, 1, 2, 0, 1, 2, 3]
    assert [state.stopped for state in states] == [False] * 8 + [True]
    assert (states[4].cost.went_up, states[4].cost.went_down) == (True, True)
    assert states[-1].best == (19.9,)
    assert states[-1].kept


@given(round_results)
def test_nothing_stops_before_a_trigger_worked_and_the_cost_went_both_ways(
    history: list[tuple[float, float, float]],
) -> None:
    """An early stop needs a kept trigger, an up, a down and `stop_patience` rounds without improvement."""
    state = start(RULES)
    for rate, size, _ in history:
        before, state = state, advance(RULES, state, rate, (size,))
        if state.stopped:
            assert state.best is not None
            assert before.cost.went_up
            assert before.cost.went_down
            assert state.stalled >= 3
            break
