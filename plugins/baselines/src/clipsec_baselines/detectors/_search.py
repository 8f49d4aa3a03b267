"""One class at a time: search a small trigger, then measure it. Plain scheduler problems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.data import to_unit
from clipsec.scheduler import Backward, Encode, Problem, Tower
from clipsec_baselines.detectors._schedule import Rules, advance, start

EVALUATION_ROWS = 128
"""Pictures that one evaluation request holds; bounds memory, does not change results."""
BETAS = (0.5, 0.9)
"""Adam's, in both methods' code."""


class Trigger(Protocol):
    """The variables of one class's search."""

    def variables(self) -> list[Tensor]: ...

    def apply(self, images: Tensor) -> Tensor: ...

    def penalty(self) -> Tensor: ...

    def counts(self) -> tuple[float, ...]: ...

    def tensors(self) -> dict[str, Tensor]: ...

    def restart(self, tensors: dict[str, Tensor]) -> None: ...


@attrs.frozen(eq=False)
class Found:
    """What the search for one class found."""

    tensors: dict[str, Tensor]
    """The kept trigger; the last one when none was kept."""
    kept: bool
    """Whether a trigger ever reached the success threshold."""
    rounds: tuple[tuple[float, float, float], ...]
    """Mean success, cost and mean penalty of each round."""


def search(
    tower: Tower,
    head: Tower,
    pixels: Tensor,
    target: int,
    *,
    trigger: Trigger,
    rules: Rules,
    rounds: Sequence[Sequence[Tensor]],
    learning_rate: float,
    on_step: Callable[[int], None] = lambda steps: None,
) -> Problem:
    """Search the smallest trigger that sends pictures to `target`; returns a `Found`.

    Adam on the mean cross-entropy plus cost x penalty. A round is a sequence of batches of indices into
    `pixels` (uint8 `[n, 3, H, W]`); after each the schedule advances. Success and penalty of a batch are
    those before its update, and what is kept is the trigger that the round's last batch was measured with.
    The very last batch is only measured: nobody would measure what its update makes.
    """
    optimiser = torch.optim.Adam(trigger.variables(), lr=learning_rate, betas=BETAS)
    state, kept, history = start(rules), None, []
    last = rounds[-1][-1]
    for batches in rounds:
        hits = seen = 0
        penalties = []
        for batch in batches:
            with torch.set_grad_enabled(batch is not last):
                rows = trigger.apply(to_unit(pixels[batch]))
            features = yield Encode(tower, rows, cache=False)
            logits = yield Encode(head, features, cache=False)
            hits, seen = hits + int((logits.argmax(1) == target).sum()), seen + len(batch)
            penalty = trigger.penalty()
            penalties.append(float(penalty.detach()))
            cost = state.cost.value
            if batch is batches[-1]:
                size = sum(penalties) / len(penalties)
                history.append((hits / seen, cost, size))
                state = advance(rules, state, hits / seen, (size, *trigger.counts()))
                if state.kept:
                    kept = trigger.tensors()
            on_step(1)
            if state.stopped or batch is last:
                break
            wanted = torch.full((len(batch),), target)
            optimiser.zero_grad()
            yield Backward(F.cross_entropy(logits, wanted) + cost * penalty)
            optimiser.step()
        if state.kept and kept is not None:
            trigger.restart(kept)
        if state.stopped:
            break
    on_step(sum(map(len, rounds[len(history) :])))
    return Found(trigger.tensors() if kept is None else kept, kept is not None, tuple(history))


def predictions(tower: Tower, head: Tower, pixels: Tensor, stamp: Callable[[Tensor], Tensor]) -> Problem:
    """The classes that stamped pictures are given to, `[n]`."""
    parts = []
    for chunk in pixels.split(EVALUATION_ROWS):
        features = yield Encode(tower, stamp(to_unit(chunk)), cache=False)
        logits = yield Encode(head, features, cache=False)
        parts.append(logits.argmax(dim=1))
    return torch.cat(parts)


def clean_predictions(tower: Tower, head: Tower, pixels: Tensor, row_keys: Sequence[bytes]) -> Problem:
    """The classes that the pool's own pictures are given to, `[n]`; features come from the cache if there."""
    parts = []
    for begin in range(0, len(pixels), EVALUATION_ROWS):
        chunk = slice(begin, begin + EVALUATION_ROWS)
        features = yield Encode(tower, to_unit(pixels[chunk]), row_keys=row_keys[chunk])
        logits = yield Encode(head, features)
        parts.append(logits.argmax(dim=1))
    return torch.cat(parts)
