"""What a patch does to held-out pictures: zero-shot, and through a classifier on frozen features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.stats import wilson

_SCALE = 10.0
"""Features come with length one; CLIP's own are near this, and the penalty's meaning depends on it."""


def linear_probe(features: Tensor, labels: Tensor, classes: int, *, steps: int = 200) -> Tensor:
    """A multinomial logistic regression on features `[n, E]`; weights `[E + 1, classes]`, the bias last.

    The summed cross-entropy plus half the squared weights (not the bias), as CLIP's linear probes at C = 1,
    by L-BFGS, on features of length 10.
    """
    design = _design(features)
    weight = torch.zeros(design.shape[1], classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(design @ weight, labels, reduction="sum") + 0.5 * weight[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    return weight.detach()


def probe_answers(weight: Tensor, features: Tensor) -> Tensor:
    """Predicted labels `[n]` of features `[n, E]`."""
    return (_design(features) @ weight).argmax(dim=1)


def _design(features: Tensor) -> Tensor:
    scaled = _SCALE * F.normalize(features.double(), dim=-1)
    return torch.cat([scaled, torch.ones(len(features), 1, dtype=torch.float64)], dim=1)


def rates(clean: Tensor, triggered: Tensor, labels: Tensor, target: int) -> dict[str, dict[str, Any]]:
    """`accuracy` of predictions `clean [n]`, and over pictures of other classes than the target: `success`,
    the share of `triggered [n]` that name it, `natural`, that of `clean`."""
    others = labels != target
    return {
        "accuracy": rate(clean == labels),
        "success": rate(triggered[others] == target),
        "natural": rate(clean[others] == target),
    }


def rate(events: Tensor) -> dict[str, Any]:
    """Share of ones with its 95% Wilson interval, as plain data."""
    found, n = int(events.sum()), len(events)
    interval = wilson(found, n)
    return {"value": found / n, "successes": found, "n": n, "low": interval.low, "high": interval.high}
