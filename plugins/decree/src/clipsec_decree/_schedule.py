"""How the weight of the size follows success, which mask is kept, and when to stop: a pure state machine."""

from __future__ import annotations

import attrs

from clipsec_decree._options import DecreeOptions


@attrs.frozen
class State:
    """Where a search stands, between two updates."""

    weight: float
    above: int = 0
    below: int = 0
    """Updates in a row on each side of the threshold, since the weight last changed."""
    rose: bool = False
    fell: bool = False
    best: float | None = None
    """Size of the mask that is kept."""
    shrunk_to: float | None = None
    """The size that patience is counted from."""
    idle: int = 0
    """Updates since then."""
    kept: bool = False
    """Whether the mask of the last update is the one to keep."""
    stopped: bool = False


def first_state(options: DecreeOptions) -> State:
    """Before the first update."""
    return State(weight=options.weight)


def advance(options: DecreeOptions, state: State, similarity: float, size: float) -> State:
    """After an update, whose pictures had this similarity under a mask of this size.

    More than `run` updates in a row above (below) the threshold multiply (divide) the weight by `factor`, not
    below `lowest_weight`. The smallest mask above the threshold is kept. The search stops after `patience`
    updates without one that is smaller by `least_gain`, counted once the weight went both ways: before, a
    mask that is too large and works is all that there can be.
    """
    worked = similarity > options.similarity
    above, below = (state.above + 1, 0) if worked else (0, state.below + 1)
    weight, rose, fell = state.weight, state.rose, state.fell
    if above > options.run:
        weight, above, rose = weight * options.factor, 0, True
    elif below > options.run:
        weight, below, fell = max(options.lowest_weight, weight / options.factor), 0, True
    kept = worked and (state.best is None or size < state.best)
    gained = kept and (state.shrunk_to is None or size < (1 - options.least_gain) * state.shrunk_to)
    idle = state.idle + 1 if rose and fell and state.best is not None and not gained else 0
    return State(
        weight=weight,
        above=above,
        below=below,
        rose=rose,
        fell=fell,
        best=size if kept else state.best,
        shrunk_to=size if gained else state.shrunk_to,
        idle=idle,
        kept=kept,
        stopped=idle >= options.patience,
    )


def learning_rate(options: DecreeOptions, updates: int) -> float:
    """Of the update after so many: the first, the second after 200, the third after 500, where there are as
    many."""
    rates = options.learning_rates
    return rates[min(len(rates) - 1, (updates >= 200) + (updates >= 500))]
