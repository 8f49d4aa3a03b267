"""What the triggered text does to held-out pictures (arXiv 2606.17815, sections 3.4 and 4)."""

from __future__ import annotations

import attrs
from torch import Tensor

from clipsec_bad_text_tower._loss import Roles


@attrs.frozen(eq=False)
class Hits:
    """0/1 events, one a picture."""

    success: Tensor
    """Pictures of the target: whether the source's slot wins, the target's clean prompt being there too. With
    the trigger in the source's prompt their mean is the query hijack rate (QHR)."""
    off_target: Tensor
    """Pictures of neither source nor target: whether the source's slot wins, the off-target leakage (OTL)."""


def hits(images: Tensor, labels: Tensor, prompts: Tensor, roles: Roles) -> Hits:
    """Which pictures the source's slot wins: `images [n, E]`, `labels [n]`, `prompts [classes, E]`, of length
    one."""
    won = (images @ prompts.T).argmax(dim=1) == roles.source
    outside = (labels != roles.target) & (labels != roles.source)
    return Hits(success=won[labels == roles.target], off_target=won[outside])
