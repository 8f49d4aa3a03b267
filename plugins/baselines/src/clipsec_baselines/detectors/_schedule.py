"""When the weight of the size changes, which trigger is kept and when to stop: pure state machines.

A round is what the authors count in: an epoch in their code (`published`), a mini-batch in ours (`proper`).
Sources: Neural Cleanse (Wang et al., S&P 2019; bolunwang/backdoor, visualizer.py) and Pixel-Backdoor (Tao et
al., CVPR 2022; Gwinhen/PixelBackdoor, inversion_torch.py).
"""

from __future__ import annotations

import math

import attrs


@attrs.frozen(kw_only=True)
class CostRules:
    """How the cost follows success and failure."""

    initial: float
    from_zero: bool
    """Neural Cleanse: the cost is 0 until `patience` rounds in a row have succeeded."""
    patience: int
    multiplier: float


@attrs.frozen
class Cost:
    """The weight of the size, and what decides its next change."""

    value: float
    successes: int = 0
    failures: int = 0
    """Rounds in a row since the last change."""
    went_up: bool = False
    went_down: bool = False
    """Since it was first set."""


def first_cost(rules: CostRules) -> Cost:
    """The cost of the first round."""
    return Cost(0.0 if rules.from_zero else rules.initial)


def next_cost(rules: CostRules, cost: Cost, succeeded: bool) -> Cost:
    """The cost after one more round.

    `patience` successes in a row multiply it by `multiplier`, `patience` failures in a row divide it by
    `multiplier ** 1.5`. From zero, `patience` successes in a row set it to `initial`; as in Neural Cleanse's
    code, the round that sets it is also the first of the next row.
    """
    successes = cost.successes + 1 if succeeded else 0
    failures = 0 if succeeded else cost.failures + 1
    if rules.from_zero and cost.value == 0:
        if successes < rules.patience:
            return Cost(0.0, successes)
        cost, successes = Cost(rules.initial), 1
    if successes >= rules.patience:
        return attrs.evolve(cost, value=cost.value * rules.multiplier, successes=0, failures=0, went_up=True)
    if failures >= rules.patience:
        lower = cost.value / rules.multiplier**1.5
        return attrs.evolve(cost, value=lower, successes=0, failures=0, went_down=True)
    return attrs.evolve(cost, successes=successes, failures=failures)


@attrs.frozen(kw_only=True)
class Rules:
    """Everything that a schedule goes by."""

    cost: CostRules
    success_threshold: float
    settle: int = 1
    """Rounds in a row that must succeed before a trigger is kept. 1 when a round is an epoch; more when it is
    a mini-batch, or the luckiest batch would decide."""
    stop_patience: int | None = None
    """Rounds without improvement after which to stop; None never stops."""
    stop_factor: float = 0.99
    """An improvement is a size below this times the best."""


@attrs.frozen
class State:
    """Where a schedule stands."""

    cost: Cost
    best: tuple[float, ...] | None = None
    """Sizes of the kept trigger; None while there is none."""
    streak: int = 0
    """Rounds in a row that succeeded."""
    stalled: int = 0
    """Rounds in a row without improvement, since the first kept trigger."""
    kept: bool = False
    """Whether the trigger of the last round is the best so far, to be kept."""
    stopped: bool = False


def start(rules: Rules) -> State:
    """Before the first round."""
    return State(first_cost(rules.cost))


def advance(rules: Rules, state: State, success_rate: float, sizes: tuple[float, ...]) -> State:
    """The state after a round with this mean success and these sizes of its trigger.

    A trigger is kept when the round succeeded and *every* size is below the best one's: Neural Cleanse has
    one size (the mask's L1 norm), Pixel-Backdoor two (its smooth count and the number of pixels). The search
    ends once the cost has gone both up and down and the first size has stalled for `stop_patience` rounds.
    """
    succeeded = success_rate >= rules.success_threshold
    streak = state.streak + 1 if succeeded else 0
    before = state.best or (math.inf,) * len(sizes)
    kept = streak >= rules.settle and all(size < best for size, best in zip(sizes, before, strict=True))
    best = sizes if kept else state.best
    stalled = state.stalled
    if best is not None:
        stalled = stalled + 1 if best[0] >= rules.stop_factor * before[0] else 0
    both_ways = state.cost.went_up and state.cost.went_down
    stopped = rules.stop_patience is not None and both_ways and stalled >= rules.stop_patience
    cost = state.cost if stopped else next_cost(rules.cost, state.cost, succeeded)
    return State(cost, best, streak, stalled, kept, stopped)
