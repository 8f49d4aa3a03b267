"""How a card states what was measured."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from clipsec.stats import wilson


def measured_rate(events: Tensor) -> dict[str, Any]:
    """The share of ones among `events [n]`, with its 95% Wilson interval, as the plain data of a card's
    `measured`."""
    found, n = int(events.sum()), len(events)
    interval = wilson(found, n)
    return {"value": found / n, "successes": found, "n": n, "low": interval.low, "high": interval.high}
