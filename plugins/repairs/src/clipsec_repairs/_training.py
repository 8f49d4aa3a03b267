"""What the trainings share: gradients for a while, a rate that falls, a delivery that is whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from clipsec.errors import DetectionError
from clipsec.models import TrainableClip, with_gradients
from clipsec.protocols import Context
from clipsec.store import whole_folder


@contextmanager
def training(
    weights: Iterable[nn.Parameter], learning_rate: float, weight_decay: float
) -> Iterator[torch.optim.AdamW]:
    """AdamW over the weights, which have gradients inside of the block only."""
    with with_gradients(weights) as chosen:
        yield torch.optim.AdamW(chosen, lr=learning_rate, weight_decay=weight_decay)


def update(optimiser: torch.optim.AdamW, loss: Tensor, done: int, steps: int, rate: float) -> None:
    """One step, at a rate that falls from `rate` to zero as a cosine. Raises `DetectionError` for a loss that
    is no number."""
    if not bool(torch.isfinite(loss)):
        raise DetectionError(
            "the repair's loss is not finite", remedy="Repair with a lower learning rate (learning_rate)."
        )
    optimiser.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * done / steps)) / 2
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def deliver(context: Context, model: TrainableClip) -> Path:
    """The model in `context.output`, whole or not at all. Raises `StoreError` or `UnsupportedModelError`."""
    assert context.output is not None
    with whole_folder(context.output) as folder:
        model.save(folder)
    return context.output
