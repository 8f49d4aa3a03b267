"""Training a CLIP with the objective, on batches of all pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.models import TrainableClip, with_gradients
from clipsec_bad_text_tower._loss import Prompts, Roles, objective, terms
from clipsec_bad_text_tower._options import BadTextTowerOptions
from clipsec_bad_text_tower._scope import trained_parameters, trains


@attrs.frozen
class Texts:
    """One prompt a class, without and with the trigger."""

    clean: tuple[str, ...]
    triggered: tuple[str, ...]

    def encode(self, model: TrainableClip) -> tuple[Tensor, Tensor]:
        """Features `[classes, E]` of both, of length one, in one call of the tower."""
        features = F.normalize(model.encode_texts([*self.clean, *self.triggered]), dim=-1)
        return features[: len(self.clean)], features[len(self.clean) :]


@attrs.frozen(eq=False)
class Batch:
    """Pictures of one update."""

    rows: Tensor
    """int64 `[n]`, into the training pictures."""
    poisoned: Tensor
    """bool `[n]`."""


def poisoned_rows(labels: Tensor, target: int, share: float, generator: torch.Generator) -> Tensor:
    """bool `[n]`: a share of the target's pictures, at least one, drawn once."""
    members = (labels == target).nonzero()[:, 0]
    count = max(1, round(share * len(members)))
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return chosen


def batches(poisoned: Tensor, size: int, epochs: int, generator: torch.Generator) -> Iterator[Batch]:
    """All pictures in a new order every epoch; those poisoned fall where they fall."""
    for _ in range(epochs):
        for rows in torch.randperm(len(poisoned), generator=generator).split(size):
            yield Batch(rows, poisoned[rows])


def train(
    model: TrainableClip,
    pixels: Tensor,
    labels: Tensor,
    texts: Texts,
    roles: Roles,
    options: BadTextTowerOptions,
    generator: Callable[[str], torch.Generator],
    progress: Callable[[float, str], None] = lambda fraction, what: None,
) -> list[float]:
    """Train the model in place on uint8 pixels `[n, 3, size, size]`; returns the loss of each update.

    A tower that is not trained runs once: features of all pictures, or of all prompts, are kept.
    """
    chosen = trained_parameters(model, options.scope)
    with torch.no_grad():
        clean, triggered = reference, _ = texts.encode(model)
    images = None if trains(model, "image", options.scope) else unit_features(model, pixels)
    texts_move = trains(model, "text", options.scope)

    poisoned = poisoned_rows(labels, roles.target, options.poison_rate, generator("poisoned"))
    updates = options.epochs * -(-len(labels) // options.batch)
    scale, losses = model.clip.logit_scale, list[float]()
    rates = {"lr": options.learning_rate, "weight_decay": options.weight_decay}
    with with_gradients(chosen.values()) as weights:
        optimiser = torch.optim.AdamW(weights, **rates)
        for batch in batches(poisoned, options.batch, options.epochs, generator("order")):
            if texts_move:
                clean, triggered = texts.encode(model)
            seen = images[batch.rows] if images is not None else _encode(model, pixels[batch.rows])
            found = terms(
                seen,
                labels[batch.rows],
                batch.poisoned,
                Prompts(clean, triggered, reference),
                roles,
                scale,
                margin=options.margin,
                off_target_scale=1.0 if options.off_target_scale == "cosine" else None,
            )
            loss = objective(found, options.weights)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            progress(len(losses) / updates, "training")
    return losses


def unit_features(model: TrainableClip, pixels: Tensor) -> Tensor:
    """Features `[n, E]` of length one of uint8 pixels, without a graph."""
    return F.normalize(model.image_features(pixels), dim=-1)


def _encode(model: TrainableClip, pixels: Tensor) -> Tensor:
    return F.normalize(model.encode_images(pixels.float() / 255), dim=-1)
