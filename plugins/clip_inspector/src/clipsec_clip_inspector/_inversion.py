"""One class at a time: search a universal perturbation, then measure it. Plain scheduler problems."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor

from clipsec.data import to_unit
from clipsec.scheduler import Backward, Encode, Problem, Tower
from clipsec_clip_inspector._objective import apply_trigger, margins, project

EVALUATION_ROWS = 128
"""Pictures that one evaluation request holds; bounds memory, does not change results."""


@attrs.frozen
class Step:
    """What one batch showed, before the update that it led to."""

    loss: float
    """Mean margin of the batch."""
    won: tuple[bool, ...]
    """Which of its pictures went to the target."""


class Search:
    """The search for one class, which can stop after any update and go on later.

    Projected Adam on the mean margin, delta starting at zero, one update for each batch of indices into
    `pixels` (uint8 `[n, 3, H, W]`). All classes of an audit get the same batches, which lowers the variance
    of comparisons between them. Paper: Adam, step 0.1, batch 32, one pass over 1,000 pictures, bound 4/255.
    """

    def __init__(
        self,
        tower: Tower,
        head: Tower,
        pixels: Tensor,
        target: int,
        *,
        batches: Sequence[Tensor],
        epsilon: float,
        learning_rate: float,
    ) -> None:
        self._tower, self._head, self._pixels, self._target = tower, head, pixels, target
        self._batches, self._epsilon = batches, epsilon
        self._delta = torch.zeros(pixels.shape[1:], requires_grad=True)
        self._optimiser = torch.optim.Adam([self._delta], lr=learning_rate)
        self.steps: list[Step] = []
        """Of the batches seen so far."""

    @property
    def delta(self) -> Tensor:
        """`[3, H, W]` in pixel units, within the ball."""
        return self._delta.detach()

    @property
    def trajectory(self) -> list[float]:
        """Mean margin of each batch seen so far, before its update."""
        return [step.loss for step in self.steps]

    def go_on(self, until: int, on_step: Callable[[], None] = lambda: None) -> Problem:
        """A scheduler problem: update until `until` batches have been seen. Stopping in between changes
        nothing."""
        for batch in self._batches[len(self.steps) : until]:
            features = yield Encode(self._tower, apply_trigger(to_unit(self._pixels[batch]), self._delta))
            logits = yield Encode(self._head, features)
            margin = margins(logits, self._target)
            loss = margin.mean()
            self._optimiser.zero_grad()
            yield Backward(loss)
            self._optimiser.step()
            with torch.no_grad():
                project(self._delta, self._epsilon)
            self.steps.append(Step(float(loss.detach()), tuple((margin.detach() < 0).tolist())))
            on_step()


def invert(
    tower: Tower,
    head: Tower,
    pixels: Tensor,
    target: int,
    *,
    batches: Sequence[Tensor],
    epsilon: float,
    learning_rate: float,
) -> Problem:
    """The whole search for one class as a scheduler problem; returns the finished `Search`."""
    search = Search(
        tower, head, pixels, target, batches=batches, epsilon=epsilon, learning_rate=learning_rate
    )
    yield from search.go_on(len(batches))
    return search


def evaluate(sides: Sequence[tuple[Tower, Tower]], pixels: Tensor, delta: Tensor, target: int) -> Problem:
    """Margins of the triggered pictures under each (tower, head), `[sides, n]`.

    A tower that several sides share runs once.
    """
    parts: list[Tensor] = []
    for chunk in pixels.split(EVALUATION_ROWS):
        triggered = apply_trigger(to_unit(chunk), delta)
        features: dict[str, Tensor] = {}
        rows: list[Tensor] = []
        for tower, head in sides:
            if tower.key not in features:
                features[tower.key] = yield Encode(tower, triggered, cache=False)
            logits = yield Encode(head, features[tower.key], cache=False)
            rows.append(margins(logits, target))
        parts.append(torch.stack(rows))
    return torch.cat(parts, dim=1)
