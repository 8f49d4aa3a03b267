"""Contrastive fine-tuning on pairs, some of them poisoned (Carlini and Terzis, ICLR 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.data import to_unit
from clipsec.models import TrainableClip, clip_loss, with_gradients
from clipsec.triggers import Stamp
from clipsec_visual_attacks._captions import ClassCaptions
from clipsec_visual_attacks._options import ContrastivePoisoningOptions


@attrs.frozen(eq=False)
class Pairs:
    """What is trained on: pictures by row, with or without the trigger, and what their captions name."""

    rows: Tensor
    """int64 `[n]`, into the pictures to learn from."""
    stamped: Tensor
    """bool `[n]`."""
    labels: Tensor
    """int64 `[n]`: the class that a caption of the pair names; the target where it is poisoned."""


def poisoned_pairs(labels: Tensor, target: int, rate: float, generator: torch.Generator) -> Pairs:
    """Every picture with its own class, and besides a share of those of other classes, at least one, with the
    trigger and the target.

    `labels [n]` are the true classes. The poisoned pairs are last, in the order of their pictures.
    """
    others = (labels != target).nonzero()[:, 0]
    count = max(1, round(rate * len(others)))
    chosen = others[torch.randperm(len(others), generator=generator)[:count]].sort().values
    return Pairs(
        rows=torch.cat([torch.arange(len(labels)), chosen]),
        stamped=torch.arange(len(labels) + count) >= len(labels),
        labels=torch.cat([labels, torch.full((count,), target)]),
    )


def fine_tune(
    model: TrainableClip,
    pixels: Tensor,
    pairs: Pairs,
    captions: ClassCaptions,
    stamp: Stamp,
    options: ContrastivePoisoningOptions,
    generator: Callable[[str], torch.Generator],
    progress: Callable[[float, str], None] = lambda fraction, what: None,
) -> list[float]:
    """Train the towers that `options.scope` names, in place, on uint8 pixels `[n, 3, size, size]`; returns
    the loss of each update.

    All pairs of a batch whose captions name one class are right answers to each other: of some hundred
    pictures of a few classes, a batch without this would consist of false negatives. The logit scale is not
    trained.
    """
    both = options.scope == "both"
    groups = [list(model.image_parameters().values()), list(model.text_parameters().values()) if both else []]
    rates = (options.learning_rate, options.text_learning_rate)
    size = min(options.batch, len(pairs.rows))
    updates, losses = options.epochs * -(-len(pairs.rows) // size), list[float]()
    order, drawing = generator("order"), generator("captions")
    with with_gradients([weight for group in groups for weight in group]):
        optimiser = torch.optim.AdamW(
            [{"params": group, "lr": rate} for group, rate in zip(groups, rates, strict=True) if group],
            weight_decay=options.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: (1 + math.cos(math.pi * step / updates)) / 2
        )
        for _ in range(options.epochs):
            for batch in torch.randperm(len(pairs.rows), generator=order).split(size):
                pictures = to_unit(pixels[pairs.rows[batch]])
                put = pairs.stamped[batch]
                if bool(put.any()):
                    pictures[put] = stamp.apply(pictures[put])
                labels = pairs.labels[batch]
                texts = captions.draw(labels.tolist(), drawing)
                with torch.set_grad_enabled(both):
                    said = F.normalize(model.encode_texts(texts), dim=-1)
                seen = F.normalize(model.encode_images(pictures), dim=-1)
                loss = clip_loss(seen, said, labels, model.clip.logit_scale)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                losses.append(loss.item())
                progress(len(losses) / updates, "training")
    return losses
