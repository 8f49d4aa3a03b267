"""BDetCLIP's score, as pure functions (Niu et al., ICML 2025)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mean_direction(features: Tensor) -> Tensor:
    """The mean of unit features `[k, E]` of one class's texts, of unit length again, `[E]`."""
    return F.normalize(F.normalize(features, dim=-1).mean(dim=0), dim=0)


def omega(pictures: Tensor, benign: Tensor, malignant: Tensor) -> Tensor:
    """`sum_c f(x) (b_c - m_c)`, `[n]`: unit features of pictures `[n, E]`, mean directions of each class's
    benign and malignant texts `[C, E]`.

    A clean picture is nearer to descriptions of classes than to noise about them; a trigger makes the texts
    matter less. Low is suspicious.
    """
    return F.normalize(pictures, dim=-1) @ (benign - malignant).sum(dim=0)
