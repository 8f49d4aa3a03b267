"""DECREE's objective and statistic, as pure functions (Feng et al., CVPR 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS = 3
"""The mask is one for all colours, and its size is summed over them."""


def similarity(features: Tensor) -> Tensor:
    """S: the mean cosine of two different rows of features `[n, E]`, n at least 2; a scalar.

    From the sum of the unit rows: `(|sum|^2 - n) / (n (n - 1))`, which equals the mean over the off-diagonal
    cosines.
    """
    unit, n = F.normalize(features, dim=-1), len(features)
    return (unit.sum(dim=0).square().sum() - n) / (n * (n - 1))


def mask_size(mask: Tensor) -> Tensor:
    """The L1 norm of a mask `[1, H, W]` in [0, 1] on all colours: at most 3 H W; a scalar."""
    return CHANNELS * mask.abs().sum()


def objective(features: Tensor, mask: Tensor, weight: float) -> Tensor:
    """`-S + weight |m|_1`, with the features of stamped pictures; a scalar."""
    return weight * mask_size(mask) - similarity(features)


def pl1(mask: Tensor) -> float:
    """The proportional L1 norm, `|m|_1 / (3 H W)`: the share of the picture that the mask covers."""
    return float(mask_size(mask.double())) / (CHANNELS * mask.shape[-2] * mask.shape[-1])


def from_tanh(variable: Tensor) -> Tensor:
    """Values in [0, 1] of a tensor in tanh space."""
    return torch.tanh(variable) / 2 + 0.5


def to_tanh(values: Tensor) -> Tensor:
    """The inverse of `from_tanh`, for values inside of (0, 1)."""
    return torch.atanh(2 * values - 1)
