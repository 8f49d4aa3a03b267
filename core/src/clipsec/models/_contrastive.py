"""The loss that CLIPs are trained with, from features alone."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def clip_loss(images: Tensor, texts: Tensor, groups: Tensor, scale: float) -> Tensor:
    """CLIP's symmetric cross-entropy (Radford et al. 2021, figure 3): unit features `[n, E]` twice.

    Pairs of one group (`[n]`: the same class, or the same picture) are all right answers to each other, each
    an equal share; with groups of one this is CLIP's own.
    """
    logits = scale * images @ texts.T
    same = (groups[:, None] == groups[None]).to(logits)
    share = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, share) + F.cross_entropy(logits.T, share)) / 2
