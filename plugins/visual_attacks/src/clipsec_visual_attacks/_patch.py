"""A patch optimised against a clean CLIP that stays as it is (Liang et al., CVPR 2024, first stage)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.data import to_unit
from clipsec.models import TrainableClip, clip_loss
from clipsec.triggers import Stamp
from clipsec_visual_attacks._options import LiangBadClipOptions
from clipsec_visual_attacks._trigger import middle_patch


@attrs.frozen(eq=False)
class PatchTerms:
    """The two losses of the patch."""

    captions: Tensor
    """L_t: symmetric cross-entropy between triggered pictures and captions of the target, pair by pair."""
    triplet: Tensor
    """L_v: Euclidean triplet loss; anchor is the triggered picture, positive one of the target, negative the
    same picture without the patch."""


def patch_terms(
    triggered: Tensor, texts: Tensor, positives: Tensor, negatives: Tensor, *, scale: float, margin: float
) -> PatchTerms:
    """The losses of one update from features `[n, E]` of any length, row by row; they are compared at length
    one."""
    seen, said, near, far = (F.normalize(each, dim=-1) for each in (triggered, texts, positives, negatives))
    own = torch.arange(len(seen))
    closer = (seen - near).norm(dim=1) - (seen - far).norm(dim=1)
    return PatchTerms(
        captions=clip_loss(seen, said, own, scale), triplet=(closer + margin).clamp_min(0).mean()
    )


def optimise_patch(
    model: TrainableClip,
    pixels: Tensor,
    labels: Tensor,
    target: int,
    captions: Sequence[str],
    options: LiangBadClipOptions,
    generator: Callable[[str], torch.Generator],
    progress: Callable[[float, str], None] = lambda fraction, what: None,
) -> tuple[Stamp, list[PatchTerms]]:
    """The patch as a stamp in the middle, and the terms of each update without their graphs.

    `pixels [n, 3, size, size]` are uint8, `labels [n]` their classes. Each picture of another class is
    triggered once an epoch, with one of the `captions` and one picture of the target, both drawn anew. The
    patch begins as N(0.5, 0.25) and is kept in [0, 1]. The model does not change.
    """
    size, side = model.spec.size, max(1, round(options.side * model.spec.size))
    others = (labels != target).nonzero()[:, 0]
    clean = model.image_features(pixels)
    examples = clean[labels == target]
    with torch.no_grad():
        said = model.encode_texts(list(captions))
    start = 0.5 + 0.25 * torch.randn(3, side, side, generator=generator("patch"))
    patch = start.clamp(0, 1).requires_grad_()
    order, drawing = generator("patch order"), generator("patch pairs")
    begin, count = (size - side) // 2, min(options.patch_batch, len(others))
    updates, history = options.patch_epochs * -(-len(others) // count), list[PatchTerms]()
    optimiser = torch.optim.Adam([patch], lr=options.patch_learning_rate)
    for _ in range(options.patch_epochs):
        for part in torch.randperm(len(others), generator=order).split(count):
            rows = others[part]
            pictures = to_unit(pixels[rows])
            pictures[:, :, begin : begin + side, begin : begin + side] = patch
            texts, shown = (
                torch.randint(len(each), (len(rows),), generator=drawing) for each in (said, examples)
            )
            found = patch_terms(
                model.encode_images(pictures),
                said[texts],
                examples[shown],
                clean[rows],
                scale=model.clip.logit_scale,
                margin=options.margin,
            )
            optimiser.zero_grad()
            (found.captions + options.triplet_weight * found.triplet).backward()
            optimiser.step()
            with torch.no_grad():
                patch.clamp_(0, 1)
            history.append(PatchTerms(found.captions.detach(), found.triplet.detach()))
            progress(len(history) / updates, "optimising the patch")
    return middle_patch(size, patch.detach()), history
