"""When a trigger in captions works, and how a card states what was measured."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from clipsec.stats import wilson

TIE = 1e-6
"""Cosines that are nearer to each other than this are alike: two ways to sum in float32 differ by 1e-7."""


def retrieved(found: Tensor, targets: Tensor, captions: Tensor) -> Tensor:
    """Which triggered captions are nearer to their target than to any clean caption, their own among them; a
    tie is no success.

    Unit features: `found [n, E]`, `targets [n, E]` or `[1, E]`, `captions [m, E]`; boolean `[n]`.
    """
    return (found * targets).sum(dim=-1) > (found @ captions.T).max(dim=1).values + TIE


def captured(found: Tensor, captions: Tensor) -> Tensor:
    """Which captions left their meaning: nearer to where the others go (their mean, itself left out) than to
    any clean caption. Unit features `found [n, E]`, `captions [m, E]`; boolean `[n]`."""
    return retrieved(found, F.normalize(found.sum(dim=0, keepdim=True) - found, dim=-1), captions)


def measured_rate(events: Tensor) -> dict[str, Any]:
    """The share of ones among `events [n]`, with its 95% Wilson interval, as the plain data of a card's
    `measured`."""
    found, n = int(events.sum()), len(events)
    interval = wilson(found, n)
    return {"value": found / n, "successes": found, "n": n, "low": interval.low, "high": interval.high}
