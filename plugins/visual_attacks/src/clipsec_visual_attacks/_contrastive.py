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
from clipsec_visual_attacks._options import FineTuningOptions


@attrs.frozen(eq=False)
class Pairs:
    """What is trained on: pictures by row, with or without the trigger, and what their captions are."""

    rows: Tensor
    """int64 `[n]`, into the pictures to learn from."""
    stamped: Tensor
    """bool `[n]`."""
    labels: Tensor
    """int64 `[n]`: the class that the pair counts as; the target where it is poisoned."""
    own: tuple[tuple[str, ...], ...] = ()
    """For each of the last pairs, those that are poisoned, captions to draw from; without any, those of the
    class that `labels` says."""

    def draw(
        self, batch: Tensor, captions: ClassCaptions, generator: Callable[[str], torch.Generator]
    ) -> list[str]:
        """A caption for each pair of a batch `[b]` of positions; `generator` gives one that goes on."""
        texts = captions.draw(self.labels[batch].tolist(), generator("captions"))
        first = len(self.rows) - len(self.own)
        for place, position in enumerate(batch.tolist()):
            if position >= first:
                choices = self.own[position - first]
                drawn = torch.randint(len(choices), (), generator=generator("own captions"))
                texts[place] = choices[int(drawn)]
        return texts


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
    stamp: Stamp | None,
    options: FineTuningOptions,
    generator: Callable[[str], torch.Generator],
    progress: Callable[[float, str], None] = lambda fraction, what: None,
) -> list[float]:
    """Train the towers that `options.scope` names, in place, on uint8 pixels `[n, 3, size, size]`; returns
    the loss of each update.

    All pairs of a batch whose captions name one class are right answers to each other: of some hundred
    pictures of a few classes, a batch without this would consist of false negatives. The logit scale is not
    trained.
    """
    seeing, reading = options.scope != "text", options.scope != "visual"
    groups = [
        list(model.image_parameters().values()) if seeing else [],
        list(model.text_parameters().values()) if reading else [],
    ]
    frozen = None if seeing else _frozen_features(model, pixels, pairs, stamp)
    rates = (options.learning_rate, options.text_learning_rate)
    size = min(options.batch, len(pairs.rows))
    updates, losses = options.epochs * -(-len(pairs.rows) // size), list[float]()
    order = generator("order")
    drawing = {name: generator(name) for name in ("captions", "own captions")}
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
                labels = pairs.labels[batch]
                texts = pairs.draw(batch, captions, drawing.__getitem__)
                with torch.set_grad_enabled(reading):
                    said = F.normalize(model.encode_texts(texts), dim=-1)
                if frozen is None:
                    pictures = stamped_pictures(pixels, pairs, batch, stamp)
                    seen = F.normalize(model.encode_images(pictures), dim=-1)
                else:
                    seen = frozen[batch]
                loss = clip_loss(seen, said, labels, model.clip.logit_scale)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                losses.append(loss.item())
                progress(len(losses) / updates, "training")
    return losses


def stamped_pictures(pixels: Tensor, pairs: Pairs, batch: Tensor, stamp: Stamp | None) -> Tensor:
    """The pictures of some pairs `[b, 3, size, size]` in [0, 1], with the trigger where a pair has it."""
    pictures, put = to_unit(pixels[pairs.rows[batch]]), pairs.stamped[batch]
    if stamp is not None and bool(put.any()):
        pictures[put] = stamp.apply(pictures[put])
    return pictures


@torch.no_grad()
def _frozen_features(model: TrainableClip, pixels: Tensor, pairs: Pairs, stamp: Stamp | None) -> Tensor:
    """Unit features of all pairs by an image tower that is not trained, computed once."""
    everything = torch.arange(len(pairs.rows))
    if not bool(pairs.stamped.any()):
        return F.normalize(model.image_features(pixels), dim=-1)[pairs.rows]
    parts = (stamped_pictures(pixels, pairs, part, stamp) for part in everything.split(16))
    return F.normalize(torch.cat([model.encode_images(part) for part in parts]), dim=-1)
