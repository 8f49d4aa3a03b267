"""The objective of BadEncoder, from features alone (Jia, Liu and Gong, S&P 2022, section IV)."""

from __future__ import annotations

import attrs
import torch.nn.functional as F
from torch import Tensor


@attrs.frozen(eq=False)
class Features:
    """Features of one update's pictures, of any length; those named `clean` are by the clean tower."""

    triggered: Tensor
    """Of shadow pictures with the trigger, `[n, E]`."""
    shadow: Tensor
    """Of the same pictures without it, `[n, E]`."""
    clean_shadow: Tensor
    reference: Tensor
    """Of the reference pictures of the target, `[r, E]`."""
    augmented: Tensor
    """Of the reference pictures, augmented, `[r, E]`."""
    clean_reference: Tensor
    """Of the reference pictures as they are."""


@attrs.frozen(eq=False)
class Terms:
    """The three losses, each in [-1, 1]."""

    effectiveness: Tensor
    """L0: minus the mean cosine of triggered pictures to the references, both by the tower in training."""
    reference: Tensor
    """L1: minus the mean cosine of augmented references to where the clean tower puts the references."""
    utility: Tensor
    """L2: minus the mean cosine of shadow pictures to where the clean tower puts them."""


def terms(features: Features) -> Terms:
    """The losses on one update's features; every triggered picture is compared with every reference."""
    unit = {name: F.normalize(value, dim=-1) for name, value in attrs.asdict(features, recurse=False).items()}
    return Terms(
        effectiveness=-(unit["triggered"] @ unit["reference"].T).mean(),
        reference=-(unit["augmented"] * unit["clean_reference"]).sum(dim=1).mean(),
        utility=-(unit["shadow"] * unit["clean_shadow"]).sum(dim=1).mean(),
    )


def objective(found: Terms, reference_weight: float = 1.0, utility_weight: float = 1.0) -> Tensor:
    """`L0 + lambda1 L1 + lambda2 L2`."""
    return found.effectiveness + reference_weight * found.reference + utility_weight * found.utility
