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


@attrs.frozen(eq=False)
class Inversion:
    """What the search for one class found."""

    delta: Tensor
    """`[3, H, W]` in pixel units, within the ball."""
    trajectory: tuple[float, ...]
    """Mean margin of each step's batch, before that step's update."""


def invert(
    tower: Tower,
    head: Tower,
    pixels: Tensor,
    target: int,
    *,
    batches: Sequence[Tensor],
    epsilon: float,
    learning_rate: float,
    on_step: Callable[[], None] = lambda: None,
) -> Problem:
    """Search the perturbation that sends every picture to `target`.

    Projected Adam on the mean margin, delta starting at zero, one update for each batch of indices into
    `pixels` (uint8 `[n, 3, H, W]`). All classes of an audit get the same batches, which lowers the variance
    of comparisons between them. Returns an `Inversion`. Paper: Adam, step 0.1, batch 32, one pass over 1,000
    pictures, bound 4/255.
    """
    delta = torch.zeros(pixels.shape[1:], requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=learning_rate)
    trajectory: list[float] = []
    for batch in batches:
        features = yield Encode(tower, apply_trigger(to_unit(pixels[batch]), delta))
        logits = yield Encode(head, features)
        loss = margins(logits, target).mean()
        optimiser.zero_grad()
        yield Backward(loss)
        optimiser.step()
        with torch.no_grad():
            project(delta, epsilon)
        trajectory.append(float(loss.detach()))
        on_step()
    return Inversion(delta.detach(), tuple(trajectory))


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
