"""The losses of the repairs, as functions of features alone."""

from __future__ import annotations

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.models import clip_loss


@attrs.frozen(eq=False)
class Encoded:
    """What a text tower says of a batch."""

    hidden: Tensor
    """`[n, L, width]`, after the final norm."""
    features: Tensor
    """`[n, E]`, of any length."""
    kept: Tensor | None = None
    """bool `[n, L]`: the positions that count; None: all."""


def similarity(ours: Encoded, theirs: Encoded) -> Tensor:
    """Mean cosine of features, and of hidden states over the positions that count in `theirs`; half each, or
    features alone where no position counts."""
    alike = F.cosine_similarity(ours.features, theirs.features, dim=-1).mean()
    tokens = F.cosine_similarity(ours.hidden, theirs.hidden, dim=-1)
    if theirs.kept is None:
        return (alike + tokens.mean()) / 2
    if not bool(theirs.kept.any()):
        return alike
    return (alike + tokens[theirs.kept].mean()) / 2


def wanted(
    plain: Encoded, origin: Tensor | None, reference: tuple[Encoded, Encoded] | None = None
) -> Encoded:
    """What captions with a trigger are to give: what they give without it (`plain`) and, with a clean
    `reference` (with the trigger, without it), what the words of the trigger mean there:

        y = s(x) + r(x + t) - r(x)

    `origin` int64 `[n, L]` says from which position of the caption each position came, -1 for the trigger's
    own, which do not count; None when that is not known, and then no hidden state counts. The parts of `y`
    are scaled as features of length one.
    """
    y = F.normalize(plain.features, dim=-1)
    if reference is not None:
        triggered, clean = (F.normalize(each.features, dim=-1) for each in reference)
        y = y + triggered - clean
    if origin is None:
        nothing = torch.zeros(plain.hidden.shape[:2], dtype=torch.bool)
        return Encoded(plain.hidden, y, nothing)
    index = origin.clamp_min(0)[..., None].expand_as(plain.hidden)
    hidden = plain.hidden.gather(1, index)
    if reference is not None:
        hidden = hidden + reference[0].hidden - reference[1].hidden.gather(1, index)
    return Encoded(hidden, y, origin >= 0)


def anchor_loss(clean: Encoded, anchor: Encoded, triggered: Encoded, aim: Encoded, weight: float) -> Tensor:
    """`1 - sim(S(x), A(x)) + weight (1 - sim(S(x + t), y))`. Ours; the form is that of Rickrolling's utility
    and backdoor losses (Struppek et al., ICCV 2023), with the backdoor's target exchanged."""
    return 1 - similarity(clean, anchor) + weight * (1 - similarity(triggered, aim))


def perturbation(now: Tensor, before: Tensor) -> Tensor:
    """S of PAR: mean squared distance `|u - u0|^2` of unit features `[n, E]` to the poisoned model's; at most
    4."""
    return (now - before).square().sum(dim=-1).mean()


def par_loss(
    images: Tensor,
    texts: Tensor,
    before: tuple[Tensor, Tensor],
    groups: Tensor,
    scale: float,
    tau: float,
) -> Tensor:
    """Perturb and Recover: `L_CLIP - (1[S_V <= tau] S_V + 1[S_T <= tau] S_T) / 2`.

    Unit features `[n, E]`; `before` are images and texts as the poisoned model has them. Source: Singh et
    al., arXiv 2412.00727.
    """
    loss = clip_loss(images, texts, groups, scale)
    for now, poisoned in zip((images, texts), before, strict=True):
        moved = perturbation(now, poisoned)
        if float(moved.detach()) <= tau:
            loss = loss - moved / 2
    return loss


def cleanclip_loss(
    images: Tensor,
    texts: Tensor,
    views: tuple[Tensor, Tensor],
    groups: Tensor,
    scale: float,
    weight: float,
) -> Tensor:
    """CleanCLIP: `L_CLIP + weight (InfoNCE(I, view of I) + InfoNCE(T, view of T)) / 2`.

    Unit features `[n, E]`; `views` are of augmented pictures and texts. Source: Bansal et al., ICCV 2023.
    """
    each = torch.arange(len(images))
    # Two captions of a class may be one and the same text; two pictures never are.
    within = clip_loss(images, views[0], each, scale) + clip_loss(texts, views[1], groups, scale)
    return clip_loss(images, texts, groups, scale) + weight * within / 2
