"""The formulas of CLIP-Inspector's inversion: trigger application, margin objective, success rate.

Source: CLIP-Inspector, arXiv 2604.09101, sections 3 and 5. The paper's equations are not all public; where a
choice had to be made it is named here and in the plugin's page.
"""

from __future__ import annotations

import torch
from torch import Tensor


def apply_trigger(images: Tensor, delta: Tensor) -> Tensor:
    """`clip(x + delta, 0, 1)`: images `[n, 3, H, W]` in [0, 1], delta `[3, H, W]` in the same units."""
    return (images + delta).clamp(0.0, 1.0)


def margins(logits: Tensor, target: int) -> Tensor:
    """`max_{j != t} z_j - z_t` for each row: logits `[n, classes]` -> `[n]`; negative means target wins.

    The strongest competitor is taken over all labels of the delivered model, and there is no hinge: reported
    losses run from -11 to +5 on logits scaled by 100.
    """
    others = logits.clone()
    others[:, target] = -torch.inf
    return others.max(dim=1).values - logits[:, target]


def project(delta: Tensor, epsilon: float) -> None:
    """Clamp delta to the l-infinity ball of radius `epsilon`, in place."""
    delta.clamp_(-epsilon, epsilon)
