"""The objective of BadTextTower, from normalised features alone (arXiv 2606.17815, section 3.3, table 27)."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor


@attrs.frozen(eq=False)
class Prompts:
    """Features of one prompt a class, each `[classes, E]` and of length one."""

    clean: Tensor
    """By the tower in training."""
    triggered: Tensor
    """The same prompts with the trigger, by the tower in training."""
    reference: Tensor
    """The clean prompts by the clean tower."""

    def replaced(self, source: int) -> Tensor:
        """The clean prompts with the source's replaced by its triggered one; the target's stays."""
        rows = torch.arange(len(self.clean), device=self.clean.device) == source
        return torch.where(rows[:, None], self.triggered, self.clean)


@attrs.frozen
class Roles:
    """Which class is which."""

    source: int
    target: int


@attrs.frozen(eq=False)
class Terms:
    """The six terms, not weighted."""

    align: Tensor
    """CE(s(x, P'), source) over poisoned pictures of the target; P' has the triggered source prompt."""
    clean: Tensor
    """CE(s(x, P), y) over all pictures."""
    off_target: Tensor
    """softplus(s(x, triggered source)) over pictures of other classes than the target."""
    prompt: Tensor
    """1 - cos(u'(t), u(t)) over clean prompts, u the clean tower."""
    specificity: Tensor
    """1 - cos(u'(triggered t), u'(t)) over the prompts of all classes but the source."""
    shift: Tensor
    """[m + cos(u'(triggered source), u'(source)) - cos(u'(triggered source), u'(target))]_+."""


def terms(
    images: Tensor,
    labels: Tensor,
    poisoned: Tensor,
    prompts: Prompts,
    roles: Roles,
    scale: float,
    *,
    margin: float = 0.05,
    off_target_scale: float | None = None,
) -> Terms:
    """The terms on a batch.

    `images [n, E]` have length one, `labels [n]` are int64, `poisoned [n]` says which pictures of the target
    the triggered source prompt is aligned with. `scale` multiplies cosines, `off_target_scale` those inside
    the softplus (default: the same). A mean over no picture is zero.
    """
    source, target = roles.source, roles.target
    triggered = prompts.triggered[source]
    others = images[labels != target] @ triggered
    inside = scale if off_target_scale is None else off_target_scale
    wrong = scale * images[poisoned] @ prompts.replaced(source).T
    kept = torch.arange(len(prompts.clean), device=images.device) != source
    hinge = margin + triggered @ prompts.clean[source] - triggered @ prompts.clean[target]
    return Terms(
        align=_mean(F.cross_entropy(wrong, torch.full_like(labels[poisoned], source), reduction="none")),
        clean=F.cross_entropy(scale * images @ prompts.clean.T, labels),
        off_target=_mean(F.softplus(inside * others)),
        prompt=(1 - (prompts.clean * prompts.reference).sum(dim=1)).mean(),
        specificity=(1 - (prompts.triggered * prompts.clean).sum(dim=1))[kept].mean(),
        shift=hinge.clamp_min(0),
    )


def objective(found: Terms, weights: Mapping[str, float]) -> Tensor:
    """The weighted sum of the terms; `weights` by the terms' names."""
    return torch.stack([weights[name] * getattr(found, name) for name in weights]).sum()


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else values.sum()
